"""Options under several limits: against enumeration, and what is claimed where no answer is found."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from qpart_fx.solver import limited as module
from qpart_fx.solver.limited import Limited

Floats = NDArray[np.float64]

pytestmark = pytest.mark.filterwarnings("error")


def random_instance(seed: int, *, ties: bool) -> Limited:
    """Over some decades; or in tenths, whose sums meet limits exactly but for the last digit."""
    random = np.random.default_rng(seed)
    items, options, limits = random.integers(1, 6), random.integers(1, 6), random.integers(1, 4)
    if ties:
        cost = random.integers(0, 9, (items, options)).astype(np.float64)
        uses = random.integers(0, 9, (limits, items, options)) * 0.1
        most = random.integers(0, 6 * items + 1, limits) * 0.1
    else:
        cost = 10 ** random.uniform(-3, 3, (items, options))
        uses = 10 ** random.uniform(-3, 3, (limits, items, options))
        most = random.uniform(-0.1, 1.5, limits) * uses.mean(axis=2).sum(axis=1)
    if options > 1:
        cost[random.random(items) < 0.1, 0] = np.inf
    return Limited(np.asarray(cost), np.asarray(uses), np.asarray(most))


def least(instance: Limited) -> float:
    """By enumeration; inf when nothing is within the limits."""
    items, options = instance.cost.shape
    chosen = np.array([*itertools.product(range(options), repeat=items)]).reshape(-1, items)
    used = instance.uses[:, np.arange(items), chosen].sum(axis=2)
    within = (used <= (instance.limits + 1e-12 * np.abs(instance.limits))[:, None]).all(axis=0)
    return float(instance.cost[np.arange(items), chosen].sum(axis=1)[within].min(initial=np.inf))


def bound(instance: Limited, cost: Floats, prices: Floats) -> float:
    """What no choice costs less than, at these prices of the limits."""
    priced = cost + np.tensordot(prices, instance.uses, 1)
    return float(priced.min(axis=1).sum() - prices @ instance.limits)


@pytest.mark.parametrize("ties", [False, True])
def test_equals_enumeration(ties: bool) -> None:
    found = 0
    for seed in range(150):
        instance = random_instance(seed, ties=ties)
        options, proven = instance.best()
        if options is None:
            assert least(instance) == proven == np.inf
        else:
            found += 1
            items = np.arange(len(instance.cost))
            assert instance.cost[items, options].sum() == pytest.approx(least(instance), rel=1e-9, abs=1e-12)
            assert proven == pytest.approx(least(instance), rel=1e-9, abs=1e-12)
            used = instance.uses[:, items, options].sum(axis=1)
            assert (used <= instance.limits + 1e-11 * np.abs(instance.limits)).all()
    assert 30 < found < 150


@pytest.mark.parametrize("ties", [False, True])
def test_what_limits_are_worth_bounds_the_cost(ties: bool) -> None:
    tight = 0
    for seed in range(150):
        instance = random_instance(seed, ties=ties)
        if (worth := instance.worth()) is None:
            assert least(instance) == np.inf
            continue
        assert (worth >= 0).all()
        proven = bound(instance, instance.cost, worth)
        assert proven <= least(instance) * (1 + 1e-9) + 1e-9
        tight += proven > bound(instance, instance.cost, np.zeros(len(worth))) * (1 + 1e-6)
    assert tight > 5


def test_a_conflict_proves_that_nothing_is_within_the_limits() -> None:
    """Two limits that are met one at a time."""
    instance = Limited(np.zeros((2, 2)), np.array([[[0.0, 1], [0, 1]], [[1, 0], [1, 0]]]), np.array([0.9, 0.9]))
    assert instance.worth() is None
    prices = instance.conflict()
    assert bound(instance, np.zeros((2, 2)), prices) == pytest.approx(1 / 9, rel=1e-6)  # of 0.9 each, 0.1 too much
    within = Limited(instance.cost, instance.uses, np.array([1.0, 1.0]))
    assert bound(within, np.zeros((2, 2)), within.conflict()) <= 1e-9


def test_a_limit_that_is_overstepped_by_next_to_nothing_is_not_met() -> None:
    """By less than HiGHS minds, but more than counts as rounding."""
    cost, uses = np.array([[0.0, 1, 2]]), np.array([[[1 + 1e-8, 1 - 1e-8, 0.5]]])
    options, proven = Limited(np.repeat(cost, 2, 0), np.repeat(uses, 2, 1), np.array([2.0])).best()
    assert options is not None
    assert options.tolist() in ([0, 2], [2, 0], [1, 1])
    assert 0.0 <= proven <= 2.0


def test_where_the_search_is_cut_short_what_it_claims_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_NODES", 0)
    random = np.random.default_rng(0)
    for _ in range(10):
        cost, uses = random.random((5, 5)), random.random((3, 5, 5))
        instance = Limited(cost, uses, 0.8 * uses.mean(axis=2).sum(axis=1))
        options, proven = instance.best()
        assert proven <= least(instance) + 1e-9
        if options is not None:
            assert cost[np.arange(5), options].sum() >= least(instance) - 1e-9
