"""Cut and widths together on random graphs: as good as trying every closed set with every choice of widths."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule, Node

import qpart_fx as qpart
from qpart_fx.compiler import analyse
from qpart_fx.drop_curve import DropCurve
from qpart_fx.meta import info
from qpart_fx.model_profile import LayerProfile, Profile, ValueProfile
from qpart_fx.noise import WIDTHS
from qpart_fx.passes.capture import capture
from qpart_fx.passes.find_closed_cuts import find_closed_cuts
from qpart_fx.prices import price
from qpart_fx.rounding import NearestRounding

Floats = NDArray[np.float64]

ALLOWED = (2, 5, 9)
DROP = 0.01

QUICK = range(30)
ALL = [*QUICK, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(30, 300))]


class RandomNetwork(nn.Module):
    """One to six linear layers, with additions, concatenations and activations of earlier values: at most 12 nodes.

    Its outputs are all values that nothing uses, and often one more.
    """

    def __init__(self, generator: random.Random) -> None:
        super().__init__()
        self.inputs = generator.randint(2, 9)
        self.steps: list[tuple[str, int, int]] = []
        widths, unused = [self.inputs], set[int]()
        for step in range(generator.randint(4, 11)):
            one = generator.randrange(max(0, len(widths) - 4), len(widths))
            other = generator.randrange(len(widths))
            kind = generator.choice(["linear", "linear", "relu", "join"]) if step else "linear"
            if kind == "linear" and len([*self.children()]) < 6:
                widths.append(generator.randint(2, 9))
                self.add_module(f"linear{step}", nn.Linear(widths[one], widths[-1]))
            elif kind == "join":
                kind = "add" if widths[one] == widths[other] else "cat"
                widths.append(widths[one] + (kind == "cat") * widths[other])
            else:
                kind = "relu"
                widths.append(widths[one])
            self.steps.append((kind, one, other))
            unused -= {one, other} if kind in ("add", "cat") else {one}
            unused.add(step + 1)
        self.outputs = sorted(unused | {generator.randint(1, len(self.steps))})

    def forward(self, x: Tensor) -> list[Tensor]:
        values = [x]
        for step, (kind, one, other) in enumerate(self.steps):
            if kind == "linear":
                values.append(getattr(self, f"linear{step}")(values[one]))
            elif kind == "relu":
                values.append(torch.relu(values[one]))
            elif kind == "add":
                values.append(values[one] + values[other])
            else:
                values.append(torch.cat([values[one], values[other]], dim=1))
        return [values[place] for place in self.outputs]


def random_profile(seed: int) -> Profile:
    """A real graph and its cuts, with noise that is random: it falls with the width, but not evenly."""
    model, numbers = RandomNetwork(random.Random(seed)), np.random.default_rng(seed)
    x = torch.randn(1, model.inputs)
    graph = capture(model.eval(), (x,))
    analyse(graph, (x,), {})

    def noise() -> tuple[float, ...]:
        unevenly = np.exp(numbers.normal(0, 0.7, len(WIDTHS)))
        return tuple((10 ** numbers.uniform(0, 3) * 4.0 ** -np.array(WIDTHS) * unevenly).tolist())

    nodes = inner(graph)
    scale = 10 ** numbers.uniform(-3, 2)
    curve = DropCurve(np.array([scale, 2 * scale]), np.array([DROP, 2 * DROP]))
    cuts = find_closed_cuts(graph).cuts
    return Profile(
        model="random",
        weights_hash="",
        layers=tuple(
            LayerProfile(
                node.name,
                "Linear",
                info(node).macs or 0,
                info(node).parameters,
                1,
                dict(zip(WIDTHS, noise(), strict=True)),
                {bits: float(info(node).parameters * bits) for bits in WIDTHS},
                {},
                1.0,
            )
            for node in nodes
            if info(node).parameters
        ),
        cuts=(),
        values=tuple(ValueProfile(node.name, info(node).elements, noise()) for node in nodes),
        closed_cuts=cuts,
        head_bits=(0.0,) * len(cuts),
        cut_graph=None,
        levels=(DROP,),
        adversarial_noise=1.0,
        curve=curve,
        noise_curve=curve,
        reference_drop=0.1,
        ranges={},
        inside={},
        work={},
        uncounted={},
        samples=1,
        graph=graph,
        rounding=NearestRounding(),
        fit=(),
        check=(),
        scorer=None,
    )


def inner(graph: GraphModule) -> list[Node]:
    return [node for node in graph.graph.nodes if node.op != "output"]


def random_request(numbers: np.random.Generator) -> qpart.Request:
    """MACs, downloads and uploads take times of about one order of magnitude, so that all of them count."""
    clock, rate = 1e4, 10 ** numbers.uniform(3, 5)
    server = 10 ** numbers.uniform(-0.5, 1) * clock
    return qpart.Request(
        max_accuracy_drop=DROP,
        device=qpart.Device(clock_hz=clock, cycles_per_mac=1, weight_bits=ALLOWED),
        server=qpart.Server(clock_hz=server, cycles_per_mac=1, price_per_s=1),
        link=qpart.Link(uplink_bps=rate, downlink_bps=10 ** numbers.uniform(-1, 1) * rate, round_trip_s=1e-3),
        inferences_per_download=int(10 ** numbers.uniform(0, 3)),
    )


def closed_sets(nodes: Sequence[Node]) -> Iterator[set[Node]]:
    """Every set of ``nodes`` that holds the inputs and, with every node, all that it uses."""
    free = [node for node in nodes if node.op != "placeholder"]
    for chosen in product([False, True], repeat=len(free)):
        inside = {node for node, is_inside in zip(free, chosen, strict=True) if is_inside}
        inside |= {node for node in nodes if node.op == "placeholder"}
        if all(source in inside for node in inside for source in node.all_input_nodes):
            yield inside


def choices(sizes: Sequence[int], noise: Sequence[tuple[float, ...]]) -> tuple[Floats, Floats]:
    """Bits and noise of every choice of widths."""
    count = len(sizes)
    chosen = np.array([*product(ALLOWED, repeat=count)], dtype=np.int64).reshape(len(ALLOWED) ** count, count)
    table = np.array(noise).reshape(-1, len(WIDTHS))
    return np.asarray(chosen @ np.array(sizes), dtype=np.float64), table[np.arange(count), chosen - WIDTHS[0]].sum(
        axis=1
    )


def by_brute_force(profile: Profile, requests: Sequence[qpart.Request]) -> Floats:
    """The least objective of each request over all closed sets and all choices of widths."""
    layers = {layer.name: layer for layer in profile.layers}
    values = {value.name: value for value in profile.values}
    nodes, budget = inner(profile.graph), profile.noise_curve.noise_at(DROP)
    total, best = sum(info(node).macs or 0 for node in nodes), np.full(len(requests), np.inf)
    for inside in closed_sets(nodes):
        sent = [values[node.name] for node in inside if any(user not in inside for user in node.users)]
        held = [layers[node.name] for node in inside if node.name in layers]
        bits, noise = choices([each.parameters for each in held], [each.noise_by_width for each in held])
        up, more = choices([each.elements for each in sent], [each.noise_by_width for each in sent])
        one, other = np.nonzero(noise[:, None] + more <= budget)
        macs = sum(info(node).macs or 0 for node in inside)
        for place, request in enumerate(requests):
            prices = price(
                request,
                device_macs=np.full(len(one), float(macs)),
                server_macs=np.full(len(one), float(total - macs)),
                download_bits=bits[one],
                upload_bits=up[other],
            )
            best[place] = min(best[place], prices.objective(request).min(initial=np.inf))
    return best


@pytest.mark.parametrize("seed", ALL)
def test_no_closed_set_and_no_widths_are_better(seed: int) -> None:
    profile, numbers = random_profile(seed), np.random.default_rng(seed)
    requests = [random_request(numbers) for _ in range(5)]
    assert len(inner(profile.graph)) <= 12
    for request, best in zip(requests, by_brute_force(profile, requests), strict=True):
        if best == np.inf:
            with pytest.raises(qpart.InfeasibleError):
                profile.plan(request)
            continue
        plan = profile.plan(request)
        assert plan.objective == pytest.approx(best, rel=1e-9)
        assert plan.lower_bound == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("seed", QUICK)
def test_where_not_all_cuts_are_looked_at_the_bound_is_one_on_all(seed: int) -> None:
    profile, numbers = random_profile(seed), np.random.default_rng(seed)
    prefixes = find_closed_cuts(profile.graph, limit=1)
    partly = replace(profile, closed_cuts=prefixes.cuts, cut_graph=prefixes.graph)
    assert not partly.complete
    for _ in range(5):
        request = random_request(numbers)
        try:
            best, plan = profile.plan(request), partly.plan(request)
        except qpart.InfeasibleError:
            continue
        assert plan.lower_bound is not None
        assert plan.lower_bound <= best.objective * (1 + 1e-9)
        assert best.objective <= plan.objective * (1 + 1e-9)
        assert partly.plan(request, cut=plan.cut).lower_bound == pytest.approx(plan.objective, rel=1e-9)
