"""Exact plans on real graphs: no closed set of the graph and no choice of widths does better."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import qpart_fx as qpart
from qpart_fx.exact_planner import ExactPlanner
from qpart_fx.model_profile import Profile
from qpart_fx.noise import WIDTHS
from qpart_fx.pattern_table import work_of
from qpart_fx.resolution import RESOLUTIONS, places_of


class Branching(nn.Module):
    """Two branches and a skip connection: closed sets that are no prefixes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 3, 3, padding=1)
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(7 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).relu()
        z = self.left(y).relu() + self.right(y).relu()
        pooled = torch.cat([z, y], dim=1)
        scores: Tensor = self.fc(nn.functional.avg_pool2d(pooled, 2).flatten(1))
        return scores


@pytest.fixture(scope="module")
def profile() -> Profile:
    torch.manual_seed(0)
    return qpart.profile(Branching(), [torch.randn(48, 2, 4, 4)], progress=False)


NARROW = (2, 4, 8)
FITTING = [RESOLUTIONS[place] for place in places_of(NARROW, RESOLUTIONS)]

REQUEST = qpart.Request(
    max_accuracy_drop=0.05,
    device=qpart.Device(clock_hz=1e6, cycles_per_mac=1, kappa=1e-20, weight_bits=NARROW),
    server=qpart.Server(clock_hz=1e8, cycles_per_mac=1, price_per_s=1),
    link=qpart.Link(uplink_bps=1e5, downlink_bps=1e6),
    inferences_per_download=50,
)


def variants() -> list[qpart.Request]:
    """Requests at random speeds, rates and limits."""
    random = np.random.default_rng(0)
    made = []
    for _ in range(40):
        clock, rate, server = 10 ** random.uniform(4, 8), 10 ** random.uniform(3, 7), 10 ** random.uniform(6, 9)
        made.append(
            dataclasses.replace(
                REQUEST,
                max_accuracy_drop=float(random.choice([0.01, 0.02, 0.05])),
                device=dataclasses.replace(REQUEST.device, clock_hz=clock),
                server=dataclasses.replace(REQUEST.server, clock_hz=server),
                link=qpart.Link(uplink_bps=rate, downlink_bps=rate * 3),
                inferences_per_download=int(10 ** random.uniform(0, 4)),
                device_holds_head=bool(random.random() < 0.2),
            )
        )
    return made


def by_brute_force(profile: Profile, request: qpart.Request) -> float:
    """The least objective over every cut and every choice of bits that the request's limits allow."""
    planner = ExactPlanner(profile)
    network = planner.network
    budget = profile.noise_curve.noise_at(planner.first_drop(request))
    best = np.inf
    for cut in range(len(profile.closed_cuts)):
        layers, values = np.flatnonzero(network.layers[cut]), list(network.values[cut])
        options = places_of(NARROW, RESOLUTIONS)
        every = [*itertools.product(*[options] * len(layers), *[NARROW] * len(values))]
        chosen = np.array(every, dtype=int).reshape(len(every), len(layers) + len(values))
        of_layers, of_values = chosen[:, : len(layers)], chosen[:, len(layers) :]
        noise = network.noise[layers, of_layers].sum(axis=1)
        noise += network.value_noise[values, of_values - WIDTHS[0]].sum(axis=1)
        bits = network.weight_bits[layers, of_layers].sum(axis=1)
        places = np.full(len(bits), cut)
        prices = work_of(network, places, bits, of_values @ network.value_sizes[values]).prices(request)
        met = noise <= budget * (1 + 1e-12)
        if request.device.memory_bytes is not None:
            met &= (bits + network.head_bits[cut]) / 8 + network.peak_bytes[cut] <= request.device.memory_bytes
        if request.deadline_s is not None:
            met &= prices.time_s <= request.deadline_s * (1 + 1e-12)
        if request.energy_budget_j is not None:
            met &= prices.energy_j <= request.energy_budget_j * (1 + 1e-12)
        best = min(best, float(np.where(met, prices.objective(request), np.inf).min(initial=np.inf)))
    return best


def test_cuts_that_are_no_prefixes_are_among_those_looked_at(profile: Profile) -> None:
    crossings = {frozenset(cut.crossing) for cut in profile.closed_cuts}
    assert profile.complete
    assert len(crossings) == len(profile.closed_cuts) > len(profile.cuts)


@pytest.mark.parametrize("place", range(40))
def test_no_cut_and_no_widths_are_better(profile: Profile, place: int) -> None:
    request = variants()[place]
    plan = profile.plan(request)
    assert plan.objective == pytest.approx(by_brute_force(profile, request), rel=1e-9)
    assert plan.lower_bound == pytest.approx(plan.objective, rel=1e-9)
    assert set(plan.weight_bits.values()) | set(plan.activation_bits.values()) <= set(NARROW)
    assert set(plan.resolutions.values()) <= set(FITTING)


