"""The server's price as its load: smooth, bounded, and so that devices do more under pressure."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from types import SimpleNamespace

import pytest

import qpart_fx as qpart
from qpart_fx.serving import load as load_module
from qpart_fx.serving.load import Load, priced_by_load

from .running import REQUEST, profile


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(load_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_utilisation_follows_what_runs(clock: list[float]) -> None:
    load = Load()
    assert (load.utilisation, load.factor) == (0.0, 1.0)
    seen = []
    for _ in range(1000):  # half of the time
        clock[0] += 0.2
        load.ran(0.1)
        seen.append(load.utilisation)
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(0.5, abs=0.02)
    assert load.factor == pytest.approx(2.0, rel=0.1)
    clock[0] += 1000
    assert load.factor == 1.0


def test_the_factor_is_bounded_and_rises_with_the_queue(clock: list[float]) -> None:
    load = Load()
    factors = []
    for place in range(101):
        load.waiting(place / 100)
        factors.append(load.factor)
    assert factors == sorted(factors)
    assert factors[0] == 1.0
    assert factors[-1] <= 21
    assert all(after / before <= 2 ** (1 / 4) + 1e-9 for before, after in pairwise(factors[:90]))


def test_the_objective_is_that_of_a_slower_server() -> None:
    priced = priced_by_load(REQUEST, 4.0)
    plan, slower = (
        profile().plan(each, cut="input")
        for each in (priced, dataclasses.replace(REQUEST, server=dataclasses.replace(REQUEST.server, clock_hz=3e9 / 4)))
    )
    assert plan.objective == pytest.approx(slower.objective)


def test_a_busy_server_leaves_more_to_the_device() -> None:
    on_device = []
    for factor in (1.0, 20.0, 1e6):
        plan = profile().plan(priced_by_load(dataclasses.replace(REQUEST, link=qpart.Link(1e8, 1e8)), factor))
        on_device.append(sum(layer.macs for layer in plan.layers if layer.bits is not None))
    assert on_device == sorted(on_device)
    assert on_device[0] < on_device[-1]


def test_who_minds_no_cost_gets_the_same() -> None:
    request = dataclasses.replace(REQUEST, objective=qpart.Objective(cost=0.0))
    assert priced_by_load(request, 8.0) == request
    assert priced_by_load(REQUEST, 1.0) == REQUEST
