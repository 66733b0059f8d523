"""The stored patterns hold the best one for every request: equal to trying all cuts and all bits."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from qpart_fx.noise import WIDTHS
from qpart_fx.resolution import LARGEST_WIDTH, RESOLUTIONS, places_of
from qpart_fx.solver.patterns import Front, Network, PatternMaker, columns

Floats = NDArray[np.float64]

ALLOWED = (2, 4, 5, 8)
VALUES_ALLOWED = (3, 4, 8)
FITTING = [RESOLUTIONS[place] for place in places_of(ALLOWED, RESOLUTIONS)]


def network(seed: int, layers: int = 4, values: int = 5, cuts: int = 6) -> Network:
    """A network of random sizes and noise that falls with the bits, but not evenly."""
    random = np.random.default_rng(seed)

    def noise(rows: int, bits: Sequence[float]) -> Floats:
        scale = 10 ** random.uniform(0, 3, (rows, 1))
        return np.asarray(scale * 4.0 ** -np.array(bits) * np.exp(random.normal(0, 0.7, (rows, len(bits)))))

    crossing = [
        tuple(sorted(random.choice(values, random.integers(0, 3), replace=False).tolist())) for _ in range(cuts)
    ]
    return Network(
        resolutions=RESOLUTIONS,
        largest_width=LARGEST_WIDTH,
        weight_bits=random.integers(1, 50, (layers, 1)) * np.array(RESOLUTIONS),
        macs=np.ones(layers),
        noise=noise(layers, RESOLUTIONS),
        value_sizes=random.integers(1, 50, values).astype(float),
        value_noise=noise(values, WIDTHS),
        layers=random.random((cuts, layers)) < 0.6,
        values=tuple(crossing),
        device_macs=random.uniform(0, 9, cuts),
        server_macs=random.uniform(0, 9, cuts),
        exact_bits=np.zeros(cuts),
        head_bits=np.zeros(cuts),
        peak_bytes=np.zeros(cuts),
    )


def by_brute_force(network: Network, cut: int, budget: float, prices: tuple[float, float]) -> float:
    """The least price of a cut's bits within the budget, by trying every choice of bits; inf if there is none."""
    layers, values = np.flatnonzero(network.layers[cut]), network.values[cut]
    best = np.inf
    for chosen in itertools.product(*[FITTING] * len(layers), *[VALUES_ALLOWED] * len(values)):
        of_layers = [RESOLUTIONS.index(resolution) for resolution in chosen[: len(layers)]]
        of_values = [WIDTHS.index(int(width)) for width in chosen[len(layers) :]]
        noise = network.noise[layers, of_layers].sum() + network.value_noise[list(values), of_values].sum()
        if noise <= budget:
            bits = network.weight_bits[layers, of_layers].sum()
            crossing = network.value_sizes[list(values)] @ np.array(chosen[len(layers) :], dtype=float)
            best = min(best, prices[0] * bits + prices[1] * crossing)
    return best


@pytest.mark.parametrize("seed", range(30))
def test_the_best_pattern_of_every_cut_is_stored_whatever_the_prices(seed: int) -> None:
    tables = network(seed)
    budget = 10 ** np.random.default_rng(seed).uniform(-2, 2)
    patterns = PatternMaker(tables, ALLOWED, VALUES_ALLOWED).patterns(budget, range(len(tables.layers)))
    for prices in ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, 20.0), (20.0, 1.0)):
        for cut in range(len(tables.layers)):
            rows = (patterns.cut == cut) & (patterns.noise <= budget)
            best = by_brute_force(tables, cut, budget, prices)
            if not rows.any():
                assert best == np.inf
            else:
                stored = prices[0] * patterns.weight_bits[rows] + prices[1] * patterns.crossing_bits[rows]
                assert stored.min() == pytest.approx(best, rel=1e-9)
                assert (patterns.least_weight_bits <= patterns.weight_bits).all()


