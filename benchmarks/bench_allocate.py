"""The exact allocation of bits on tables like a network's, beside a general solver of integer programs (HiGHS)."""

from __future__ import annotations

from time import perf_counter

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from qpart_fx.solver.allocate import Relaxation, allocate, allocate_pairs

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Instance = tuple[Floats, Floats, float]


def network(items: int, widths: int, seed: int) -> Instance:
    """Cost and noise of every width from 2 bits on, and a budget: sizes over 3 decades, sensitivities over 6; noise
    that falls fourfold a bit, measured with an error of 10 %, and for half of the items is up to 50 times more at 2."""
    random = np.random.default_rng(seed)
    bits = np.arange(2, 2 + widths, dtype=np.float64)
    sensitivity = 10 ** random.uniform(-3, 3, (items, 1))
    sizes = np.round(10 ** random.uniform(3, 6, (items, 1)))
    kinks = random.uniform(0, 200, (items, 1)) * (random.random((items, 1)) < 0.5) * np.where(bits > 3, 0, 1 / bits**2)
    noise = sensitivity * 4.0**-bits * (1 + kinks) * random.uniform(0.9, 1.1, (items, widths))
    return sizes * bits, noise, float(10 ** random.uniform(-2.5, 0) * noise[:, min(2, widths - 1)].sum())


def highs(cost: Floats, noise: Floats, budget: float) -> Integers:
    """The options that HiGHS chooses, to a gap of zero."""
    items, widths = cost.shape
    one_each = csr_array(np.repeat(np.eye(items), widths, axis=1))
    found = milp(
        cost.ravel(),  # in bits: HiGHS stops at an absolute gap of 1e-6
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(noise.ravel()[None] / budget, -np.inf, 1)],
        integrality=1,
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0},
    )
    return np.asarray(found.x.reshape(cost.shape).argmax(axis=1))


SEEDS = range(10)


@pytest.mark.parametrize("widths", [15, 64])
@pytest.mark.parametrize("items", [20, 60, 300, 1000])
def test_allocate(benchmark: BenchmarkFixture, items: int, widths: int) -> None:
    """Ten networks a round."""
    instances = [network(items, widths, seed) for seed in SEEDS]
    benchmark(lambda: [allocate(*instance) for instance in instances])


@pytest.mark.parametrize("seed", SEEDS)
def test_against_highs(benchmark: BenchmarkFixture, capsys: pytest.CaptureFixture[str], seed: int) -> None:
    """60 items, 15 widths."""
    instance = network(60, 15, seed)
    answer = benchmark(allocate, *instance)
    start = perf_counter()
    options = highs(*instance)
    seconds = perf_counter() - start
    same = np.isclose(instance[0][np.arange(60), options].sum(), answer.cost, rtol=1e-9)
    if benchmark.stats is not None:  # it is when benchmarks are disabled
        median = benchmark.stats.stats.median
        benchmark.extra_info["HiGHS / allocate"] = seconds / median
        with capsys.disabled():
            print(
                f"\nseed {seed}: {median * 1e3:.2f} ms, HiGHS {seconds * 1e3:.0f} ms: {seconds / median:.0f} times, "
                f"{'the same cost' if same else 'not the same cost'}"
            )


def test_bounds(benchmark: BenchmarkFixture) -> None:
    """Ten thousand budgets: the scan of an online decision."""
    cost, noise, budget = network(60, 15, 0)
    relaxation = Relaxation.of(cost, noise)
    benchmark(relaxation.least_cost, budget * np.geomspace(0.01, 100, 10_000))


def test_rounded(benchmark: BenchmarkFixture) -> None:
    cost, noise, budget = network(60, 15, 0)
    benchmark(Relaxation.of(cost, noise).rounded, budget)


@pytest.mark.parametrize("crossing", [1, 3, 10])
def test_pairs(benchmark: BenchmarkFixture, crossing: int) -> None:
    """60 layers and some crossing values, with a memory limit that takes 70 % of the bits that could be saved."""
    weights, noise, budget = network(60, 15, 0)
    values, more_noise, more_budget = network(crossing, 15, 1)
    tables = (weights, noise, values / 10, more_noise, budget + more_budget)
    free, least = (allocate_pairs(*tables, prices=prices) for prices in ((1, 30), (1, 0)))
    memory = 0.3 * free.weight_bits + 0.7 * least.weight_bits  # type: ignore[union-attr]
    benchmark(allocate_pairs, *tables, prices=(1, 30), limits=[(1, 0, memory)])


def test_subset_sum(benchmark: BenchmarkFixture) -> None:
    """Adversarial: every option has the same price of noise, and the lists overflow."""
    values = np.random.default_rng(0).random((60, 1))
    cost, noise = np.hstack([values, 0 * values]), np.hstack([0 * values, values])
    benchmark.pedantic(allocate, args=(cost, noise, float(values.sum() / 2)), rounds=3)
