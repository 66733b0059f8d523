"""Devices whose MACs take longer at some widths, or that send other widths than they store: no plan does better."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import qpart_fx as qpart
from qpart_fx.exact_planner import ExactPlanner
from qpart_fx.model_profile import Profile
from qpart_fx.noise import WIDTHS
from qpart_fx.resolution import places_of, width_of


class Attending(nn.Module):
    """Two branches that meet in products without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.query, self.key, self.head = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(5, 4), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).relu()
        mixed = torch.matmul(self.query(y), self.key(y).transpose(1, 2)).softmax(-1)
        scores: Tensor = self.head(torch.matmul(mixed, y).mean(1))
        return scores


@pytest.fixture(scope="module")
def profile() -> Profile:
    torch.manual_seed(0)
    return qpart.profile(Attending(), [torch.randn(64, 4, 6)], progress=False)


WEIGHTS, VALUES = (2, 4, 8), (3, 8)

LIMITS = ("device.memory_bytes", "deadline_s", "energy_budget_j")


def requests(count: int) -> list[qpart.Request]:
    """At random speeds, mostly by width, and random rates and prices."""
    random = np.random.default_rng(0)

    def power(low: float, high: float) -> float:
        return float(10 ** random.uniform(low, high))

    made = []
    for _ in range(count):
        rate = power(3, 7)
        listed = random.choice([3, 4, 6, 8, 16], int(random.integers(2, 4)), replace=False)
        made.append(
            qpart.Request(
                max_accuracy_drop=float(random.choice([0.005, 0.02, 0.05])),
                device=qpart.Device(
                    clock_hz=power(4, 8),
                    cycles_per_mac=power(-1, 1)
                    if random.random() < 0.2
                    else {int(bits): power(-1, 1) for bits in listed},
                    kappa=power(-26, -18),
                    weight_bits=WEIGHTS,
                    activation_bits=VALUES if random.random() < 0.7 else None,
                ),
                server=qpart.Server(clock_hz=power(6, 9), cycles_per_mac=1, price_per_s=power(-2, 2)),
                link=qpart.Link(uplink_bps=rate, downlink_bps=rate * 3, receive_power_w=power(-2, 0)),
                objective=qpart.Objective(*random.uniform(0, 2, 3).tolist()),
                inferences_per_download=int(power(0, 4)),
                device_holds_head=bool(random.random() < 0.2),
            )
        )
    return made


def cycles(request: qpart.Request, bits: int) -> float:
    listed = request.device.cycles_per_mac
    if not isinstance(listed, Mapping):
        return listed
    return next((listed[width] for width in sorted(listed) if width >= bits), listed[max(listed)])


