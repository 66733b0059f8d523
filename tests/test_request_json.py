"""Requests as JSON: equal again, and every mistake is named."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

import qpart_fx as qpart

REQUEST = qpart.Request(
    max_accuracy_drop=0.01,
    device=qpart.Device(1e9, {4: 0.5, 8: 1}, memory_bytes=1000, weight_bits=(4, 8), activation_bits_inside=8),
    server=qpart.Server(3e9, 1.25, 2.0),
    link=qpart.Link(1e6, 2e6, 0.01),
    objective=qpart.Objective(1, 2, 3),
    inferences_per_download=10,
    device_holds_head=True,
    deadline_s=1.0,
    energy_budget_j=2.0,
)


@pytest.mark.parametrize("request_", [REQUEST, qpart.Request.paper()])
def test_a_request_comes_back_equal(request_: qpart.Request) -> None:
    assert qpart.Request.from_json(request_.to_json()) == request_
    assert qpart.Request.from_json(request_.to_json()).to_json() == request_.to_json()


def test_what_is_local_stays_here() -> None:
    given = dataclasses.replace(REQUEST, calibration=[1, 2])
    assert given.to_json() == REQUEST.to_json()


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("max_accuracy_drop", "0.01", "Request.max_accuracy_drop"),
        ("max_accuracy_drop", 2, "Request.max_accuracy_drop"),
        ("max_accuracy_drop", None, "Request.max_accuracy_drop"),
        ("device.clock_hz", -1, "Request.device.clock_hz"),
        ("device.clock_hz", True, "Request.device.clock_hz"),
        ("device.cycles_per_mac", {"4": "x"}, "Request.device.cycles_per_mac"),
        ("device.cycles_per_mac", {"99": 1}, "Request.device.cycles_per_mac"),
        ("device.weight_bits", 8, "Request.device.weight_bits"),
        ("device.weight_bits", [], "Request.device.weight_bits"),
        ("device.runtime", "nothing", "Request.device.runtime"),
        ("device.memory_bytes", 1.5, "Request.device.memory_bytes"),
        ("link", [], "Request.link"),
        ("link.uplink_bps", float("nan"), "Request.link.uplink_bps"),
        ("server.more", 1, "Request.server.more"),
        ("device_holds_head", 1, "Request.device_holds_head"),
        ("calibration", [], "Request.calibration"),
        ("device_holds", {}, "Request.device_holds"),
    ],
)
def test_mistakes_are_named(path: str, value: Any, words: str) -> None:
    record = json.loads(REQUEST.to_json())
    *above, name = path.split(".")
    place = record
    for each in above:
        place = place[each]
    place[name] = value
    with pytest.raises(qpart.RequestError, match=words):
        qpart.Request.from_json(json.dumps(record))


def test_missing_fields_are_named() -> None:
    with pytest.raises(qpart.RequestError, match=r"Request\.link: field required"):
        qpart.Request.from_json('{"max_accuracy_drop": 0.1}')


@pytest.mark.parametrize("text", ["", "[]", "{", "1", b"\xff", "[" * 100_000])
def test_other_texts_are_refused(text: str | bytes) -> None:
    with pytest.raises(qpart.RequestError, match="not a request"):
        qpart.Request.from_json(text)