@pytest.mark.parametrize("seed", range(10))
def test_a_pattern_is_what_it_says(seed: int) -> None:
    tables = network(seed)
    patterns = PatternMaker(tables, ALLOWED, VALUES_ALLOWED).patterns(1.0)
    for row, cut in enumerate(patterns.cut.tolist()):
        resolutions, value_widths = patterns.resolutions[row], patterns.value_widths[row]
        on_device = resolutions > 0
        places = [RESOLUTIONS.index(resolution) for resolution in resolutions[on_device].tolist()]
        assert (on_device == tables.layers[cut]).all()
        assert set(resolutions[on_device].tolist()) <= set(FITTING)
        assert set(value_widths) <= set(VALUES_ALLOWED)
        assert patterns.weight_bits[row] == pytest.approx(tables.weight_bits[on_device, places].sum())
        values = list(tables.values[cut])
        assert patterns.crossing_bits[row] == pytest.approx((tables.value_sizes[values] * value_widths).sum())
        noise = tables.noise[on_device, places].sum()
        noise += tables.value_noise[values, np.array(value_widths, dtype=int) - WIDTHS[0]].sum()
        assert patterns.noise[row] == pytest.approx(noise)


def test_a_budget_that_nothing_keeps_leaves_the_pattern_of_least_noise() -> None:
    tables = network(0)
    patterns = PatternMaker(tables, ALLOWED, VALUES_ALLOWED).patterns(0.0, range(6))
    with_something = [cut for cut in range(6) if tables.layers[cut].any() or tables.values[cut]]
    assert [cut for cut in patterns.cut.tolist() if cut in with_something] == with_something
    for row, cut in enumerate(patterns.cut.tolist()):
        least = tables.noise[tables.layers[cut]][:, places_of(ALLOWED, RESOLUTIONS)].min(axis=1).sum()
        least += tables.value_noise[list(tables.values[cut])][:, columns(VALUES_ALLOWED)].min(axis=1).sum()
        assert patterns.noise[row] == pytest.approx(least)


def test_the_front_of_what_crosses() -> None:
    bits = np.array([1.0, 2.0, 3.0])
    front = Front.empty().with_value(bits, np.array([9.0, 3.0, 4.0])).with_value(bits, np.array([8.0, 2.0, 1.0]))
    assert front.bits.tolist() == [2.0, 3.0, 4.0, 5.0]
    assert front.noise.tolist() == [17.0, 11.0, 5.0, 4.0]
    assert front.options.tolist()[2:] == [[1, 1], [1, 2]]
    assert Front.empty().options.shape == (1, 0)


@pytest.mark.parametrize("seed", range(20))
def test_a_cut_that_is_left_out_is_never_better(seed: int) -> None:
    random = np.random.default_rng(seed)
    tables = network(seed, layers=2, cuts=12)
    few = random.integers(0, 2, (12, 2)).astype(bool)
    tables = dataclasses.replace(
        tables,
        layers=few,
        device_macs=few.sum(axis=1).astype(float),
        server_macs=2 - few.sum(axis=1).astype(float),
        peak_bytes=random.integers(0, 3, 12).astype(float),
        exact_bits=8 * random.integers(0, 3, 12).astype(float),
    )
    kept = PatternMaker(tables, ALLOWED, VALUES_ALLOWED).undominated
    assert 0 < len(kept) < 12
    for prices in ((1.0, 0.1), (1.0, 1.0), (1.0, 9.0)):
        for left_out in set(range(12)) - set(kept):
            for budget in (0.1, 1.0, 10.0):
                rivals = [
                    by_brute_force(tables, cut, budget, prices) + prices[1] * tables.exact_bits[cut]
                    for cut in kept
                    if (few[cut] == few[left_out]).all() and tables.peak_bytes[cut] <= tables.peak_bytes[left_out]
                ]
                worse = by_brute_force(tables, left_out, budget, prices) + prices[1] * tables.exact_bits[left_out]
                assert min(rivals) <= worse * (1 + 1e-12)
