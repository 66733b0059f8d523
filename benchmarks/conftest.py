"""Beside each benchmark a fixed workload is timed, so that a slower machine is no regression."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from .micro.workload import workload_s


@pytest.fixture(autouse=True)
def workload_beside(request: pytest.FixtureRequest) -> Iterator[None]:
    """Before and after, since a machine is faster now than then; on one thread, as operators are small."""
    benchmark: Any = request.getfixturevalue("benchmark") if "benchmark" in request.fixturenames else None
    if benchmark is None or benchmark.disabled:
        yield
        return
    torch.set_num_threads(1)
    before = workload_s()
    yield
    benchmark.extra_info["workload_s"] = (before + workload_s()) / 2
