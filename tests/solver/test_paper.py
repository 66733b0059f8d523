"""Algorithms 1 and 2 against an enumeration that was written from the paper alone."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qpart_fx import Device, Link, Objective, Request, Server
from qpart_fx.noise import WIDTHS
from qpart_fx.solver.choice import Choice
from qpart_fx.solver.paper import Chain, choose, offline_patterns, price_patterns

Floats = NDArray[np.float64]
seeds = st.integers(0, 2**32)


def random_chain(random: np.random.Generator) -> Chain:
    """A chain of 1 to 4 layers, every p a cut, noise off the line; at the last cut perhaps only exact bits cross."""
    layers = int(random.integers(1, 5))

    def table(rows: int) -> Floats:
        noise = 10.0 ** random.uniform(-1, 2, (rows, 1)) * 4.0 ** -np.array(WIDTHS, dtype=float)
        noise *= random.uniform(1, 10, noise.shape)
        return np.asarray(np.maximum.accumulate(noise[:, ::-1], axis=1)[:, ::-1])

    macs = random.integers(10, 10_000, layers).astype(float)
    done = np.concatenate([[0.0], macs.cumsum()])
    crossing = random.integers(1, 500, layers + 1).astype(float)
    crossing[-1] *= random.integers(0, 2)
    return Chain(
        sizes=random.integers(1, 2000, layers).astype(float),
        degradation=table(layers),
        layers=np.arange(layers + 1),
        crossing_sizes=crossing,
        crossing_degradation=table(layers + 1) * (crossing > 0)[:, None],
        device_macs=done,
        server_macs=done[-1] - done,
        exact_bits=64 * random.integers(0, 2, layers + 1).astype(float),
        peak_bytes=random.integers(0, 2000, layers + 1).astype(float),
    )


def random_request(random: np.random.Generator) -> Request:
    def power(low: float, high: float) -> float:
        return float(10 ** random.uniform(low, high))

    def widths() -> tuple[int, ...]:
        return tuple(random.choice(np.arange(2, 17), int(random.integers(1, 8)), replace=False).tolist())

    return Request(
        max_accuracy_drop=0.01,
        device=Device(
            power(4, 7),
            power(0, 1),
            power(-16, -12),
            int(power(2, 4)) if random.random() < 0.5 else None,
            widths(),
            widths() if random.random() < 0.3 else None,
        ),
        server=Server(power(6, 9), power(-1, 1), power(-1, 2)),
        link=Link(power(4, 6), power(4, 6), power(-4, -2), power(-1, 0), power(-1, 0)),
        objective=Objective(*random.uniform(0, 2, 3)),
        inferences_per_download=int(random.integers(1, 100)),
        device_holds_head=bool(random.random() < 0.2),
        deadline_s=power(-3, 1) if random.random() < 0.5 else None,
        energy_budget_j=power(-3, 1) if random.random() < 0.5 else None,
    )


def random_budgets(random: np.random.Generator) -> list[float]:
    """Delta(a), strictest first."""
    budgets: list[float] = np.sort(10 ** random.uniform(-7, 1, 5)).tolist()
    return budgets


@dataclass
class Pattern:
    """What the paper's formulas say of one cut and level."""

    weights: list[int]
    crossing: int
    objective: float
    oversteps: dict[str, float]

    @property
    def feasible(self) -> bool:
        return max(self.oversteps.values()) <= 1 + 1e-9


