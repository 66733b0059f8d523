"""The exact allocation against enumeration, a linear program and HiGHS; and what it says where it cannot be exact."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from functools import reduce

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linprog

from benchmarks.bench_allocate import highs, network
from qpart_fx.solver import allocate as module
from qpart_fx.solver.allocate import Infeasible, PairAllocation, Relaxation, allocate, allocate_pairs

Floats = NDArray[np.float64]
Tables = tuple[Floats, Floats]

pytestmark = pytest.mark.filterwarnings("error")
ROUNDING = 1e-12


def convex(random: np.random.Generator, items: int, options: int) -> Tables:
    cost, noise, _ = network(items, options, int(random.integers(2**32)))
    return cost, noise


def wild(random: np.random.Generator, items: int, options: int) -> Tables:
    """Over ten decades, in no order."""
    return 10 ** random.uniform(-5, 5, (items, options)), 10 ** random.uniform(-5, 5, (items, options))


def ties(random: np.random.Generator, items: int, options: int) -> Tables:
    """Tenths, whose sums depend on the order in the last digit; with zeros and equal options."""
    cost, noise = random.integers(0, 5, (2, items, options)).astype(np.float64) * 0.1
    return cost, noise


def equal_prices(random: np.random.Generator, items: int, options: int) -> Tables:
    """Subset sums: the relaxation says nothing about which option to take."""
    cost = random.integers(1, 1000, (items, options)).astype(np.float64)
    return cost, 1000 - cost


def far_apart(random: np.random.Generator, items: int, options: int) -> Tables:
    """Items in decades of their own."""
    scale = 10.0 ** -random.permutation(4 * items).reshape(4, items)[:1].T
    return scale * random.random((items, options)), random.random((items, options)) / scale


KINDS: list[Callable[[np.random.Generator, int, int], Tables]] = [convex, wild, ties, equal_prices, far_apart]


def holes(random: np.random.Generator, table: Floats) -> Floats:
    return np.where(random.random(table.shape) < 0.1, np.inf, table)


def sums(table: Floats) -> Floats:
    """Of every choice of an option for each item."""
    return np.asarray(reduce(np.add.outer, table, np.zeros(())).ravel())


def most(table: Floats) -> float:
    return float(np.where(np.isfinite(table), table, 0).max(axis=1, initial=0).sum())


def least(cost: Floats, noise: Floats, budget: float) -> float:
    """By enumeration; inf when nothing is within the budget."""
    total = sums(noise)
    return float(sums(cost)[(total <= budget) & np.isfinite(total)].min(initial=np.inf))


def check(cost: Floats, noise: Floats, budget: float, **options: int) -> bool:
    """Whether the answer is exact; what it claims is checked."""
    answer = allocate(cost, noise, budget, **options)
    # a budget counts as met within module.SLACK: nothing within it may be missed, nothing far beyond it may be found
    low, high = least(cost, noise, budget * (1 + 3 * module.SLACK)), least(cost, noise, budget)
    if answer is None:
        assert high == np.inf
        return True
    items = np.arange(len(cost))
    assert answer.cost == pytest.approx(cost[items, answer.options].sum(), rel=ROUNDING, abs=0)
    assert answer.noise == pytest.approx(noise[items, answer.options].sum(), rel=ROUNDING, abs=0)
    assert answer.noise <= budget * (1 + 2 * module.SLACK)
    assert answer.lower_bound <= answer.cost
    assert answer.lower_bound <= high * (1 + ROUNDING)
    assert low * (1 - ROUNDING) <= answer.cost
    if answer.exact:
        assert answer.cost <= high * (1 + ROUNDING)
    return answer.exact


def random_instance(kind: int, seed: int, items: int | None = None) -> tuple[Floats, Floats, float]:
    random = np.random.default_rng([kind, seed])
    shape = int(random.integers(0, 7)) if items is None else items, int(random.integers(1, 6))
    cost, noise = KINDS[kind](random, *shape)
    if random.random() < 0.3:
        cost, noise = holes(random, cost), holes(random, noise)
    budget = random.random() ** random.integers(1, 9) * most(noise)
    return cost, noise, float(np.round(budget, 1) if KINDS[kind] is ties else budget)


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=[kind.__name__ for kind in KINDS])
def test_equals_enumeration(kind: int) -> None:
    assert all(check(*random_instance(kind, seed)) for seed in range(250))


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=[kind.__name__ for kind in KINDS])
def test_equals_enumeration_however_the_work_is_cut(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One item at a time, few states at once."""
    monkeypatch.setattr(module, "TOGETHER", 1)
    monkeypatch.setattr(module, "CHUNK", 4)
    assert all(check(*random_instance(kind, seed)) for seed in range(100))


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=[kind.__name__ for kind in KINDS])
def test_some_of_the_items_are_relaxed_as_they_are_alone(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 16)  # a few rows at a time
    for seed in range(60):
        cost, noise, budget = random_instance(kind, seed)
        if not (np.isfinite(cost) & np.isfinite(noise)).any(axis=1).all():
            with pytest.raises(ValueError, match="an item has no option"):
                Relaxation.of(cost, noise).of_each(np.ones((1, len(cost)), dtype=np.bool_), budget)
            continue
        among = np.random.default_rng(seed).random((7, len(cost))) < 0.5
        bounds, options = Relaxation.of(cost, noise).of_each(among, budget)
        for own, bound, chosen in zip(among, bounds, options, strict=True):
            alone = Relaxation.of(cost[own], noise[own])
            assert bound == pytest.approx(float(alone.least_cost(budget)), rel=1e-9)
            items = np.flatnonzero(own)
            made = noise[items, chosen[own]].sum()
            if bound < np.inf:
                assert made <= budget * (1 + 1e-11)
                assert bound <= cost[items, chosen[own]].sum() * (1 + ROUNDING)
            else:
                possible = np.where(np.isfinite(cost), noise, np.inf)[own]
                assert made == pytest.approx(possible.min(axis=1).sum())


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=[kind.__name__ for kind in KINDS])
def test_only_answers_below_a_cost_are_looked_for(kind: int) -> None:
    for seed in range(60):
        cost, noise, budget = random_instance(kind, seed)
        answer, relaxation = allocate(cost, noise, budget), Relaxation.of(cost, noise)
        if answer is None or answer.cost == 0:
            continue
        above, none = relaxation.allocate_below(1.01 * answer.cost, budget)
        assert above is not None
        assert above.cost == pytest.approx(answer.cost, rel=ROUNDING)
        assert none == np.inf
        assert relaxation.allocate_below(answer.cost, budget) == (None, np.inf)


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=[kind.__name__ for kind in KINDS])
def test_claims_hold_with_room_for_few_states(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOGETHER", 1)
    exact = [check(*random_instance(kind, seed, items=6), max_states=1) for seed in range(100)]
    assert any(exact)
    if KINDS[kind] is equal_prices:
        assert not all(exact)


@pytest.mark.parametrize("steps", [1, 10, 1000])
def test_equals_the_table_over_integer_budgets(steps: int) -> None:
    """The textbook's dynamic programming, one place for each budget; costs in ``steps`` different values."""
    random = np.random.default_rng(steps)
    for _ in range(5):
        cost = random.integers(0, 1000, (60, 15)) // steps * steps
        noise = random.integers(0, 30, (60, 15))
        budget = int(random.integers(100, 600))
        table = np.zeros(budget + 1)  # the least cost within each budget
        for item in range(60):
            table = np.min(
                [
                    np.append(np.full(min(n, budget + 1), np.inf), c + table)[: budget + 1]
                    for c, n in zip(cost[item], noise[item], strict=True)
                ],
                axis=0,
            )
        answer = allocate(cost, noise, budget)
        assert (answer and answer.cost) == (table[budget] if np.isfinite(table[budget]) else None)
        assert answer is None or answer.exact


@pytest.mark.parametrize("seed", range(6))
def test_equals_highs(seed: int) -> None:
    cost, noise, budget = network(60, 15, seed)
    options = highs(cost, noise, budget)
    items = np.arange(60)
    # HiGHS takes a constraint as met within a tolerance of its own, larger than ours
    answer = allocate(cost, noise, max(budget, float(noise[items, options].sum())))
    assert answer is not None
    assert answer.exact
    assert answer.cost == pytest.approx(cost[items, options].sum(), rel=1e-9, abs=0)


def test_relaxation_is_the_linear_program() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        cost, noise = random.random((5, 4)), random.random((5, 4))
        budget = random.uniform(0.3, 0.8) * noise.max(axis=1).sum()
        one_each = np.repeat(np.eye(5), 4, axis=1)
        program = linprog(cost.ravel(), noise.ravel()[None], [budget], one_each, np.ones(5))
        expected = program.fun if program.status == 0 else np.inf
        assert Relaxation.of(cost, noise).least_cost(budget) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=[kind.__name__ for kind in KINDS])
