"""Plans for many requests are those that each request gets alone; and what a plan leaves to be made later."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import qpart_fx as qpart
from qpart_fx.exact_planner import Machine, machine_of
from qpart_fx.model_profile import Profile
from qpart_fx.noise import WIDTHS
from qpart_fx.pattern_table import PatternTable, Work
from qpart_fx.plan import MAKE_BY_CUT, CutPrice, Plan
from qpart_fx.request_columns import columns_of, stacked


class Forked(nn.Module):
    """Layers in a row that fork once, so that two values may cross, and a cut has more than one pattern."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(24, 32), nn.Linear(32, 8)
        self.left, self.right = nn.Linear(8, 6), nn.Linear(8, 12)
        self.join, self.last = nn.Linear(18, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x).tanh()).tanh()
        z = torch.cat([self.left(y).tanh(), self.right(y).tanh()], dim=1)
        scores: Tensor = self.last(self.join(z).tanh())
        return scores


def fresh_profile() -> Profile:
    torch.manual_seed(0)
    return qpart.profile(Forked(), [torch.randn(64, 24)], progress=False)


@pytest.fixture(scope="module")
def profile() -> Profile:
    return fresh_profile()


def variant(random: np.random.Generator) -> qpart.Request:
    """A request of random numbers: one in two limited, some in all ways, many of them in vain."""

    def some(low: float, high: float) -> float:
        return float(10 ** random.uniform(low, high))

    def perhaps(share: float, value: Any) -> Any:
        return value if random.random() < share else None

    limited = 0.4 if random.random() < 0.5 else 0.0
    widths = [(2, 4, 8), (4, 8), (2,), tuple(range(2, 17))][random.integers(4)]
    return qpart.Request(
        max_accuracy_drop=float(random.choice([0.0, 0.0004, 0.001, 0.012, 0.05, 0.3])),
        device=qpart.Device(
            clock_hz=some(4, 9),
            cycles_per_mac=perhaps(0.1, {4: some(-1, 1), 8: some(-1, 1)}) or some(-1, 1),
            kappa=some(-26, -18),
            memory_bytes=perhaps(limited, int(some(1.5, 4))),
            weight_bits=widths,
            activation_bits=perhaps(0.2, (3, 8)),
        ),
        server=qpart.Server(clock_hz=some(6, 10), cycles_per_mac=some(-1, 1), price_per_s=some(-3, 3)),
        link=qpart.Link(
            uplink_bps=some(3, 8),
            downlink_bps=some(3, 8),
            round_trip_s=perhaps(0.5, 0.01) or 0.0,
            transmit_power_w=some(-2, 1),
            receive_power_w=some(-2, 1),
        ),
        objective=qpart.Objective(*random.choice([0.0, 1.0, 7.0], 3).tolist()),
        inferences_per_download=int(some(0, 4)),
        device_holds_head=bool(random.random() < 0.2),
        deadline_s=perhaps(limited, some(-5, 0)),
        energy_budget_j=perhaps(limited, some(-6, 0)),
    )


def variants(count: int, seed: int = 0) -> list[qpart.Request]:
    random = np.random.default_rng(seed)
    return [variant(random) for _ in range(count)]


def one_by_one(profile: Profile, requests: list[qpart.Request]) -> list[Plan | qpart.InfeasibleError]:
    """What ``profile.plan`` gives or raises for each."""
    answers: list[Plan | qpart.InfeasibleError] = []
    for request in requests:
        try:
            answers.append(profile.plan(request))
        except qpart.InfeasibleError as error:
            answers.append(error)
    return answers


def unproven(profile: Profile, request: qpart.Request) -> PatternTable:
    """The request's table, made as if the solver had not gone to the end: the weights might need 10 % fewer bits."""
    planner = profile._exact
    drop = planner.first_drop(request)
    table = planner.table(machine_of(request), drop)
    least = dataclasses.replace(table.work, download_bits=table.work.download_bits * 0.9)
    planner._tables[machine_of(request), drop, None] = made = dataclasses.replace(table, least_work=least, proven=False)
    return made


def test_many_requests_get_the_plans_that_each_gets_alone(profile: Profile) -> None:
    requests = variants(600)
    alone = one_by_one(profile, requests)
    plans = profile.plan_many(requests)
    refused = 0
    for place, answer in enumerate(alone):
        if isinstance(answer, Plan):
            assert plans[place] == answer
            assert plans.feasible[place]
            assert plans.objective[place] == answer.objective
            assert profile.closed_cuts[plans.cut[place]].crossing == answer.cut
        else:
            refused += 1
            assert not plans.feasible[place]
            assert plans.objective[place] == np.inf
            assert plans.cut[place] == -1
            with pytest.raises(qpart.InfeasibleError) as caught:
                plans[place]
            assert (str(caught.value), caught.value.limit) == (str(answer), answer.limit)
            assert caught.value.nearest == answer.nearest
    assert 50 < refused < 400
    assert len({plan.cut for plan in alone if isinstance(plan, Plan)}) > 2