def pattern(request: Request, chain: Chain, p: int, budget: float) -> Pattern:
    def rounded_up(needed: int, widths: tuple[int, ...]) -> int:
        return min((b for b in widths if b >= needed), default=max(widths))

    sends = chain.crossing_sizes[p] > 0
    # the widths to choose: of layers 1 to p, the last shared with what crosses; for p = 0 the input's
    sizes = [chain.sizes[layer] for layer in range(p)] or ([0.0] if sends else [])
    lost = [list(chain.degradation[layer]) for layer in range(p)] or ([[0.0] * len(WIDTHS)] if sends else [])
    if sizes:
        sizes[-1] += chain.crossing_sizes[p]
        lost[-1] = [a + b for a, b in zip(lost[-1], chain.crossing_degradation[p], strict=True)]
    needed = []
    for size, row in zip(sizes, lost, strict=True):
        share = budget * size / sum(sizes)
        needed.append(next((b for b, noise in zip(WIDTHS, row, strict=True) if noise <= share * (1 + 1e-9)), 17))
    weights = [rounded_up(bits, request.device.weight_bits) for bits in needed[:p]]
    crossing = rounded_up(needed[-1], request.device.crossing_bits) if sends else 0

    z_w = sum(b * z for b, z in zip(weights, chain.sizes, strict=False))
    z_x = crossing * chain.crossing_sizes[p] + chain.exact_bits[p]
    device, server, link, goal = request.device, request.server, request.link, request.objective
    share_of_download = 0.0 if request.device_holds_head else 1 / request.inferences_per_download
    local = chain.device_macs[p] * device.float_cycles_per_mac / device.clock_hz
    download = share_of_download * z_w / link.downlink_bps
    upload = z_x / link.uplink_bps
    remote = chain.server_macs[p] * server.cycles_per_mac / server.clock_hz
    time = local + download + upload + remote + link.round_trip_s
    energy = device.kappa * device.clock_hz**2 * device.float_cycles_per_mac * chain.device_macs[p]
    energy += link.receive_power_w * download + link.transmit_power_w * upload
    objective = goal.time * time + goal.energy * energy + goal.cost * server.price_per_s * remote
    total = sum(chain.degradation[layer][b - 2] for layer, b in enumerate(weights))
    total += chain.crossing_degradation[p][crossing - 2] if sends else 0.0
    return Pattern(
        weights,
        crossing,
        objective,
        {
            "max_accuracy_drop": total / budget,
            "device.memory_bytes": (z_w / 8 + chain.peak_bytes[p]) / (device.memory_bytes or math.inf),
            "deadline_s": time / (request.deadline_s or math.inf),
            "energy_budget_j": energy / (request.energy_budget_j or math.inf),
        },
    )


def solve(request: Request, chain: Chain, budgets: list[float], eligible: NDArray[np.bool_] | None = None) -> Choice:
    candidates = price_patterns(request, chain, offline_patterns(chain, budgets))
    return choose(candidates, np.ones(candidates.objective.shape, bool) if eligible is None else eligible)


@settings(max_examples=150, deadline=None)
@given(seeds)
def test_the_patterns_and_their_prices_are_the_paper_s(seed: int) -> None:
    random = np.random.default_rng(seed)
    chain, request, budgets = random_chain(random), random_request(random), random_budgets(random)
    made = price_patterns(request, chain, offline_patterns(chain, budgets))
    for p, level in itertools.product(range(len(chain.layers)), range(len(budgets))):
        expected = pattern(request, chain, p, budgets[level])
        assert made.weights[p, level].tolist() == expected.weights + [0] * (len(chain.sizes) - p)
        assert made.crossing[p, level] == expected.crossing
        assert made.objective[p, level] == pytest.approx(expected.objective)
        found = {name: made.overstep[name][p, level] if name in made.overstep else 0.0 for name in expected.oversteps}
        assert found == pytest.approx(expected.oversteps)


@settings(max_examples=200, deadline=None)
@given(seeds)
def test_the_choice_is_the_best_of_all(seed: int) -> None:
    random = np.random.default_rng(seed)
    chain, request, budgets = random_chain(random), random_request(random), random_budgets(random)
    eligible = random.random((len(chain.layers), len(budgets))) < 0.7
    eligible[random.integers(len(chain.layers)), random.integers(len(budgets))] = True
    patterns = {(int(p), int(a)): pattern(request, chain, int(p), budgets[a]) for p, a in np.argwhere(eligible)}
    choice = solve(request, chain, budgets, eligible)
    chosen = patterns[choice.cut, choice.level]
    feasible = [each.objective for each in patterns.values() if each.feasible]
    if feasible:
        assert choice.limit is None
        assert chosen.feasible
        assert chosen.objective == pytest.approx(min(feasible))
    else:
        assert choice.limit is not None
        worst = min(max(each.oversteps.values()) for each in patterns.values())
        assert max(chosen.oversteps.values()) == pytest.approx(worst)
        assert choice.overstep == pytest.approx(chosen.oversteps[choice.limit])
        assert choice.overstep > 1
        alone = {name for name in chosen.oversteps if all(each.oversteps[name] > 1 for each in patterns.values())}
        assert choice.limit in alone or not any(chosen.oversteps[name] > 1 for name in alone)
        assert worst > 1