def test_relaxation_bounds_every_budget(kind: int) -> None:
    for seed in range(30):
        cost, noise, budget = random_instance(kind, seed)
        relaxation = Relaxation.of(cost, noise)
        budgets = np.append(budget * np.geomspace(0.01, 100, 11), np.inf).reshape(3, 4)
        bounds = relaxation.least_cost(budgets)
        assert bounds.shape == budgets.shape
        assert (np.diff(bounds.ravel()[np.isfinite(bounds.ravel())]) <= 0).all()
        for each, bound in zip(budgets.ravel(), bounds.ravel(), strict=True):
            assert bound <= least(cost, noise, each) * (1 + ROUNDING)
            rounded, answer = relaxation.rounded(each), relaxation.allocate(each)
            assert (rounded is None) == (answer is None) == (bound == np.inf)
            if rounded and answer:
                assert rounded.noise <= each * (1 + 2 * module.SLACK)
                assert rounded.lower_bound <= answer.cost <= rounded.cost * (1 + ROUNDING)


def test_rounding_is_close() -> None:
    """To the least cost: a step of one item, of sixty, could be 10 %."""
    for seed in range(20):
        cost, noise, budget = network(60, 15, seed)
        rounded = Relaxation.of(cost, noise).rounded(budget)
        assert rounded is not None
        assert rounded.cost < 1.02 * rounded.lower_bound


