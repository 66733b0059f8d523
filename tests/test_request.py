"""What a request accepts, what it refuses, and what the refusal says."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from typing import Any

import pytest

from qpart_fx import Device, Link, Objective, QPartError, Request, RequestError, Server
from qpart_fx.request import PAPER_KAPPA, PAPER_SERVER_PRICE_PER_S

NAN, INF = math.nan, math.inf
VALID: dict[type, dict[str, Any]] = {
    Device: {"clock_hz": 1e8, "cycles_per_mac": 5.0},
    Server: {"clock_hz": 1e9, "cycles_per_mac": 1.0},
    Link: {"uplink_bps": 1e6, "downlink_bps": 2e6},
    Objective: {},
    Request: {
        "max_accuracy_drop": 0.01,
        "device": Device(clock_hz=1e8, cycles_per_mac=5.0),
        "server": Server(clock_hz=1e9, cycles_per_mac=1.0),
        "link": Link(uplink_bps=1e6, downlink_bps=2e6),
    },
}
POSITIVE = {
    Device: "clock_hz cycles_per_mac",
    Server: "clock_hz cycles_per_mac",
    Link: "uplink_bps downlink_bps",
    Request: "deadline_s energy_budget_j",
}
NOT_NEGATIVE = {
    Device: "kappa",
    Server: "price_per_s",
    Link: "round_trip_s transmit_power_w receive_power_w",
    Objective: "time energy cost",
    Request: "max_accuracy_drop",
}
BAD: list[tuple[type, str, Any]] = [
    *(
        (cls, name, bad)
        for cls, names in POSITIVE.items()
        for name in names.split()
        for bad in (0, -1.0, NAN, INF, "x")
    ),
    *((cls, name, bad) for cls, names in NOT_NEGATIVE.items() for name in names.split() for bad in (-1e-9, NAN, INF)),
    *((Request, "max_accuracy_drop", bad) for bad in (1.001, 100, None, "one percent")),
    *((Request, "inferences_per_download", bad) for bad in (0, -1, 1.5, NAN, None)),
    *((Request, "device_holds_head", bad) for bad in ("maybe", 2, None)),
    *((Request, name, bad) for name in ("device", "server", "link", "objective") for bad in (None, 3, "fast")),
    *((Device, "memory_bytes", bad) for bad in (0, -1, 1.5, INF, "much")),
    *((Device, "weight_bits", bad) for bad in ((), 8, "48", None)),
    *((Device, "activation_bits", bad) for bad in ((), 8, "48")),
    (Device, "cycles_per_mac", {}),
    (Device, "cycles_per_mac", [(4, 1.0)]),
    (Device, "cycles_per_mac", None),
]


@pytest.mark.parametrize(("cls", "name", "bad"), BAD)
def test_a_bad_value_is_named_with_its_class_and_field(cls: type, name: str, bad: Any) -> None:
    with pytest.raises(RequestError) as caught:
        cls(**{**VALID[cls], name: bad})
    assert f"{cls.__name__}.{name} = {bad!r}: " in str(caught.value)
    assert isinstance(caught.value, QPartError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("width", [1, 17, 0, -8, 4.5])
def test_a_width_that_nobody_can_store_is_named_with_its_place(width: float) -> None:
    with pytest.raises(RequestError, match=rf"Device\.weight_bits\.1 = {width}: "):
        Device(clock_hz=1e8, cycles_per_mac=5.0, weight_bits=(8, width))  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [1, 17, 4.5, "eight"])
def test_cycles_at_a_width_that_nobody_can_store_are_refused(width: Any) -> None:
    with pytest.raises(RequestError, match=rf"Device\.cycles_per_mac\.{width}.* = {width!r}: "):
        Device(clock_hz=1e8, cycles_per_mac={8: 1.0, width: 2.0})


@pytest.mark.parametrize("cycles", [0, -1.0, NAN, INF, "many", None])
def test_impossible_cycles_are_named_with_their_width(cycles: Any) -> None:
    with pytest.raises(RequestError, match=rf"Device\.cycles_per_mac\.4 = {cycles!r}: "):
        Device(clock_hz=1e8, cycles_per_mac={4: cycles, 8: 1.0})


@pytest.mark.parametrize("cls", VALID)
def test_an_unknown_field_is_refused(cls: type) -> None:
    with pytest.raises(RequestError, match=rf"{cls.__name__}\.colour = 'red': unexpected"):
        cls(**VALID[cls], colour="red")


@pytest.mark.parametrize(("cls", "name"), [(cls, name) for cls, fields in VALID.items() for name in fields])
def test_a_missing_field_is_named(cls: type, name: str) -> None:
    fields = {key: value for key, value in VALID[cls].items() if key != name}
    with pytest.raises(RequestError, match=rf"{cls.__name__}\.{name}: field required"):
        cls(**fields)


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(RequestError) as caught:
        Device(clock_hz=-1, cycles_per_mac=NAN)
    assert "Device.clock_hz = -1" in str(caught.value)
    assert "Device.cycles_per_mac = nan" in str(caught.value)


def test_fields_can_be_given_by_position() -> None:
    device, server = Device(1e8, 5.0, 1e-27, 1000, (8, 4)), Server(1e9, 1.0, 2.0)
    link, objective = Link(1e6, 2e6, 0.1, 0.5, 0.2), Objective(1, 2, 3)
    assert device == Device(clock_hz=1e8, cycles_per_mac=5.0, kappa=1e-27, memory_bytes=1000, weight_bits=(4, 8))
    assert server == Server(clock_hz=1e9, cycles_per_mac=1.0, price_per_s=2.0)
    assert link == Link(uplink_bps=1e6, downlink_bps=2e6, round_trip_s=0.1, transmit_power_w=0.5, receive_power_w=0.2)
    assert Request(0.01, device, server, link, objective, 9, True, 1.0, 2.0) == Request(
        max_accuracy_drop=0.01, device=device, server=server, link=link, objective=Objective(time=1, energy=2, cost=3),
        inferences_per_download=9, device_holds_head=True, deadline_s=1.0, energy_budget_j=2.0,
    )  # fmt: skip


def test_a_bad_value_by_position_is_named_too() -> None:
    with pytest.raises(RequestError, match=r"Device\.cycles_per_mac = -5"):
        Device(1e8, -5)


def test_the_ends_of_the_budget_are_legal() -> None:
    assert [Request.paper(drop).max_accuracy_drop for drop in (0, 1)] == [0.0, 1.0]


def test_widths_are_sorted_and_unique() -> None:
    assert Device(1e8, 5.0, weight_bits=[8, 2, 16, 8]).weight_bits == (2, 8, 16)  # type: ignore[arg-type]
    assert Device(1e8, 5.0).weight_bits == tuple(range(2, 17))


def test_values_that_cross_have_the_widths_of_weights_unless_others_are_named() -> None:
    assert Device(1e8, 5.0, weight_bits=(4, 8)).crossing_bits == (4, 8)
    assert Device(1e8, 5.0, weight_bits=(4, 8), activation_bits=[16, 8, 8]).crossing_bits == (8, 16)  # type: ignore[arg-type]


def test_a_layer_takes_the_cycles_of_the_least_width_that_holds_it() -> None:
    device = Device(1e8, {8: 2, 4: 1, 12: 5})
    assert [device.cycles_at(bits) for bits in (2, 4, 5, 8, 9, 12, 13, 16)] == [1, 1, 2, 2, 5, 5, 5, 5]
    assert device.float_cycles_per_mac == 5
    assert (
        [Device(1e8, 3.0).cycles_at(bits) for bits in (2, 16)] == [3, 3] == 2 * [Device(1e8, 3.0).float_cycles_per_mac]
    )


def test_the_speed_depends_on_the_width_where_widths_of_the_device_differ_in_it() -> None:
    assert Device(1e8, {4: 1, 8: 2}).speed_depends_on_width
    assert Device(1e8, {4: 1, 8: 2}, weight_bits=(4,)).speed_depends_on_width  # MACs without weights take 2
    assert not Device(1e8, {4: 1, 8: 2}, weight_bits=(6, 8, 16)).speed_depends_on_width
    assert not Device(1e8, {4: 2, 8: 2}).speed_depends_on_width
    assert not Device(1e8, 2).speed_depends_on_width


def test_cycles_by_width_are_a_value_like_any_other() -> None:
    given = {8: 1, 4: 0.5}
    device = Device(1e8, given)
    given[4] = 9.0
    assert device == Device(1e8, {4: 0.5, 8: 1.0}) != Device(1e8, {4: 0.5, 8: 2.0})
    assert device.cycles_per_mac == {4: 0.5, 8: 1.0}
    assert hash(device) == hash(Device(1e8, {4: 0.5, 8: 1.0}))
    assert "cycles_per_mac={4: 0.5, 8: 1.0}" in repr(device)
    assert pickle.loads(pickle.dumps(device)) == copy.deepcopy(device) == device
    assert dataclasses.replace(device, kappa=0.0).cycles_per_mac == device.cycles_per_mac
    with pytest.raises(TypeError):
        device.cycles_per_mac[4] = 1.0  # type: ignore[index]


@pytest.mark.parametrize("cls", VALID)
def test_requests_are_immutable_and_hashable(cls: type) -> None:
    made = cls(**VALID[cls])
    name = dataclasses.fields(made)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, name, 1.0)
    assert hash(made) == hash(cls(**VALID[cls]))


def test_replace_makes_a_variant_and_validates_it() -> None:
    request = Request.paper()
    variant = dataclasses.replace(request, deadline_s=2.0)
    assert (variant.deadline_s, request.deadline_s) == (2.0, None)
    assert dataclasses.replace(variant, deadline_s=None) == request
    with pytest.raises(RequestError, match=r"Request\.deadline_s = -1"):
        dataclasses.replace(request, deadline_s=-1)


def test_requests_survive_copies_and_pickles() -> None:
    request = Request.paper(0.02, deadline_s=1.0)
    assert pickle.loads(pickle.dumps(request)) == copy.deepcopy(request) == request


def test_calibration_takes_no_part_in_comparisons() -> None:
    batches = [object()]
    request = Request.paper(calibration=batches)
    assert request.calibration is batches
    assert request == Request.paper()
    assert hash(request) == hash(Request.paper())
    assert dataclasses.replace(request, deadline_s=1.0).calibration is batches
    assert "calibration" not in repr(request)


def test_a_generator_of_batches_is_not_consumed() -> None:
    request = Request.paper(calibration=iter([1, 2, 3]))
    assert list(request.calibration or ()) == [1, 2, 3]


def test_the_paper_s_request_is_table_ii() -> None:
    assert Request.paper() == Request(
        max_accuracy_drop=0.01,
        device=Device(clock_hz=200e6, cycles_per_mac=5, kappa=PAPER_KAPPA),
        server=Server(clock_hz=3e9, cycles_per_mac=5 / 4, price_per_s=PAPER_SERVER_PRICE_PER_S),
        link=Link(uplink_bps=200e6, downlink_bps=200e6, transmit_power_w=1, receive_power_w=1),
        objective=Objective(time=1, energy=1, cost=1),
        inferences_per_download=1,
        device_holds_head=False,
    )


def test_fields_of_the_table_can_be_replaced() -> None:
    server = Server(clock_hz=1e9, cycles_per_mac=1.0)
    request = Request.paper(0.05, server=server, inferences_per_download=7)
    assert (request.max_accuracy_drop, request.server, request.inferences_per_download) == (0.05, server, 7)
    assert request.device == Request.paper().device
    with pytest.raises(RequestError, match=r"Request\.colour"):
        Request.paper(colour="red")
