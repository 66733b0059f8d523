"""Plans for devices that hold another head: priced as the update that they are sent, and none is better."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

import qpart_fx as qpart
from qpart_fx import head_size
from qpart_fx.exact_planner import ExactPlanner
from qpart_fx.model_profile import Profile
from qpart_fx.noise import WIDTHS
from qpart_fx.passes.find_closed_cuts import cut_graph
from qpart_fx.pattern_table import work_of
from qpart_fx.plan import Plan
from qpart_fx.resolution import RESOLUTIONS, width_of
from tests.test_exact_planner import FITTING, NARROW, Branching, variants


@pytest.fixture(scope="module")
def profile() -> Profile:
    torch.manual_seed(0)
    return qpart.profile(Branching(), [torch.randn(48, 2, 4, 4)], progress=False)


@pytest.fixture(scope="module")
def large() -> Profile:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 6),
    )  # fmt: skip
    return qpart.profile(model.eval(), [torch.randn(60, 3, 8, 8)], progress=False)


def holding(profile: Profile, request: qpart.Request, random: np.random.Generator) -> qpart.Request:
    """The request from a device that holds the head of some plan, at random widths and some cut."""
    cut = profile.closed_cuts[random.integers(len(profile.closed_cuts))].crossing
    loose = dataclasses.replace(request, max_accuracy_drop=0.05, deadline_s=None, energy_budget_j=None)
    plan = profile.plan(loose, cut=cut)
    bits = random.choice(FITTING, len(plan.layers))
    return dataclasses.replace(request, device_holds=with_resolutions(profile, plan, bits.tolist()))


def with_resolutions(profile: Profile, plan: Plan, resolutions: Sequence[float]) -> Plan:
    layers = [
        layer
        if layer.bits is None
        else dataclasses.replace(
            layer, bits=width_of(bits), coded_bits=known.bits_by_resolution[bits], resolution=float(bits)
        )
        for layer, known, bits in zip(plan.layers, profile.layers, resolutions, strict=True)
    ]
    return dataclasses.replace(plan, layers=tuple(layers))


def by_brute_force(profile: Profile, request: qpart.Request) -> float:
    """The least objective over every cut and every choice of bits; layers held at theirs are not downloaded."""
    planner = ExactPlanner(profile)
    network, held = planner.network, request.device_holds
    assert held is not None
    saved = planner._held(held)
    budget = profile.noise_curve.noise_at(planner.first_drop(request))
    best = np.inf
    for cut in range(len(profile.closed_cuts)):
        layers, values = np.flatnonzero(network.layers[cut]), list(network.values[cut])
        for chosen in itertools.product(*[FITTING] * len(layers), *[NARROW] * len(values)):
            of_layers = np.array([RESOLUTIONS.index(bits) for bits in chosen[: len(layers)]], int)
            of_values = np.array(chosen[len(layers) :], int)
            noise = network.noise[layers, of_layers].sum()
            noise += network.value_noise[values, of_values - WIDTHS[0]].sum()
            if noise > budget * (1 + 1e-12):
                continue
            stored = network.weight_bits[layers, of_layers].sum()
            bits = stored - saved.weight_bits[layers, of_layers].sum() - saved.head_bits[cut]
            crossing = np.array([of_values @ network.value_sizes[values]])
            work = work_of(network, np.array([cut]), np.array([bits]), crossing).of(0)
            if request.device.speed_depends_on_width:
                macs = network.macs[layers] @ [
                    request.device.cycles_at(width_of(bits)) for bits in chosen[: len(layers)]
                ]
                others = network.device_macs[cut] - network.macs[layers].sum()
                cycles = request.device.float_cycles_per_mac
                work = dataclasses.replace(work, device_macs=float(others + macs / cycles))
            prices = work.prices(request)
            memory = (stored + network.head_bits[cut]) / 8 + network.peak_bytes[cut]
            if request.device.memory_bytes is not None and memory > request.device.memory_bytes:
                continue
            if request.deadline_s is not None and prices.time_s > request.deadline_s * (1 + 1e-12):
                continue
            best = min(best, float(prices.objective(request)))
    return best


@pytest.mark.parametrize("by_width", [False, True])
@pytest.mark.parametrize("place", range(20))
def test_no_cut_and_no_widths_are_better(profile: Profile, place: int, by_width: bool) -> None:
    request = holding(profile, variants()[place], np.random.default_rng(place))
    if by_width:
        device = dataclasses.replace(request.device, cycles_per_mac={2: 0.4, 8: 1.0})
        request = dataclasses.replace(request, device=device)
    plan = profile.plan(request)
    assert plan.updates_held_head
    assert plan.objective == pytest.approx(by_brute_force(profile, request), rel=1e-9)
    assert plan.lower_bound == pytest.approx(plan.objective, rel=1e-9)


@pytest.mark.parametrize("limit", ["memory_bytes", "deadline_s"])
@pytest.mark.parametrize("place", range(8))
def test_under_a_limit_too(profile: Profile, place: int, limit: str) -> None:
    request = holding(profile, variants()[place], np.random.default_rng(place))
    free = profile.plan(request)
    for share in (0.97, 0.7):
        if limit == "memory_bytes":
            device = dataclasses.replace(request.device, memory_bytes=max(1, int(share * free.device_memory_bytes)))
            tight = dataclasses.replace(request, device=device)
        else:
            tight = dataclasses.replace(request, **cast(dict[str, Any], {limit: share * free.time_s}))
        best = by_brute_force(profile, tight)
        if best == np.inf:
            with pytest.raises(qpart.InfeasibleError):
                profile.plan(tight)
        else:
            plan = profile.plan(tight)
            assert plan.objective == pytest.approx(best, rel=1e-9)
            assert plan.lower_bound == pytest.approx(best, rel=1e-9)


def test_the_bound_holds_where_not_all_cuts_are_known(profile: Profile) -> None:
    """Over all cuts by Lagrange's dual, for a profile that knows a few only."""
    few = dataclasses.replace(profile, cut_graph=cut_graph(profile.graph))
    for place in range(10):
        request = holding(profile, variants()[place], np.random.default_rng(place))
        plan, best = few.plan(request), by_brute_force(profile, request)
        assert plan.lower_bound is not None
        assert plan.lower_bound <= best * (1 + 1e-9)


