"""The search over cuts, against enumeration of every cut and every choice of options."""

from __future__ import annotations

import itertools
from unittest import mock

import numpy as np
import pytest

from qpart_fx.solver.cut_search import CutSearch
from qpart_fx.solver.limited import Limited

pytestmark = pytest.mark.filterwarnings("error")


def random_search(seed: int, *, limits: int, whole: bool) -> CutSearch:
    """Over some decades, or in whole numbers with many ties."""
    random = np.random.default_rng([seed, limits])
    items, options, cuts = (int(number) for number in random.integers(1, (6, 5, 7)))

    def table(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return random.integers(0, 9, shape).astype(np.float64) if whole else 10 ** random.uniform(-2, 2, shape)

    cost, noise, uses = table(items, options), table(items, options), table(limits, items, options)
    if options > 1:
        cost[random.random(items) < 0.2, 0] = np.inf
    return CutSearch(
        cost,
        noise,
        uses,
        items=random.random((cuts, items)) < 0.7,
        base=table(cuts),
        limits=random.uniform(-0.1, 1.2, (cuts, limits)) * uses.mean(axis=2).sum(axis=1),
        budget=float(random.uniform(0, 1.5) * noise.mean(axis=1).sum()),
    )


def least(search: CutSearch) -> float:
    return min(least_of_each(search))


def least_of_each(search: CutSearch) -> list[float]:
    """The least cost at each cut, by enumeration; inf when nothing is within its limits."""
    found = []
    options = search.cost.shape[1]
    for own, base, limits in zip(search.items, search.base, search.limits, strict=True):
        marks = np.flatnonzero(own)
        chosen = np.array([*itertools.product(range(options), repeat=len(marks))], dtype=np.int64)
        chosen = chosen.reshape(options ** len(marks), len(marks))
        within = search.noise[marks, chosen].sum(axis=1) <= search.budget * (1 + 1e-12)
        used = search.uses[:, marks, chosen].sum(axis=2)
        within &= (used <= (limits + 1e-12 * np.abs(limits))[:, None]).all(axis=0)
        found.append(float((base + search.cost[marks, chosen].sum(axis=1))[within].min(initial=np.inf)))
    return found


@pytest.mark.parametrize("limits", range(4))
@pytest.mark.parametrize("whole", [False, True])
def test_equals_enumeration(limits: int, whole: bool) -> None:
    found = 0
    for seed in range(80):
        search = random_search(seed, limits=limits, whole=whole)
        best, proven = search.best()
        if best is None:
            assert least(search) == proven == np.inf
            continue
        found += 1
        assert best.cost == pytest.approx(least(search), rel=1e-9)
        assert proven == pytest.approx(best.cost, rel=1e-9)
        assert proven <= best.cost
        marks = np.flatnonzero(search.items[best.cut])
        assert best.cost == pytest.approx(search.base[best.cut] + search.cost[marks, best.options].sum())
        assert search.noise[marks, best.options].sum() <= search.budget * (1 + 1e-11)
        used = search.uses[:, marks, best.options].sum(axis=1)
        assert (used <= search.limits[best.cut] + 1e-11 * np.abs(search.limits[best.cut])).all()
    assert 15 < found <= 80


@pytest.mark.parametrize("whole", [False, True])
def test_bounds_that_one_cut_sets_for_the_others_hold(whole: bool) -> None:
    raised, excluded = 0, 0
    for seed in range(80):
        search = random_search(seed, limits=2, whole=whole)
        true = np.array(least_of_each(search))
        for cut in np.flatnonzero(search.items.any(axis=1)).tolist():
            bounds = search.base.copy()
            search._tighten(bounds, cut)
            assert (bounds <= true * (1 + 1e-9)).all()
            others = np.arange(len(bounds)) != cut
            raised += int((bounds > search.base)[others & (true < np.inf)].sum())
            excluded += int((bounds == np.inf)[others].sum())
    assert min(raised, excluded) > 10


def test_a_cut_that_cannot_be_best_is_not_solved() -> None:
    """Cuts that only differ in what they cost besides."""
    search = random_search(3, limits=0, whole=False)
    same = CutSearch(
        search.cost,
        search.noise,
        search.uses,
        items=np.ones((50, len(search.cost)), dtype=np.bool_),
        base=1e3 * np.arange(50.0),
        limits=np.zeros((50, 0)),
        budget=float(search.noise.mean(axis=1).sum()),
    )
    with mock.patch.object(CutSearch, "_without_limits", autospec=True, side_effect=CutSearch._without_limits) as calls:
        best, _ = same.best()
    assert best is not None
    assert (best.cut, calls.call_count) == (0, 1)


def test_what_limits_are_worth_at_one_cut_spares_the_others() -> None:
    random = np.random.default_rng(0)
    cost, noise, use = np.sort(random.random((3, 8, 6)), axis=2)
    search = CutSearch(
        cost,
        noise=noise[:, ::-1],
        uses=use[None, :, ::-1],
        items=np.ones((40, 8), dtype=np.bool_),
        base=np.linspace(0, 0.5, 40),
        limits=np.full((40, 1), 0.6 * use.mean(axis=1).sum()),
        budget=float(noise.mean(axis=1).sum()),
    )
    with mock.patch.object(Limited, "worth", autospec=True, side_effect=Limited.worth) as calls:
        best, _ = search.best()
    assert best is not None
    assert best.cost == pytest.approx(least_of_equal_cuts(search))
    assert calls.call_count < 20


def least_of_equal_cuts(search: CutSearch) -> float:
    """All cuts have the same items: the one of least base is the best."""
    chosen = np.array([*itertools.product(range(search.cost.shape[1]), repeat=4)])
    items = np.arange(4)
    halves = []
    for own in (items, items + 4):  # every choice of each half of the items
        halves.append(
            [
                search.cost[own, chosen].sum(axis=1),
                search.noise[own, chosen].sum(axis=1),
                search.uses[0, own, chosen].sum(axis=1),
            ]
        )
    total = [np.add.outer(one, other) for one, other in zip(*halves, strict=True)]
    within = (total[1] <= search.budget) & (total[2] <= search.limits[0, 0])
    return float(search.base.min() + total[0][within].min())
