"""The objective, term by term (eqs. 3-8, 14-17) and as unit prices (eqs. 23-26)."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qpart_fx import Device, Link, Objective, Request, Server
from qpart_fx.prices import (
    device_price_per_mac,
    download_price_per_bit,
    price,
    server_price_per_mac,
    upload_price_per_bit,
)

amounts = st.floats(0, 1e10)
weights = st.floats(0, 10)
rates = st.floats(1e3, 1e10)
requests = st.builds(
    Request,
    max_accuracy_drop=st.just(0.01),
    device=st.builds(Device, clock_hz=rates, cycles_per_mac=st.floats(0.1, 100), kappa=st.floats(0, 1e-20)),
    server=st.builds(Server, clock_hz=rates, cycles_per_mac=st.floats(0.01, 10), price_per_s=weights),
    link=st.builds(
        Link,
        uplink_bps=rates,
        downlink_bps=rates,
        round_trip_s=st.floats(0, 1),
        transmit_power_w=weights,
        receive_power_w=weights,
    ),
    objective=st.builds(Objective, time=weights, energy=weights, cost=weights),
    inferences_per_download=st.integers(1, 10_000),
    device_holds_head=st.booleans(),
)


def table_ii(request: Request) -> dict[str, float]:
    """2,000,000 MACs on the device, 12,000,000 on the server, a head of 4 Mbit, an activation of 1 Mbit."""
    return price(request, device_macs=2e6, server_macs=12e6, download_bits=4e6, upload_bits=1e6).as_dict()


@settings(max_examples=200, deadline=None)
@given(requests, amounts, amounts, amounts, amounts)
def test_the_objective_is_the_amounts_times_their_prices(
    request: Request, o1: float, o2: float, z_w: float, z_x: float
) -> None:
    made = price(request, device_macs=o1, server_macs=o2, download_bits=z_w, upload_bits=z_x)
    by_unit = (
        device_price_per_mac(request) * o1
        + server_price_per_mac(request) * o2
        + download_price_per_bit(request) * z_w
        + upload_price_per_bit(request) * z_x
        + request.objective.time * request.link.round_trip_s
    )
    assert made.objective(request) == pytest.approx(by_unit, rel=1e-9, abs=1e-300)


@settings(max_examples=50, deadline=None)
@given(requests, st.lists(st.tuples(amounts, amounts, amounts, amounts), min_size=1, max_size=5))
def test_a_table_is_priced_as_its_entries_are(request: Request, rows: list[tuple[float, float, float, float]]) -> None:
    names = ("device_macs", "server_macs", "download_bits", "upload_bits")
    columns = np.array(rows).T
    table = price(request, **dict(zip(names, columns, strict=True)))
    for place, row in enumerate(rows):
        single = price(request, **dict(zip(names, row, strict=True)))
        assert {name: values[place] for name, values in table.as_dict().items()} == single.as_dict()
        assert table.objective(request)[place] == single.objective(request)


def test_table_ii_by_hand() -> None:
    request = Request.paper(
        device=Device(clock_hz=200e6, cycles_per_mac=5, kappa=1e-27),
        server=Server(clock_hz=3e9, cycles_per_mac=1.25, price_per_s=2.0),
    )
    assert table_ii(request) == pytest.approx(
        {
            "device_time_s": 0.05,  # 10 million cycles at 200 MHz
            "device_energy_j": 0.0004,  # each 1e-27 * (200 MHz)^2 = 0.04 nJ
            "download_time_s": 0.02,  # 4 Mbit at 200 Mbit/s
            "receive_energy_j": 0.02,  # at 1 W
            "upload_time_s": 0.005,
            "transmit_energy_j": 0.005,
            "round_trip_s": 0.0,
            "server_time_s": 0.005,  # 15 million cycles at 3 GHz
            "server_cost": 0.01,
        }
    )
    made = price(request, device_macs=2e6, server_macs=12e6, download_bits=4e6, upload_bits=1e6)
    assert made.time_s == pytest.approx(0.08)
    assert made.energy_j == pytest.approx(0.0254)
    assert made.objective(request) == pytest.approx(0.1154)


def test_unit_prices_of_table_ii_by_hand() -> None:
    request = Request.paper(server=Server(clock_hz=3e9, cycles_per_mac=1.25, price_per_s=2.0))
    assert device_price_per_mac(request) == pytest.approx(2.5e-8 + 5 * request.device.kappa * 4e16)
    assert server_price_per_mac(request) == pytest.approx(3 * 1.25 / 3e9)
    assert upload_price_per_bit(request) == download_price_per_bit(request) == pytest.approx(1e-8)


def test_a_download_is_shared_by_the_inferences_that_use_it() -> None:
    once = table_ii(Request.paper())
    shared = table_ii(Request.paper(inferences_per_download=1000))
    assert shared["download_time_s"] == pytest.approx(once["download_time_s"] / 1000)
    assert shared["receive_energy_j"] == pytest.approx(once["receive_energy_j"] / 1000)
    rest = set(once) - {"download_time_s", "receive_energy_j"}
    assert {name: shared[name] for name in rest} == {name: once[name] for name in rest}


def test_a_head_that_the_device_holds_is_not_downloaded() -> None:
    request = Request.paper(device_holds_head=True)
    held = table_ii(request)
    assert held["download_time_s"] == held["receive_energy_j"] == download_price_per_bit(request) == 0.0
    assert held["upload_time_s"] > 0


def test_the_two_directions_have_rates_and_powers_of_their_own() -> None:
    link = Link(uplink_bps=1e6, downlink_bps=4e6, transmit_power_w=3.0, receive_power_w=0.5, round_trip_s=0.1)
    made = table_ii(Request.paper(link=link))
    assert made["upload_time_s"] == pytest.approx(1.0)
    assert made["transmit_energy_j"] == pytest.approx(3.0)
    assert made["download_time_s"] == pytest.approx(1.0)
    assert made["receive_energy_j"] == pytest.approx(0.5)
    assert made["round_trip_s"] == 0.1


@pytest.mark.parametrize("term", ["time", "energy", "cost"])
def test_each_weight_weighs_its_own_term(term: str) -> None:
    only = Objective(**{name: float(name == term) for name in ("time", "energy", "cost")})
    request = dataclasses.replace(Request.paper(), objective=only)
    made = price(request, device_macs=2e6, server_macs=12e6, download_bits=4e6, upload_bits=1e6)
    expected = {"time": made.time_s, "energy": made.energy_j, "cost": made.server_cost}[term]
    assert made.objective(request) == expected > 0