def test_the_head_that_is_held_costs_next_to_nothing(large: Profile) -> None:
    request = qpart.Request.paper(0.05)
    held = large.plan(request, cut="output")
    again = large.plan(dataclasses.replace(request, device_holds=held), cut="output")
    assert again.weight_bits == held.weight_bits
    assert again.download_bytes < 300 < held.download_bytes
    assert again.device_memory_bytes == held.device_memory_bytes
    assert again.objective < held.objective
    assert again.prices["download_time_s"] > 0


@pytest.mark.parametrize("bits", [[6, 5, 5, 5], [5, 8, 4.5, 2.5], [5, 5, 9, 6], [7, 7, 7, 7], [16, 2, 5, 5]])
@pytest.mark.parametrize("place", range(7))
def test_a_plan_says_how_large_the_update_is(large: Profile, place: int, bits: list[float]) -> None:
    """Within a percent of the file, whether layers stay, come anew, or change their resolutions."""
    cut = large.closed_cuts[place % len(large.closed_cuts)].crossing
    request = qpart.Request.paper(0.05)
    held = with_resolutions(large, large.plan(request, cut=cut), bits)
    held_file = large.compile(held).packed_head()
    for target in (large.closed_cuts[3].crossing, large.closed_cuts[-1].crossing):
        plan = large.plan(dataclasses.replace(request, device_holds=held), cut=target)
        split = large.compile(plan)
        update, whole = split.packed_update(held_file), split.packed_head()
        assert abs(len(update) - plan.download_bytes) <= max(0.01 * len(whole), 150)
        assert "update of the head that the device holds" in str(plan)


def test_updates_of_large_layers_are_estimated_from_some_of_their_channels(large: Profile) -> None:
    layer = large.layers[2].name
    weight = large.graph.get_parameter(next(iter(large.layers[2].channel_sensitivity)))
    exact = large.update_bits(layer, 6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head_size, "_SAMPLED", weight.numel() // 2)
        near = head_size.update_bits(large.rounding, next(iter(large.layers[2].channel_sensitivity)), weight, 6)
    assert near != exact
    assert np.allclose(near, exact, rtol=0.15, atol=800)


def test_a_profile_of_the_paper_s_rounding_prices_whole_layers() -> None:
    torch.manual_seed(0)
    profile = qpart.profile(Branching(), [torch.randn(48, 2, 4, 4)], rounding="nearest", progress=False)
    request = variants()[1]
    held = profile.plan(request, cut="output")
    again = profile.plan(dataclasses.replace(request, device_holds=held), cut="output")
    assert again.weight_bits == held.weight_bits
    assert again.download_bytes == 0 < held.download_bytes


def test_many_requests_are_answered_alike(profile: Profile) -> None:
    requests = [holding(profile, each, np.random.default_rng(n)) for n, each in enumerate(variants()[:10])]
    plain = variants()[:10]
    plans = profile.plan_many([*requests, *plain])
    assert list(plans) == [profile.plan(request) for request in (*requests, *plain)]
    assert any(plan != other for plan, other in zip(plans[:10], plans[10:], strict=True))


def test_a_layer_that_was_rounded_otherwise_is_no_use(profile: Profile) -> None:
    request = holding(profile, variants()[0], np.random.default_rng(0))
    held = request.device_holds
    assert held is not None
    other = dataclasses.replace(
        held, layers=tuple(dataclasses.replace(layer, coded_bits=(layer.coded_bits or 0) + 8) for layer in held.layers)
    )
    assert (ExactPlanner(profile)._held(other).weight_bits <= 0).all()
    assert (ExactPlanner(profile)._held(held).weight_bits.max(axis=1) > 0).sum() == len(held.weight_bits)


def test_the_head_of_another_model_is_refused(profile: Profile, large: Profile) -> None:
    request = variants()[0]
    foreign = large.plan(qpart.Request.paper(0.05))
    with pytest.raises(qpart.RequestError, match="device_holds: the plan is for a Sequential of other weights"):
        profile.plan(dataclasses.replace(request, device_holds=foreign))
    own = dataclasses.replace(profile.plan(request), weights_hash="0" * 64)
    for plan in (profile.plan, profile.compile, lambda each: profile.plan_many([each])[0]):
        with pytest.raises(qpart.RequestError, match="of other weights than those of the Branching"):
            plan(dataclasses.replace(request, device_holds=own))


def test_the_paper_s_method_knows_no_updates(profile: Profile) -> None:
    request = holding(profile, variants()[0], np.random.default_rng(0))
    with pytest.raises(qpart.RequestError, match="prices whole heads only"):
        profile.plan(request, method="paper")


def test_something_else_than_a_plan_is_refused() -> None:
    with pytest.raises(qpart.RequestError, match=r"Request\.device_holds"):
        dataclasses.replace(variants()[0], device_holds=cast(Plan, 3))