@pytest.mark.parametrize("limit", ["memory_bytes", "deadline_s", "energy_budget_j"])
@pytest.mark.parametrize("place", range(10))
def test_under_a_limit_too(profile: Profile, place: int, limit: str) -> None:
    request = variants()[place]
    free = profile.plan(request)
    used = {"memory_bytes": free.device_memory_bytes, "deadline_s": free.time_s, "energy_budget_j": free.energy_j}[
        limit
    ]
    for share in (0.97, 0.8, 0.5):
        if limit == "memory_bytes":
            tight = dataclasses.replace(
                request, device=dataclasses.replace(request.device, memory_bytes=max(1, int(share * used)))
            )
        else:
            tight = dataclasses.replace(request, **cast(dict[str, Any], {limit: max(1e-15, share * used)}))
        best = by_brute_force(profile, tight)
        if best == np.inf:
            with pytest.raises(qpart.InfeasibleError) as caught:
                profile.plan(tight)
            assert caught.value.limit.split(".")[-1] == limit
            assert caught.value.nearest is not None
        else:
            plan = profile.plan(tight)
            assert plan.objective == pytest.approx(best, rel=1e-9)
            assert plan.lower_bound == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("cycles_per_mac", [1.0, {2: 0.5, 8: 1.0}])
def test_a_long_round_trip_moves_the_deadline_and_nothing_else(profile: Profile, cycles_per_mac: Any) -> None:
    """Also where what bits take is next to nothing beside it."""
    long = 1e4
    for request in variants()[:10]:
        free = dataclasses.replace(
            request,
            device=dataclasses.replace(request.device, cycles_per_mac=cycles_per_mac),
            link=dataclasses.replace(request.link, downlink_bps=1e6),
            inferences_per_download=10**4,
        )
        plan = profile.plan(free)
        for share in (0.3, 1.0):
            deadline = plan.time_s - (1 - share) * plan.prices["download_time_s"]
            near = dataclasses.replace(free, deadline_s=deadline)
            far = dataclasses.replace(
                free, deadline_s=long + deadline, link=dataclasses.replace(free.link, round_trip_s=long)
            )
            answers: list[Any] = []
            for each in (near, far):
                try:
                    made = profile.plan(each)
                    answers.append((made.cut, made.weight_bits, made.activation_bits))
                except qpart.InfeasibleError:
                    answers.append(None)
            assert answers[0] == answers[1]


def test_never_worse_than_the_paper_s_method_at_its_own_noise() -> None:
    """The paper's plans keep the same noise budget or are not compared; of those that do, none is better."""
    torch.manual_seed(0)
    profile = qpart.profile(Branching(), [torch.randn(48, 2, 4, 4)], rounding="nearest", progress=False)
    planner = ExactPlanner(profile)
    compared = 0
    for request in variants():
        paper, exact = profile.plan(request, method="paper"), profile.plan(request)
        layers = {layer.name: layer.noise_by_width for layer in profile.layers}
        values = {value.name: value.noise_by_width for value in profile.values}
        noise = sum(layers[name][bits - WIDTHS[0]] for name, bits in paper.weight_bits.items())
        noise += sum(values[name][bits - WIDTHS[0]] for name, bits in paper.activation_bits.items())
        if noise <= profile.noise_curve.noise_at(planner.first_drop(request)):
            compared += 1
            assert exact.objective <= paper.objective * (1 + 1e-9)
    assert compared > 5


def test_one_cut_alone(profile: Profile) -> None:
    for cut in profile.closed_cuts:
        plan = profile.plan(REQUEST, cut=cut.crossing)
        assert plan.cut == cut.crossing
        assert plan.objective >= profile.plan(REQUEST).objective * (1 - 1e-12)
    assert profile.plan(REQUEST, cut="output").device_nodes == profile.closed_cuts[-1].device_nodes


def test_a_closed_set_that_is_no_prefix_is_lowered_as_planned(profile: Profile) -> None:
    x = torch.randn(3, 2, 4, 4)
    for cut in profile.closed_cuts:
        split = profile.compile(profile.plan(REQUEST, cut=cut.crossing))
        assert split.plan is not None
        assert split.plan.measured_drop is not None
        payload = split.unpack_activation(split.pack_activation(split.head(x)))
        torch.testing.assert_close(split.tail(*payload), split(x))


def test_a_saved_profile_gives_the_same_plans(profile: Profile, tmp_path: Path) -> None:
    path = tmp_path / "profile.qpart"
    profile = dataclasses.replace(profile, check=())  # or what the file predicts would be set right by them
    profile.save(path)
    loaded = qpart.load(path)
    assert isinstance(loaded, Profile)
    assert [loaded.plan(request) for request in variants()] == [profile.plan(request) for request in variants()]


def test_a_profile_refuses_other_weights(profile: Profile, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Branching().eval()
    profile = qpart.profile(model, [torch.randn(48, 2, 4, 4)], progress=False)
    profile.require_weights(model)
    profile.save(tmp_path / "profile.qpart")
    loaded = qpart.load(tmp_path / "profile.qpart")
    assert isinstance(loaded, Profile)
    loaded.require_weights(model)
    plan = profile.plan(qpart.Request.paper())
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    for known in (profile, loaded):
        with pytest.raises(qpart.RequestError, match="made for other weights than those of the Branching"):
            known.require_weights(model)
    trained_on = qpart.profile(model, [torch.randn(48, 2, 4, 4)], progress=False)
    with pytest.raises(qpart.RequestError, match="of other weights than this profile's: plan again"):
        trained_on.compile(plan)
