"""The bound for all plans at once: its shares of the risk add up, and no plan of a profile breaks it too often."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import qpart_fx as qpart
from qpart_fx.confidence import drop_upper_bound_at
from qpart_fx.exact_planner import ExactPlanner, Machine
from qpart_fx.model_profile import Profile
from qpart_fx.noise import WIDTHS
from qpart_fx.risk_shares import risk_share

REQUEST = qpart.Request(
    max_accuracy_drop=0.05,
    device=qpart.Device(clock_hz=1e6, cycles_per_mac=1),
    server=qpart.Server(clock_hz=1e8, cycles_per_mac=1, price_per_s=1),
    link=qpart.Link(uplink_bps=1e5, downlink_bps=1e6),
    inferences_per_download=50,
)


class Skip(nn.Module):
    """A layer beside a skip connection, and one behind them: few enough to look at every choice of widths."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.last(x + self.first(x).relu())
        return scores


@pytest.fixture(scope="module")
def profile() -> Profile:
    torch.manual_seed(0)
    return qpart.profile(Skip(), [torch.randn(600, 6)], levels=(0.005, 0.01, 0.05), rounding="nearest", progress=False)


@pytest.fixture(scope="module")
def planner(profile: Profile) -> ExactPlanner:
    return ExactPlanner(profile)


def stored(planner: ExactPlanner) -> Iterator[qpart.Plan]:
    """The plans of all patterns that are stored for devices of any width."""
    for level in (planner.profile.levels[0] / 2, *planner.profile.levels):
        request = dataclasses.replace(REQUEST, max_accuracy_drop=level)
        drop: float | None = planner.first_drop(request)
        while drop is not None:
            table = planner.table(Machine(WIDTHS, WIDTHS), drop)
            for row in range(len(table.within)):
                yield planner.stored(request, table, row)
            drop = planner.stricter_drop(drop)


def every(planner: ExactPlanner) -> Iterator[qpart.Plan]:
    """A plan for every cut and every choice of widths."""
    plan, profile = next(stored(planner)), planner.profile
    for cut in profile.closed_cuts:
        here = [layer.name in cut.device_nodes for layer in profile.layers]
        values = [name for name in cut.crossing if name in profile.ranges]
        for widths in itertools.product(WIDTHS, repeat=sum(here) + len(values)):
            left = iter(widths)
            yield dataclasses.replace(
                plan,
                cut=cut.crossing,
                layers=tuple(
                    dataclasses.replace(layer, bits=next(left) if on_device else None)
                    for layer, on_device in zip(plan.layers, here, strict=True)
                ),
                activation_bits={name: next(left) for name in values},
            )


Key = tuple[tuple[str, ...], tuple[tuple[str, int], ...], tuple[tuple[str, int], ...]]


def pattern_of(plan: qpart.Plan) -> Key:
    return plan.cut, tuple(plan.weight_bits.items()), tuple(plan.activation_bits.items())


@pytest.fixture(scope="module")
def shares(planner: ExactPlanner) -> dict[Key, float]:
    """The largest share of every plan that the profile can make."""
    found: dict[Key, float] = {}
    for plan in itertools.chain(stored(planner), every(planner)):
        key = pattern_of(plan)
        found[key] = max(found.get(key, 0.0), risk_share(planner, plan))
    return found


def test_the_shares_of_all_plans_add_up_to_no_more_than_all(planner: ExactPlanner, shares: dict[Key, float]) -> None:
    assert len(shares) > 1000
    assert 0.5 < sum(shares.values()) <= 1
    assert sum(shares[key] for key in {pattern_of(plan) for plan in stored(planner)}) > 0.2


def test_in_no_simulated_world_do_all_plans_together_miss_too_often(
    planner: ExactPlanner, shares: dict[Key, float]
) -> None:
    """Every pattern has a true drop, that which is predicted for it, and its answers are lost by chance."""
    drops = {pattern_of(plan): plan.predicted_drop or 0.0 for plan in stored(planner)}
    true, part = np.array(list(drops.values())), [shares[key] for key in drops]
    runs, samples = 1000, 3000
    lost = np.random.default_rng(0).binomial(samples, true, (runs, len(true)))
    bound = cache(lambda losses, share: drop_upper_bound_at(losses, 0, samples, 0.05 * share))
    together = np.array([[bound(int(each), share) for each, share in zip(row, part, strict=True)] for row in lost])
    alone = np.array([[bound(int(each), 1.0) for each in row] for row in lost])
    assert (together >= alone).all()
    assert (together < true).any(axis=1).mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    assert (alone < true).any(axis=1).mean() > 0.5  # so that what is tested is needed


def test_patterns_that_are_stored_have_larger_shares(planner: ExactPlanner, shares: dict[Key, float]) -> None:
    within = {pattern_of(plan) for plan in stored(planner)}
    deep = [key for key in shares if len(key[1]) == 2]
    assert min(shares[key] for key in deep if key in within) > 2 * max(shares[key] for key in deep if key not in within)


def test_a_device_of_other_widths_may_get_a_stored_pattern_by_chance_only(planner: ExactPlanner) -> None:
    plan, _ = planner.best(REQUEST, None, 0.05)
    assert planner.stores(planner.table(Machine(WIDTHS, WIDTHS), 0.05), plan)
    widest = dataclasses.replace(REQUEST.device, weight_bits=(16,))
    wide, _ = planner.best(dataclasses.replace(REQUEST, device=widest), 1, 0.05)
    assert not planner.stores(planner.table(Machine(WIDTHS, WIDTHS), 0.05), wide)
    assert risk_share(planner, wide) < risk_share(planner, plan)


def test_a_stricter_attempt_has_a_third_of_the_risk(planner: ExactPlanner) -> None:
    table = planner.table(Machine(WIDTHS, WIDTHS), 0.05)
    stricter = planner.stricter_drop(0.05)
    assert stricter is not None
    first, second = planner.best(REQUEST, None, 0.05)[0], planner.best(REQUEST, None, stricter)[0]
    assert not planner.stores(table, second)
    expected = len(planner.table(Machine(WIDTHS, WIDTHS), stricter).within) / len(table.within) * 3
    assert risk_share(planner, first) / risk_share(planner, second) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("method", ["exact", "paper"])
@pytest.mark.parametrize("cut", [None, "output", "input"])
def test_compiled_plans_carry_it(profile: Profile, method: str, cut: str | None) -> None:
    plan = profile.compile(REQUEST, method=method, cut=cut).plan
    assert plan is not None
    assert plan.drop_upper_bound is not None
    assert plan.table_drop_upper_bound is not None
    assert plan.drop_upper_bound < plan.table_drop_upper_bound < 1


def test_it_is_the_same_however_the_plan_came(profile: Profile) -> None:
    plan = profile.compile(REQUEST).plan
    assert plan is not None
    again = profile.compile(plan).plan
    assert again is not None
    assert again.table_drop_upper_bound == plan.table_drop_upper_bound


def test_what_was_not_measured_has_none(profile: Profile) -> None:
    assert profile.plan(REQUEST).table_drop_upper_bound is None