@pytest.mark.parametrize(
    ("cost", "noise", "budget", "expected"),
    [
        (np.empty((0, 3)), np.empty((0, 3)), 0.0, 0.0),
        (np.empty((0, 3)), np.empty((0, 3)), -1.0, None),
        (np.empty((2, 0)), np.empty((2, 0)), 1.0, None),
        ([[1.0]], [[np.inf]], np.inf, None),
        ([[np.inf, 3]], [[0, 1]], np.inf, 3.0),
        ([[1.0, 2.0]] * 3, [[0.0, 0.0]] * 3, 0.0, 3.0),  # noise that is exactly on a budget of zero
        ([[5, 1]] * 2, [[0.0, 0.1], [0.0, 0.2]], 0.3, 2.0),  # 0.1 + 0.2 > 0.3
        ([[0.0, 0.0]], [[1.0, 2.0]], 1.0, 0.0),
        ([[1e300, 1e-300]] * 3, [[1e-300, 1e300]] * 3, 1e300, 2e300),
    ],
)
def test_edges(cost: Floats, noise: Floats, budget: float, expected: float | None) -> None:
    answer = allocate(cost, noise, budget)
    assert (answer and answer.cost) == expected
    assert answer is None or answer.exact


@pytest.mark.parametrize(
    ("cost", "noise"), [([[1.0]], [[1.0, 2.0]]), ([1.0], [1.0]), ([[-1.0]], [[1.0]]), ([[1.0]], [[np.nan]])]
)
def test_tables_are_checked(cost: Floats, noise: Floats) -> None:
    with pytest.raises(ValueError, match="cost and noise"):
        allocate(cost, noise, 1.0)


@pytest.mark.parametrize("jitter", [0.0, 1e-15, 1e-3])
def test_equal_layers_are_no_problem(jitter: float) -> None:
    bits = np.arange(2.0, 17)
    random = np.random.default_rng(0)
    noise = 4.0**-bits * random.uniform(1 - jitter, 1 + jitter, (60, 15))
    answer = allocate(np.tile(1000 * bits, (60, 1)), noise, 80 * 4.0**-7)
    assert answer is not None
    assert answer.exact