@settings(max_examples=100, deadline=None)
@given(seeds)
def test_a_lone_limit_that_binds_is_named_and_without_it_there_is_a_plan(seed: int) -> None:
    random = np.random.default_rng(seed)
    chain, budgets = random_chain(random), random_budgets(random)
    free = dataclasses.replace(
        random_request(random), deadline_s=None, energy_budget_j=None, device=Device(1e6, 1.0, 1e-12)
    )
    budgets[-1] = 1e9  # whatever the noise
    assert solve(free, chain, budgets).limit is None

    late = dataclasses.replace(free, deadline_s=1e-9)
    assert solve(late, chain, budgets).limit == "deadline_s"
    hungry = dataclasses.replace(free, energy_budget_j=1e-12)
    assert solve(hungry, chain, budgets).limit == "energy_budget_j"
    small = dataclasses.replace(free, device=dataclasses.replace(free.device, memory_bytes=1))
    fits = any(pattern(small, chain, p, a).feasible for p in range(len(chain.layers)) for a in budgets)
    assert (solve(small, chain, budgets).limit == "device.memory_bytes") != fits


def test_too_few_bits_for_the_accuracy_are_named() -> None:
    random = np.random.default_rng(0)
    chain = random_chain(random)
    request = dataclasses.replace(Request.paper(), device=Device(1e6, 1.0, weight_bits=(2,)))
    sending = chain.crossing_sizes > 0
    choice = solve(request, chain, [1e-9], sending[:, None])
    assert choice.limit == "max_accuracy_drop"
    assert choice.overstep > 1


@settings(max_examples=100, deadline=None)
@given(seeds)
def test_a_looser_accuracy_is_never_dearer(seed: int) -> None:
    random = np.random.default_rng(seed)
    chain, budgets = random_chain(random), random_budgets(random)
    request = dataclasses.replace(random_request(random), deadline_s=None, energy_budget_j=None)
    candidates = price_patterns(request, chain, offline_patterns(chain, budgets))
    best = []
    for levels in range(1, len(budgets) + 1):
        choice = choose(candidates, np.tile(np.arange(len(budgets)) < levels, (len(chain.layers), 1)))
        if choice.limit is None:
            best.append(candidates.objective[choice.cut, choice.level])
    assert best == sorted(best, reverse=True)


@settings(max_examples=50, deadline=None)
@given(seeds)
def test_a_looser_budget_needs_no_more_bits(seed: int) -> None:
    random = np.random.default_rng(seed)
    patterns = offline_patterns(random_chain(random), random_budgets(random))
    assert (np.diff(patterns.weights, axis=1) <= 0).all()
    assert (np.diff(patterns.crossing, axis=1) <= 0).all()


@settings(max_examples=50, deadline=None)
@given(seeds)
def test_only_the_device_s_widths_are_used(seed: int) -> None:
    random = np.random.default_rng(seed)
    chain, request = random_chain(random), random_request(random)
    made = price_patterns(request, chain, offline_patterns(chain, random_budgets(random)))
    assert set(made.weights.ravel().tolist()) <= {0, *request.device.weight_bits}
    assert set(made.crossing.ravel().tolist()) <= {0, *request.device.crossing_bits}


def test_the_last_layer_shares_its_width_with_what_crosses() -> None:
    random = np.random.default_rng(4)
    chain = random_chain(random)
    patterns = offline_patterns(chain, [1e-4])
    for p in range(1, len(chain.layers)):
        if chain.crossing_sizes[p]:
            assert patterns.crossing[p, 0] == patterns.weights[p, 0, p - 1]


def test_of_equals_the_first_is_taken() -> None:
    random = np.random.default_rng(1)
    chain = random_chain(random)
    free = Objective(time=0, energy=0, cost=0)
    assert solve(Request.paper(objective=free), chain, [1.0, 2.0]) == Choice(cut=0, level=0)