@dataclasses.dataclass(frozen=True)
class Choices:
    """Every cut with every choice of bits within the noise budget, priced term by term; arrays of one entry each."""

    time_s: Any
    energy_j: Any
    memory_bytes: Any
    objective: Any

    @classmethod
    def of(cls, profile: Profile, request: qpart.Request) -> Choices:
        network, device, link = ExactPlanner(profile).network, request.device, request.link
        budget = profile.noise_curve.noise_at(ExactPlanner(profile).first_drop(request))
        uses = 0.0 if request.device_holds_head else 1 / request.inferences_per_download
        parts = []
        for place, cut in enumerate(profile.closed_cuts):
            layers, values = np.flatnonzero(network.layers[place]), list(network.values[place])
            value_widths = device.weight_bits if device.activation_bits is None else device.activation_bits
            options = places_of(device.weight_bits, network.resolutions)
            every = [*itertools.product(*[options] * len(layers), *[value_widths] * len(values))]
            chosen = np.array(every, dtype=np.int64).reshape(len(every), len(layers) + len(values))
            of_layers, of_values = chosen[:, : len(layers)], chosen[:, len(layers) :]
            noise = network.noise[layers, of_layers].sum(axis=1)
            noise += network.value_noise[values, of_values - WIDTHS[0]].sum(axis=1)
            weight_bits = network.weight_bits[layers, of_layers].sum(axis=1) + network.head_bits[place]
            macs = np.array([profile.layers[layer].macs for layer in layers], dtype=np.float64)
            per_mac = np.vectorize(lambda place: cycles(request, width_of(network.resolutions[place])), otypes=[float])(
                of_layers
            )
            ticks = per_mac @ macs + cycles(request, 16) * (cut.device_macs - macs.sum())
            download = weight_bits * uses / link.downlink_bps
            upload = (of_values @ network.value_sizes[values] + cut.exact_bits) / link.uplink_bps
            server = cut.server_macs * request.server.cycles_per_mac / request.server.clock_hz
            time = ticks / device.clock_hz + download + upload + server
            energy = device.kappa * device.clock_hz**2 * ticks
            energy += link.receive_power_w * download + link.transmit_power_w * upload
            goal = request.objective
            objective = goal.time * time + goal.energy * energy + goal.cost * request.server.price_per_s * server
            kept = noise <= budget
            parts.append([each[kept] for each in (time, energy, weight_bits / 8 + cut.peak_bytes, objective)])
        return cls(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def least(self, request: qpart.Request) -> float:
        """The least objective within the request's limits."""
        met = np.ones(len(self.objective), dtype=bool)
        for used, limit in (
            (self.time_s, request.deadline_s),
            (self.energy_j, request.energy_budget_j),
            (self.memory_bytes, request.device.memory_bytes),
        ):
            if limit is not None:
                met &= used <= limit * (1 + 1e-12)
        return float(self.objective[met].min(initial=np.inf))


def check(profile: Profile, request: qpart.Request, choices: Choices) -> bool:
    """Whether there is a plan, which then has to be the best; otherwise what is in its way has to be named."""
    best = choices.least(request)
    if best == np.inf:
        with pytest.raises(qpart.InfeasibleError) as caught:
            profile.plan(request)
        assert caught.value.limit in LIMITS
        assert caught.value.nearest is not None
        assert caught.value.nearest.to_json()
        return False
    plan = profile.plan(request)
    assert plan.objective == pytest.approx(best, rel=1e-9)
    assert plan.lower_bound == pytest.approx(best, rel=1e-9)
    assert plan.lower_bound is not None
    assert plan.lower_bound <= plan.objective
    assert set(plan.weight_bits.values()) <= set(request.device.weight_bits)
    assert set(plan.activation_bits.values()) <= set(request.device.crossing_bits)
    return True


def test_some_macs_are_without_weights(profile: Profile) -> None:
    assert 0 < sum(layer.macs for layer in profile.layers) < profile.closed_cuts[-1].device_macs


@pytest.mark.parametrize("place", range(40))
def test_no_cut_and_no_widths_are_better(profile: Profile, place: int) -> None:
    request = requests(40)[place]
    assert check(profile, request, Choices.of(profile, request))


def between(profile: Profile, request: qpart.Request, choices: Choices, **shares: float) -> qpart.Request:
    """``request`` with limits at a share of the way from the least that any choice uses to what its plan uses."""
    free, limits = profile.plan(request), {}
    for name, used, possible in (
        ("memory_bytes", free.device_memory_bytes, choices.memory_bytes),
        ("deadline_s", free.time_s, choices.time_s),
        ("energy_budget_j", free.energy_j, choices.energy_j),
    ):
        if name in shares:
            least = float(possible.min())
            limits[name] = least + shares[name] * max(used - least, 0.1 * least)
    memory = limits.pop("memory_bytes", None)
    device = dataclasses.replace(request.device, memory_bytes=None if memory is None else int(memory) + 1)
    return dataclasses.replace(request, device=device, **cast(dict[str, Any], limits))


@pytest.mark.parametrize("limit", ["memory_bytes", "deadline_s", "energy_budget_j"])
@pytest.mark.parametrize("place", range(12))
def test_under_a_limit_too(profile: Profile, place: int, limit: str) -> None:
    request = requests(12)[place]
    choices = Choices.of(profile, request)
    for share in (0.05, 0.4, 0.7, 0.95):
        assert check(profile, between(profile, request, choices, **{limit: share}), choices)


@pytest.mark.parametrize("limit", ["memory_bytes", "deadline_s", "energy_budget_j"])
def test_a_limit_that_nothing_meets_is_named(profile: Profile, limit: str) -> None:
    request = next(each for each in requests(12) if each.device.speed_depends_on_width)
    choices = Choices.of(profile, request)
    if limit == "memory_bytes":
        few = int(choices.memory_bytes.min()) - 1
        impossible = dataclasses.replace(request, device=dataclasses.replace(request.device, memory_bytes=few))
    else:
        least = float({"deadline_s": choices.time_s, "energy_budget_j": choices.energy_j}[limit].min())
        impossible = dataclasses.replace(request, **cast(dict[str, Any], {limit: 0.99 * least}))
    with pytest.raises(qpart.InfeasibleError) as caught:
        profile.plan(impossible)
    assert caught.value.limit.split(".")[-1] == limit


def test_under_several_limits_too(profile: Profile) -> None:
    random, met = np.random.default_rng(1), []
    for request in requests(30):
        choices = Choices.of(profile, request)
        shares = {name: float(random.uniform(0.3, 3)) for name in ("memory_bytes", "deadline_s", "energy_budget_j")}
        del shares[[*shares][random.integers(3)]]
        met.append(check(profile, between(profile, request, choices, **shares), choices))
    assert 5 < sum(met) < len(met)


@pytest.mark.parametrize("place", range(8))
def test_each_cut_alone(profile: Profile, place: int) -> None:
    request = requests(8)[place]
    best = profile.plan(request)
    plans = [profile.plan(request, cut=cut.crossing) for cut in profile.closed_cuts]
    assert [plan.cut for plan in plans] == [cut.crossing for cut in profile.closed_cuts]
    assert all(plan.lower_bound == pytest.approx(plan.objective, rel=1e-9) for plan in plans)
    assert min(plan.objective for plan in plans) == pytest.approx(best.objective, rel=1e-9)


def test_prices_are_those_of_the_widths_chosen(profile: Profile) -> None:
    seen = set()
    for request in requests(40):
        plan = profile.plan(request)
        cut = next(cut for cut in profile.closed_cuts if cut.crossing == plan.cut)
        on_device = [layer for layer in plan.layers if layer.bits is not None]
        ticks = sum(layer.macs * cycles(request, layer.bits or 0) for layer in on_device)
        ticks += (cut.device_macs - sum(layer.macs for layer in on_device)) * cycles(request, 16)
        assert plan.prices["device_time_s"] == pytest.approx(ticks / request.device.clock_hz)
        assert plan.prices["device_energy_j"] == pytest.approx(
            request.device.kappa * request.device.clock_hz**2 * ticks
        )
        here = next(price for price in plan.by_cut if price.cut == plan.cut)
        assert here.objective == pytest.approx(plan.objective)
        assert here.feasible
        seen.add(len(on_device))
    assert len(seen) > 2


def test_nearly_one_speed_is_planned_for_as_one_speed(profile: Profile) -> None:
    for request in requests(40):
        cycles_per_mac = cycles(request, 8)
        one, equal, nearly = (
            dataclasses.replace(request, device=dataclasses.replace(request.device, cycles_per_mac=each))
            for each in (
                cycles_per_mac,
                {4: cycles_per_mac, 8: cycles_per_mac},
                {4: cycles_per_mac, 8: cycles_per_mac * (1 + 1e-14)},
            )
        )
        assert profile.plan(equal) == profile.plan(one)
        assert nearly.device.speed_depends_on_width
        assert profile.plan(nearly).objective == pytest.approx(profile.plan(one).objective, rel=1e-9)


def test_where_time_matters_and_narrow_macs_are_faster_weights_are_narrow(profile: Profile) -> None:
    request = qpart.Request(
        max_accuracy_drop=0.05,
        device=qpart.Device(clock_hz=1e6, cycles_per_mac=1, weight_bits=(4, 8)),
        server=qpart.Server(clock_hz=1e3, cycles_per_mac=1),
        link=qpart.Link(uplink_bps=1e9, downlink_bps=1e9),
        objective=qpart.Objective(time=1, energy=0, cost=0),
        device_holds_head=True,  # bits cost nothing, but for the MACs
    )

    def narrow(cycles_per_mac: float | Mapping[int, float]) -> int:
        """MACs with four bits."""
        device = dataclasses.replace(request.device, cycles_per_mac=cycles_per_mac)
        plan = profile.plan(dataclasses.replace(request, device=device))
        return sum(layer.macs for layer in plan.layers if layer.bits == 4)

    assert narrow({4: 1, 8: 2}) > narrow({4: 2, 8: 1})
    assert narrow({4: 2, 8: 1}) == 0


def test_many_plans_are_the_same_as_one_at_a_time(profile: Profile) -> None:
    assert profile.plan_many(requests(10)) == [profile.plan(request) for request in requests(10)]


def test_a_plan_is_lowered_with_its_widths(profile: Profile) -> None:
    request = next(
        each for each in requests(40) if each.device.speed_depends_on_width and profile.plan(each).weight_bits
    )
    split = profile.compile(profile.plan(request))
    x = torch.randn(3, 4, 6)
    payload = split.unpack_activation(split.pack_activation(split.head(x)))
    torch.testing.assert_close(split.tail(*payload), split(x))
    assert split.plan is not None
    assert split.plan.measured_drop is not None


def test_the_paper_s_method_knows_one_speed(profile: Profile) -> None:
    request = next(each for each in requests(40) if each.device.speed_depends_on_width)
    with pytest.raises(qpart.RequestError, match=r"device\.cycles_per_mac = \{.*one speed.*method='exact'"):
        profile.plan(request, method="paper")
    one = dataclasses.replace(request, device=dataclasses.replace(request.device, cycles_per_mac=1.0))
    plan = profile.plan(one, method="paper")
    assert set(plan.weight_bits.values()) <= set(one.device.weight_bits)
    assert set(plan.activation_bits.values()) <= set(one.device.crossing_bits)


@pytest.mark.parametrize("cycles_per_mac", [1.0, {4: 1.0, 8: 2.0}])
def test_widths_that_are_too_few_for_the_accuracy_are_named(
    profile: Profile, cycles_per_mac: float | Mapping[int, float]
) -> None:
    request = qpart.Request.paper(
        0.001,
        device=qpart.Device(1e6, cycles_per_mac, weight_bits=(2, 4), activation_bits=(2,)),
    )
    with pytest.raises(
        qpart.InfeasibleError, match=r"weight_bits = \(2, 4\) and device\.activation_bits = \(2,\)"
    ) as no:
        profile.plan(request)
    assert no.value.limit == "max_accuracy_drop"
    assert no.value.nearest is not None
