"""A device and a server with a link of the kernel's between them, in network namespaces of their own. Skipped without
root; what it takes is measured by ``python -m benchmarks.serving.link``."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import qpart_fx as qpart
from benchmarks.serving.link import Subject, playing
from tests.networks import images
from tests.shaped_link import why_not

from .running import PATIENCE_S, REQUEST, profile

if (reason := why_not()) is not None:
    pytest.skip(reason, allow_module_level=True)


def asked(uplink_bps: float) -> qpart.Request:
    return replace(REQUEST, device_holds_head=False, link=qpart.Link(uplink_bps, uplink_bps))


def test_a_plan_follows_the_link(tmp_path: Path) -> None:
    """Slow, then fast, then slow: each time another plan is asked for, for about the rate that there is, and no call is
    lost meanwhile."""
    subject = Subject("net", profile(), images(16))
    with playing(subject, slower=1) as (link, device, cache):
        link.bps = 2e5
        device.ask("open", request=asked(1e7), replanning=True, cache=str(cache))
        for bps in (2e5, 2e7, 2e5):
            link.bps = bps
            until = time.monotonic() + PATIENCE_S
            while time.monotonic() < until:
                made: list[dict[str, Any]] = device.ask("call", times=10)
                assert {each["source"] for each in made} <= {"server", "device"}
                found = device.ask("link")["uplink_bps"]
                if found is not None and bps / 4 < found < bps * 4:
                    break
            assert bps / 4 < found < bps * 4
