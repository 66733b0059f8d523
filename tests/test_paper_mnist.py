"""The paper's MNIST experiment on the real digits: Fig. 5's shape, and a budget that is kept at every cut."""

from __future__ import annotations

from itertools import pairwise
from types import ModuleType

import pytest

import qpart_fx as qpart
from benchmarks.paper_mnist import Row, measure, train


@pytest.fixture(scope="module")
def rows(zoo: ModuleType) -> list[Row]:
    (images, labels), test = zoo.mnist("train"), zoo.mnist("test")
    model = train((images[:-1024], labels[:-1024]), epochs=2)
    return measure(model, (images[-1024:], labels[-1024:]), test, qpart.Request.paper(0.01))


def test_accuracy_stays_within_a_point_at_every_cut(rows: list[Row]) -> None:
    assert [row.layers for row in rows] == list(range(7))
    for row in rows:
        assert row.accuracy + row.drop >= 0.96  # the float model's
        assert row.drop <= 0.01
        assert row.upper_bound is not None
        assert row.upper_bound <= 0.01  # 10,000 digits are enough to prove it


def test_time_and_energy_rise_and_server_cost_falls(rows: list[Row]) -> None:
    for before, after in pairwise(row.plan for row in rows):
        assert after.time_s > before.time_s
        assert after.energy_j > before.energy_j
        assert after.cost < before.cost
    assert rows[-1].plan.cost == 0