def test_subset_sums_keep_to_their_memory_and_say_what_they_know() -> None:
    values = np.random.default_rng(0).random((60, 1))
    cost, noise = np.hstack([values, 0 * values]), np.hstack([0 * values, values])
    tracemalloc.start()
    answer = allocate(cost, noise, float(values.sum() / 2), max_states=10_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
    assert answer is not None
    assert not answer.exact
    assert answer.lower_bound == pytest.approx(values.sum() / 2)
    assert answer.lower_bound <= answer.cost < answer.lower_bound * (1 + 1e-6)


def pairs(seed: int) -> tuple[Tables, Tables, float, tuple[float, float], list[tuple[float, float, float]]]:
    """Tables of weights and of crossing values, a budget, prices, and up to three limits."""
    random = np.random.default_rng(seed)
    kind = KINDS[int(random.integers(len(KINDS)))]
    weights, crossing = (kind(random, int(random.integers(0, 4)), int(random.integers(1, 5))) for _ in range(2))
    if random.random() < 0.2:
        weights = holes(random, weights[0]), holes(random, weights[1])
    factors = random.integers(1, 4, (4, 2)) * (random.random((4, 2)) > 0.2)
    totals = most(weights[0]), most(crossing[0])
    limits = [(a, b, random.uniform(0.05, 0.9) * (a * totals[0] + b * totals[1])) for a, b in factors[1:].astype(float)]
    budget = random.random() * (most(weights[1]) + most(crossing[1]))
    price_w, price_x = factors[0].astype(float)
    return weights, crossing, float(budget), (price_w, price_x), limits[: int(random.integers(4))]


@pytest.mark.parametrize("max_states", [module.MAX_STATES, 2])
def test_pairs_equal_enumeration(max_states: int) -> None:
    outcomes = []
    for seed in range(600):
        weights, crossing, budget, prices, limits = pairs(seed)
        w, x = np.broadcast_arrays(sums(weights[0])[:, None], sums(crossing[0]))
        total = np.where(np.isfinite(w + x), np.add.outer(sums(weights[1]), sums(crossing[1])), np.inf)
        within = total <= budget * (1 + module.SLACK)
        w, x = w[within], x[within]
        met = [a * w + b * x <= c * (1 + module.SLACK) for a, b, c in limits]
        objective = prices[0] * w + prices[1] * x
        feasible = np.all([np.ones(w.size, dtype=bool), *met], axis=0)

        answer = allocate_pairs(*weights, *crossing, budget, prices=prices, limits=limits, max_states=max_states)
        if isinstance(answer, PairAllocation):
            best = objective[feasible].min()
            assert best * (1 - ROUNDING) <= answer.objective
            assert answer.lower_bound <= best * (1 + ROUNDING)
            assert answer.lower_bound <= answer.objective
            for bits, noise, options, kind in (
                (answer.weight_bits, weights[1], answer.weight_options, weights[0]),
                (answer.crossing_bits, crossing[1], answer.crossing_options, crossing[0]),
            ):
                assert bits == pytest.approx(kind[np.arange(len(kind)), options].sum(), rel=ROUNDING, abs=0)
                assert np.isfinite(noise[np.arange(len(kind)), options]).all()
            assert answer.noise <= budget * (1 + 2 * module.SLACK)
            for a, b, c in limits:
                assert a * answer.weight_bits + b * answer.crossing_bits <= c * (1 + 2 * module.SLACK)
            if answer.exact:
                assert answer.objective <= best * (1 + ROUNDING)
            outcomes.append("found" if answer.exact else "not proven")
        elif answer.exact:
            assert not feasible.any()
            if answer.limit < 0:
                assert w.size == 0
                assert answer.least == pytest.approx(total.min(initial=np.inf))
                outcomes.append("noise")
                continue
            a, b, c = limits[answer.limit]
            used = a * w + b * x
            alone = [index for index, each in enumerate(met) if not each.any()]
            if alone:
                assert answer.limit in alone
                assert answer.least == pytest.approx(used.min())
                factors = [(limits[index][0] * w + limits[index][1] * x).min() / limits[index][2] for index in alone]
                assert answer.least / c == pytest.approx(max(factors))
                outcomes.append("alone")
            else:
                others = np.all([np.ones(w.size, dtype=bool), *np.delete(met, answer.limit, axis=0)], axis=0)
                assert answer.least == pytest.approx(used[others].min())
                outcomes.append("together")
        else:
            outcomes.append("none seen")
    assert {"found", "noise", "alone"} <= set(outcomes)
    if max_states > 2:
        assert not {"not proven", "none seen"} & set(outcomes)


def test_pairs_say_which_limits_conflict() -> None:
    """W and X share the noise: less of one is more of the other."""
    bits, noise = [[2.0, 4.0, 8.0]], [[16.0, 4.0, 0.0]]
    answer = allocate_pairs(bits, noise, bits, noise, 20, limits=[(1, 0, 3), (0, 1, 3)])
    assert answer == Infeasible(0, 4.0)
    # three, any two of which can be met
    limits = [(1, 0, 2), (0, 1, 2), (1, 1, 6)]
    assert isinstance(allocate_pairs(bits, noise, bits, noise, 20, limits=limits[::2]), PairAllocation)
    assert allocate_pairs(bits, noise, bits, noise, 20, limits=limits) == Infeasible(0, 4.0)


def test_pairs_of_many_crossing_values() -> None:
    """A limit that the free optimum does not meet, and some 10^11 choices of what crosses; the bound is close."""
    weights, crossing = network(60, 15, 0), network(10, 15, 1)
    tables = (*weights[:2], *crossing[:2], weights[2] + crossing[2])
    free, small = allocate_pairs(*tables, prices=(1, 30)), allocate_pairs(*tables, prices=(1, 0))
    assert isinstance(free, PairAllocation)
    assert isinstance(small, PairAllocation)
    limit = 0.3 * free.weight_bits + 0.7 * small.weight_bits
    answer = allocate_pairs(*tables, prices=(1, 30), limits=[(1, 0, limit)])
    assert isinstance(answer, PairAllocation)
    assert answer.exact
    assert small.weight_bits <= answer.weight_bits <= limit
    assert free.objective < answer.objective < answer.lower_bound * 1.01


@pytest.mark.parametrize(
    "wrong", [{"prices": (-1, 1)}, {"limits": [(1, -1, 1)]}, {"limits": [(1, 1, np.nan)]}, {"prices": (1, np.nan)}]
)
def test_prices_and_limits_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="prices"):
        allocate_pairs([[1]], [[1]], [[1]], [[1]], 1, **wrong)  # type: ignore[arg-type]