def test_also_where_patterns_are_not_proven_the_best() -> None:
    profile = fresh_profile()
    requests = variants(150, seed=1)
    tables = {
        (each.device.weight_bits, each.device.activation_bits, profile._exact.first_drop(each)): each
        for each in requests
    }
    for request in tables.values():
        unproven(profile, request)
    plans = profile.plan_many(requests)
    for place, answer in enumerate(one_by_one(profile, requests)):
        assert plans.feasible[place] == isinstance(answer, Plan)
        if isinstance(answer, Plan):
            assert plans[place] == answer


def test_the_bound_of_patterns_that_are_not_proven_is_that_of_the_fewest_bits() -> None:
    profile = fresh_profile()
    for request in variants(40, seed=2):
        free = dataclasses.replace(
            request,
            device=dataclasses.replace(
                request.device,
                cycles_per_mac=request.device.float_cycles_per_mac,
                memory_bytes=None,
                weight_bits=WIDTHS,
                activation_bits=None,
            ),
            deadline_s=None,
            energy_budget_j=None,
        )
        table = unproven(profile, free)
        plan = profile.plan(free)
        assert plan.lower_bound == table.least_work.prices(free).objective(free).min() <= plan.objective


def test_a_limit_that_is_met_may_still_keep_better_patterns_from_those_that_are_not_proven() -> None:
    profile = fresh_profile()
    request = qpart.Request(
        max_accuracy_drop=0.05,
        device=qpart.Device(clock_hz=1e8, cycles_per_mac=1),
        server=qpart.Server(clock_hz=1e9, cycles_per_mac=1),
        link=qpart.Link(uplink_bps=1e4, downlink_bps=1e5),
        inferences_per_download=500,
    )
    unproven(profile, request)
    limited = dataclasses.replace(request, deadline_s=1e6)
    free, solved = profile.plan(request), profile.plan(limited)
    assert solved.objective == free.objective
    assert solved.lower_bound == pytest.approx(solved.objective, rel=1e-12)
    assert free.lower_bound is not None
    assert free.lower_bound < 0.9999 * free.objective
    assert profile.plan_many([limited, request]) == [solved, free]


def test_the_cheapest_pattern_is_chosen_and_the_first_of_equal_ones(profile: Profile) -> None:
    planner = profile._exact
    for request in variants(200, seed=3):
        table = planner.table(machine_of(request), planner.first_drop(request))
        if not table.rows.size:
            continue
        objective = np.where(table.within, table.work.prices(request).objective(request), np.inf)
        row = int(table.cheapest(request))
        assert table.within[row]
        assert objective[row] <= objective.min() * (1 + 1e-12)
    free = dataclasses.replace(variants(1)[0], objective=qpart.Objective(0, 0, 0))
    table = planner.table(Machine(WIDTHS, WIDTHS), 0.01)
    backwards = dataclasses.replace(table, rows=table.rows[::-1])
    assert table.cheapest(free) == table.rows[0]
    assert backwards.cheapest(free) == table.rows[-1]
    again = columns_of([free, free])
    assert table.cheapest(stacked(again)).tolist() == [table.rows[0]] * 2


def test_stacked_requests_are_priced_to_the_last_bit_as_each_is_alone() -> None:
    requests = [each for each in variants(350, seed=4) if isinstance(each.device.cycles_per_mac, float)]
    work = Work(1234567.0, 7654321.0, 98765.4, 4567.8)
    together = stacked(columns_of(requests))
    made = work.prices(together)
    for place, request in enumerate(requests):
        alone = work.prices(request)
        for name, term in alone.as_dict().items():
            assert np.broadcast_to(getattr(made, name), len(requests))[place] == term
        assert cast(Any, made.objective(together))[place] == alone.objective(request)
    limits = (("deadline_s",), ("energy_budget_j",), ("device", "memory_bytes"))
    for path in limits:
        for place, request in enumerate(requests):
            value: Any = request
            column: Any = together
            for name in path:
                value, column = getattr(value, name), getattr(column, name)
            assert np.isnan(column[place]) if value is None else column[place] == value


def test_any_iterable_will_do_and_an_empty_one_too(profile: Profile) -> None:
    requests = [each for each in variants(60) if each.deadline_s is each.energy_budget_j is None]
    plans = profile.plan_many(request for request in requests)
    assert list(plans.requests) == requests
    none = profile.plan_many(iter(()))
    assert len(none) == len(none.objective) == 0
    assert none == []
    assert not none[:3]


