"""The bound on all closed sets at once, against solving each of them."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from qpart_fx.cut_graph import CutGraph
from qpart_fx.noise import WIDTHS
from qpart_fx.solver.allocate import allocate
from qpart_fx.solver.dual import PricedGraph
from tests.solver.test_min_cut import random_graph

Floats = NDArray[np.float64]


def priced(seed: int, blocks: int = 7) -> tuple[PricedGraph, float]:
    """A graph with random prices, several layers in some blocks and none in others, and a noise budget."""
    numbers = np.random.default_rng(seed)
    graph = random_graph(random.Random(seed), blocks)
    layers, values, widths = blocks, len(graph.values), np.array(WIDTHS)

    def noise(rows: int) -> Floats:
        unevenly = np.exp(numbers.normal(0, 0.5, (rows, len(widths))))
        return np.asarray(10 ** numbers.uniform(0, 3, (rows, 1)) * 4.0**-widths * unevenly)

    made = PricedGraph(
        graph,
        device=numbers.exponential(30, blocks),
        server=numbers.exponential(20, blocks),
        crossing=numbers.exponential(2, values) * (numbers.random(values) < 0.3),
        home=numbers.integers(0, blocks, layers),
        layer_cost=numbers.uniform(0, 5, (layers, 1)) * widths,
        layer_noise=noise(layers),
        value_cost=numbers.uniform(0, 5, (values, 1)) * widths,
        value_noise=noise(values),
    )
    return made, float(10 ** numbers.uniform(-3, 2))


def least(made: PricedGraph, budget: float) -> float:
    """The least cost over all closed sets, each with its best widths; infinite if none is within the budget."""
    best = np.inf
    for inside, crossing in made.graph.closed_sets():
        device, sent = _flags(inside, len(made.device)), _flags(crossing, len(made.crossing))
        held = device[made.home]
        fixed = made.device[device].sum() + made.server[~device].sum() + made.crossing[sent].sum()
        found = allocate(
            np.concatenate([made.layer_cost[held], made.value_cost[sent]]),
            np.concatenate([made.layer_noise[held], made.value_noise[sent]]),
            budget,
        )
        if found is not None:
            best = min(best, float(fixed) + found.cost)
    return best


def _flags(mask: int, count: int) -> NDArray[np.bool_]:
    return np.array([bool(mask >> index & 1) for index in range(count)], dtype=np.bool_)


def test_below_the_best_of_all_closed_sets_and_mostly_near_it() -> None:
    gaps = []
    for seed in range(60):
        made, budget = priced(seed)
        best = least(made, budget)
        if best == np.inf:
            continue
        for reached in (best, 1.3 * best, made.dearest):
            bound = made.dual(budget, reached).bound
            assert bound <= best * (1 + 1e-12)
        gaps.append(best / bound - 1)
    assert len(gaps) > 40
    assert np.median(gaps) < 0.002
    assert max(gaps) < 0.05


@pytest.mark.parametrize("seed", range(10))
def test_a_budget_that_does_not_bind_leaves_no_gap(seed: int) -> None:
    made, _ = priced(seed)
    free = made.dual(1e9, made.dearest)
    assert free.bound == pytest.approx(least(made, 1e9))
    assert len(free.sets) == 1


@pytest.mark.parametrize("seed", range(5))
def test_no_price_of_noise_gives_a_better_bound(seed: int) -> None:
    made, budget = priced(seed)
    if (best := least(made, budget)) == np.inf:
        pytest.skip("no pattern keeps the budget")
    found = made.dual(budget, best)
    prices = np.geomspace(1e-3, 1e6, 100)
    bounds = [made._least(float(price), budget)[1] for price in prices]
    assert max(bounds) <= found.bound * (1 + 1e-4)


def test_widths_that_overstep_the_budget_by_themselves_do_not_weaken_it() -> None:
    """One value, 10 or 11 a bit wide: halfway between the two the relaxation would be cheaper."""
    made, _ = priced(0, blocks=1)
    value = replace(made.graph.values[0], users=(), output=True)
    alone = replace(
        made,
        graph=CutGraph(made.graph.blocks, (value,)),
        device=np.zeros(1),
        server=np.zeros(1),
        crossing=np.zeros(1),
        home=np.zeros(0, dtype=np.int64),
        layer_cost=np.zeros((0, 2)),
        layer_noise=np.zeros((0, 2)),
        value_cost=np.array([[10.0, 11.0]]),
        value_noise=np.array([[4.0, 1.0]]),
    )
    assert alone.dual(2.0, 100.0).bound == 11
    assert alone.dual(4.0, 100.0).bound == 10


@pytest.mark.parametrize("blocks", [100, 1000])
def test_a_large_graph_takes_a_handful_of_minimum_cuts(blocks: int) -> None:
    made, _ = priced(blocks, blocks)
    cheapest = made.dual(1e9, made.dearest)
    for budget in (1e-3, 1.0, 100.0):
        found = made.dual(budget, made.dearest)
        assert cheapest.bound <= found.bound <= made.dearest
        assert len(found.sets) < 30
