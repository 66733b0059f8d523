"""The paper's MNIST experiment on the real digits: Fig. 5's shape, and a budget that is kept at every cut."""

from __future__ import annotations

from itertools import pairwise
from types import ModuleType

import pytest

import qpart_fx as qpart
from benchmarks.paper.mnist import PAPER, Experiment, Parts
from benchmarks.paper.six_layers import WIDTHS


@pytest.fixture(scope="module")
def experiment(zoo: ModuleType) -> Experiment:
    return Experiment(Parts.of(zoo.ROOT / "mnist"), budget=0.01, seed=0, epochs=2)


@pytest.fixture(scope="module")
def splits(experiment: Experiment) -> list[qpart.SplitModel]:
    return [experiment.quantized(PAPER, layers, 0.01) for layers in range(len(WIDTHS))]


def test_accuracy_stays_within_a_point_at_every_cut(experiment: Experiment, splits: list[qpart.SplitModel]) -> None:
    for split in splits:
        found = split.verify([experiment.parts.test])
        assert found.reference >= 0.96
        assert found.drop <= 0.01
        assert found.upper_bound is not None
        assert found.upper_bound <= 0.01  # 10,000 digits are enough to prove it


def test_time_and_energy_rise_and_server_cost_falls(splits: list[qpart.SplitModel]) -> None:
    plans = [split.plan for split in splits if split.plan is not None]
    assert len(plans) == len(WIDTHS)
    for before, after in pairwise(plans):
        assert after.time_s > before.time_s
        assert after.energy_j > 0.95 * before.energy_j  # widths are whole numbers
        assert after.cost < before.cost
    assert plans[-1].cost == 0