def test_plans_are_read_like_a_list(profile: Profile) -> None:
    requests = [each for each in variants(200) if profile.plan_many([each]).feasible[0]][:30]
    plans, alone = profile.plan_many(requests), [profile.plan(each) for each in requests]
    assert len(plans) == 30
    assert plans == alone
    assert alone == plans
    assert plans != alone[:-1]
    assert plans != [*alone[1:], alone[0]]
    assert plans != 30
    assert list(plans) == alone
    assert plans[-2] == alone[-2]
    assert plans[np.int64(3)] == alone[3]
    assert plans[5:20:3] == alone[5:20:3]
    assert plans[::-1][0] == alone[-1]
    assert plans[5:9].objective.tolist() == [plan.objective for plan in alone[5:9]]
    assert alone[7] in plans
    with pytest.raises(IndexError):
        plans[30]
    with pytest.raises(ValueError, match="read-only"):
        plans.objective[0] = 0.0


def test_where_there_is_no_plan_the_others_can_still_be_read(profile: Profile) -> None:
    good = next(each for each in variants(50) if profile.plan_many([each]).feasible[0])
    bad = dataclasses.replace(good, deadline_s=1e-15)
    plans = profile.plan_many([good, bad, good])
    assert plans.feasible.tolist() == [True, False, True]
    assert repr(plans) == "<plans for 3 requests, 1 of them without one>"
    assert [plans[place] for place in np.flatnonzero(plans.feasible)] == [profile.plan(good)] * 2
    assert plans != plans[:]
    assert plans[::2] == [profile.plan(good)] * 2
    with pytest.raises(qpart.InfeasibleError, match="deadline_s"):
        list(plans)


@pytest.mark.parametrize("wrong", [None, {"max_accuracy_drop": 0.01}, "x" * 1000])
def test_what_is_no_request_is_named_by_its_place(profile: Profile, wrong: Any) -> None:
    def requests() -> Iterator[Any]:
        yield from variants(3)
        yield wrong

    with pytest.raises(qpart.RequestError, match=r"requests\[3\] = .*: not a Request") as caught:
        profile.plan_many(requests())
    assert len(str(caught.value)) < 400


def test_the_prices_by_cut_are_made_when_they_are_read(profile: Profile) -> None:
    for request in variants(40, seed=5):
        free = dataclasses.replace(request, deadline_s=None, energy_budget_j=None)
        if not profile.plan_many([free]).feasible[0]:
            continue
        plan, other = profile.plan(free), profile.plan(free)
        assert MAKE_BY_CUT in vars(plan)
        assert isinstance(plan.by_cut, tuple)
        assert all(isinstance(price, CutPrice) for price in plan.by_cut)
        assert MAKE_BY_CUT not in vars(plan)
        assert plan.by_cut is plan.by_cut
        assert [price.layers for price in plan.by_cut] == sorted({price.layers for price in plan.by_cut})
        best = min(price.objective for price in plan.by_cut if price.feasible)
        assert best == pytest.approx(plan.objective, rel=1e-12)
        cheapest = [price.layers for price in plan.by_cut if price.objective <= best * (1 + 1e-12)]
        assert len(plan.weight_bits) in cheapest
        assert other == plan


@pytest.mark.parametrize(
    "copied",
    [
        copy.copy, copy.deepcopy, dataclasses.replace, lambda plan: pickle.loads(pickle.dumps(plan)),
        lambda plan: Plan.from_json(plan.to_json()),
    ],
    ids="copy deepcopy replace pickle json".split(),
)  # fmt: skip
def test_a_copy_of_a_plan_needs_nothing_of_its_profile(profile: Profile, copied: Any) -> None:
    request = qpart.Request.paper(calibration=lambda: None)  # nothing that could be pickled
    again = copied(profile.plan(request))
    assert MAKE_BY_CUT not in vars(again)
    assert again == profile.plan(request)
    assert repr(again) == repr(profile.plan(request))
    assert len(again.by_cut) == len({price.layers for price in again.by_cut}) > 3


def test_what_is_done_to_one_plan_does_not_change_the_next(profile: Profile) -> None:
    request = next(each for each in variants(50) if profile.plan_many([each]).feasible[0])
    plan, others = profile.plan(request), profile.plan_many([request])
    before = copy.deepcopy(plan)
    assert plan.activation_bits
    plan.activation_bits.clear()
    plan.prices.clear()
    assert before == profile.plan(request) == others[0]


def test_a_plan_has_no_other_names_than_its_own(profile: Profile) -> None:
    plan = profile.plan(qpart.Request.paper())
    assert not hasattr(plan, "by_cuts")
    with pytest.raises(AttributeError, match="'Plan' object has no attribute 'by_cuts'"):
        _ = plan.by_cuts  # type: ignore[attr-defined]
