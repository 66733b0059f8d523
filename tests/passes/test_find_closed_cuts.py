"""Cuts that are no prefix of the graph's order: all that are legal, none that is not, and each of them exact."""

from __future__ import annotations

import copy
import random
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

import qpart_fx as qpart
from benchmarks.branching import NETWORKS
from qpart_fx.compiler import analyse
from qpart_fx.cut import Cut
from qpart_fx.cut_table import cuts_of
from qpart_fx.meta import info
from qpart_fx.passes.capture import capture
from qpart_fx.passes.find_closed_cuts import cut_graph, find_closed_cuts
from qpart_fx.passes.find_cuts import _prefixes, _reordered_write, find_cuts, resolve_cut
from qpart_fx.passes.split_at_cut import split_at_cut
from qpart_fx.solver.min_cut import least_closed_set
from tests.networks import Residual, Tokens, TwoInputs, images
from tests.passes.test_capture_opaque import IMAGES, Detector, same


def analysed(model: nn.Module, *args: Any) -> GraphModule:
    graph = capture(model.eval())
    analyse(graph, copy.deepcopy(args), {})
    return graph


class Program(nn.Module):
    """A random program over tensors of one shape: branches, views, writes in place, tuples, sizes and constants."""

    def __init__(self, seed: int, steps: int, *, memory: bool) -> None:
        super().__init__()
        generator = random.Random(seed)
        torch.manual_seed(seed)
        plain = ["linear", "relu", "add", "cat", "constant"]
        kinds = plain + ["chunk", "write", "write", "write", "view", "slice", "size"] * memory
        self.steps = []
        for step in range(steps):
            kind = generator.choice(kinds)
            self.steps.append((kind, generator.random(), generator.random()))
            if kind == "linear":
                self.add_module(f"linear{step}", nn.Linear(4, 4))
            elif kind == "constant":
                self.register_parameter(f"constant{step}", nn.Parameter(torch.randn(4, 4)))
        self.outputs = [generator.random() for _ in range(generator.choice([1, 1, 2]))]

    def forward(self, x: Tensor) -> Any:
        values = [x]
        for step, (kind, left, right) in enumerate(self.steps):
            # mostly of the latest ones, so that the graph is deep as well as wide
            one = values[-1 - int(left * left * len(values))]
            other = values[int(right * len(values))]
            if kind == "linear":
                new = getattr(self, f"linear{step}")(one)
            elif kind == "relu":
                new = torch.relu(one)
            elif kind == "add":
                new = one + other
            elif kind == "cat":
                new = torch.cat([one[:, :2], other[:, 2:]], dim=1)
            elif kind == "constant":
                new = one @ (getattr(self, f"constant{step}").t() * 2)
            elif kind == "chunk":
                first, second = one.chunk(2, dim=1)
                new = torch.cat([second, first * 2], dim=1)
            elif kind == "write":  # its result may be used, or what it was written to, or nothing
                new = one.mul_(0.5) if left < 0.5 else one.add_(other)
            elif kind == "view":
                new = one.view(-1, 4)
            elif kind == "slice":
                new = one[:1]
            else:
                new = one * other.size(0)
            values.append(new)
        return tuple(values[-1 - int(place * place * len(values))] for place in self.outputs)


class Legal(NamedTuple):
    crossing: frozenset[str]
    device_macs: int
    peak_bytes: int
    elements: int
    exact_bits: int


def legal_cuts(graph: GraphModule) -> dict[frozenset[str], Legal]:
    """Every legal closed set by brute force over all subsets, by the rules that single cuts are checked with."""
    nodes = [node for node in graph.graph.nodes if node.op != "output"]
    free = [node for node in nodes if node.op != "placeholder" and not info(node).constant]
    found: dict[frozenset[str], Legal] = {}

    def visit(position: int, device: set[Node]) -> None:
        if position < len(free):
            visit(position + 1, device)
            if all(source in device for source in free[position].all_input_nodes if not info(source).constant):
                visit(position + 1, device | {free[position]})
            return
        needed = device | {source for node in device for source in _constants(node)}
        order = [node for node in nodes if node in needed] + [node for node in nodes if node not in needed]
        at = [(cut, obstacle) for cut, obstacle in _prefixes(order) if cut.size == len(needed)]
        for cut, obstacle in at:  # none where nothing crosses
            if not obstacle and not _reordered_write(nodes, device):
                legal = Legal(frozenset(cut.crossing), cut.device_macs, cut.peak_bytes, cut.elements, cut.exact_bits)
                known = found.get(legal.crossing)
                if known is None or legal.device_macs < known.device_macs:
                    found[legal.crossing] = legal

    visit(0, {node for node in nodes if node.op == "placeholder"})
    return found


def _constants(node: Node) -> set[Node]:
    own = {source for source in node.all_input_nodes if info(source).constant}
    return own.union(*(_constants(source) for source in own))


def by_crossing(cuts: tuple[Cut, ...]) -> dict[frozenset[str], Cut]:
    assert len({frozenset(cut.crossing) for cut in cuts}) == len(cuts)
    return {frozenset(cut.crossing): cut for cut in cuts}


def require_exact(graph: GraphModule, cut: Cut, model: nn.Module, args: tuple[Any, ...]) -> None:
    """Head then tail, which receives copies, is the model, bit for bit."""
    head, tail = split_at_cut(graph, cut.crossing, cut.device_nodes)
    with torch.no_grad():
        expected = copy.deepcopy(model)(*copy.deepcopy(args))
        sent = [value.clone() if isinstance(value, Tensor) else value for value in head(*copy.deepcopy(args))]
        got = tail(*sent)
    left, right = (value if isinstance(value, tuple) else (value,) for value in (got, expected))
    assert all(torch.equal(one, other) for one, other in zip(left, right, strict=True)), cut.crossing


@pytest.mark.parametrize("seed", range(40))
def test_without_writes_and_dead_ends_every_legal_closed_set_is_offered(seed: int) -> None:
    model, x = Program(seed, 9, memory=False), torch.randn(2, 4)
    graph = analysed(model, x)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    legal, offered = legal_cuts(graph), by_crossing(find_closed_cuts(graph).cuts)
    assert offered.keys() == legal.keys()
    for crossing, cut in offered.items():
        found = Legal(crossing, cut.device_macs, cut.peak_bytes, cut.elements, cut.exact_bits)
        assert found == legal[crossing]


@pytest.mark.parametrize("seed", range(120))
def test_what_is_offered_is_legal_and_exact_and_what_is_not_is_no_better(seed: int) -> None:
    model, x = Program(seed, 7, memory=True), torch.randn(2, 4)
    try:
        graph = analysed(model, x)
    except qpart.QPartError:
        pytest.skip("the program does not run: shapes differ, or its output is its input")
    offered = find_closed_cuts(graph)
    cuts, legal = by_crossing(offered.cuts), legal_cuts(graph)
    assert offered.complete
    assert cuts.keys() <= legal.keys()
    for crossing in legal.keys() - cuts.keys():  # a node that no output depends on was left to the server
        assert any(other <= crossing and cuts[other].device_macs <= legal[crossing].device_macs for other in cuts)
    for cut in random.Random(seed).sample(offered.cuts, min(12, len(offered.cuts))):
        require_exact(graph, cut, model, (x,))


@pytest.mark.parametrize("seed", range(60))
def test_a_strict_graph_has_legal_cuts_alone(seed: int) -> None:
    try:
        graph = analysed(Program(seed, 7, memory=True), torch.randn(2, 4))
    except qpart.QPartError:
        pytest.skip("the program does not run")
    strict = cut_graph(graph).strict()
    assert not strict.clashes
    sets = [inside for inside, crossing in strict.closed_sets() if crossing]
    assert {frozenset(cut.crossing) for cut in cuts_of(graph, strict, sets)} <= legal_cuts(graph).keys()
    assert sets or not find_closed_cuts(graph).cuts


@pytest.mark.parametrize(
    ("name", "count"), [("residual", 99), ("inception", 8827), ("dense", 55), ("u-net", 23), ("encoder", 299)]
)
def test_the_cuts_of_networks_with_branches(name: str, count: int) -> None:
    make, inputs = NETWORKS[name]
    model, x = make(), inputs(2)
    graph = analysed(model, inputs(1))
    found = find_closed_cuts(graph)
    assert (len(found.cuts), found.complete, found.graph.clashes) == (count, True, ())
    cuts = by_crossing(found.cuts)
    for prefix in find_cuts(graph):
        assert cuts[frozenset(prefix.crossing)] == prefix
    assert (found.cuts[0], found.cuts[-1]) == (resolve_cut(graph, "input"), resolve_cut(graph, "output"))
    for cut in random.Random(0).sample(found.cuts, 8):
        assert resolve_cut(graph, cut.crossing) == cut
        require_exact(graph, cut, model, (x,))


@pytest.mark.parametrize("name", ["inception", "encoder"])
def test_the_cheapest_cut_of_all_is_the_minimum_cut(name: str) -> None:
    make, inputs = NETWORKS[name]
    graph = analysed(make(), inputs(1))
    found = find_closed_cuts(graph)
    macs = np.array([block.macs for block in found.graph.blocks], dtype=np.float64)
    elements = np.array([value.elements for value in found.graph.values], dtype=np.float64)
    for bit_price in (0.3, 3.0, 30.0, 300.0):
        least = least_closed_set(found.graph, macs, 0.2 * macs, bit_price * elements)
        inside = sum(1 << int(block) for block in np.flatnonzero(least.inside))
        (cut,) = cuts_of(graph, found.graph, [inside])
        prices = {
            place.crossing: place.device_macs + 0.2 * place.server_macs + bit_price * place.elements
            for place in found.cuts
        }
        assert least.cost == pytest.approx(min(prices.values()))
        assert prices[cut.crossing] == pytest.approx(least.cost)


def test_beyond_the_limit_there_are_the_prefixes() -> None:
    make, inputs = NETWORKS["inception"]
    graph = analysed(make(), inputs(1))
    found, prefixes = find_closed_cuts(graph, limit=50), find_cuts(graph)
    assert not found.complete
    assert {cut.crossing for cut in prefixes} == {cut.crossing for cut in found.cuts}
    assert (found.cuts[0], found.cuts[-1]) == (prefixes[0], prefixes[-1])
    assert find_closed_cuts(graph, limit=8827).complete
    assert not find_closed_cuts(graph, limit=8826).complete


@pytest.mark.parametrize(
    ("model", "args"),
    [
        (Residual(), (images(1),)),
        (TwoInputs(), (torch.randn(1, 4), torch.randn(1, 3))),
        (Tokens(), (torch.zeros(1, 5, dtype=torch.int64),)),
    ],
)
def test_prefixes_are_among_them(model: nn.Module, args: tuple[Tensor, ...]) -> None:
    graph = analysed(model, *args)
    found = find_closed_cuts(graph).cuts
    prefixes = find_cuts(graph)
    cuts = by_crossing(found)
    assert {frozenset(cut.crossing) for cut in prefixes} <= cuts.keys()
    assert (found[0], found[-1]) == (prefixes[0], prefixes[-1])


def test_values_that_are_never_cut_at_stay_with_their_users() -> None:
    graph = analysed(Residual(), images(1))
    everything = find_closed_cuts(graph).cuts
    found = find_closed_cuts(graph, together=["conv1", "norm1", "fc", "x"])
    assert {cut.crossing for cut in everything} - {cut.crossing for cut in found.cuts} == {("conv1",), ("norm1",)}
    blocks = [block.nodes for block in found.graph.blocks]
    assert blocks[:2] == [("x",), ("conv1", "norm1", "relu")]
    with pytest.raises(qpart.RequestError, match="the graph has no node 'conv7'"):
        find_closed_cuts(graph, together=["conv1", "conv7"])


class Shared(nn.Module):
    """One layer for two branches, as in a network that compares two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.out = nn.Linear(4, 3), nn.Linear(6, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        scores: Tensor = self.out(torch.cat([self.both(left), self.both(right)], dim=1))
        return scores


def test_a_weight_is_on_the_device_only_by_the_layer_that_it_is_counted_with() -> None:
    graph = analysed(Shared(), torch.randn(2, 4), torch.randn(2, 4))
    crossings = [set(cut.crossing) for cut in find_closed_cuts(graph).cuts]
    assert crossings == [{"left", "right"}, {"right", "both"}, {"both", "both_1"}, {"cat"}, {"out"}]


class Pair(nn.Module):
    """A tuple in the output, which cannot be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        y = self.first(x)
        return y.chunk(2, dim=1), torch.tanh(y)


def test_what_cannot_be_sent_for_the_output_is_made_on_the_server() -> None:
    graph = analysed(Pair(), torch.randn(2, 4))
    crossings = [set(cut.crossing) for cut in find_closed_cuts(graph).cuts]
    assert crossings == [{"x"}, {"first"}, {"first", "tanh"}]


class Compares(nn.Module):
    """Two branches whose sizes a run decides by."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        left: Tensor = self.left(x)
        right: Tensor = self.right(x)
        rows = left.shape[0]
        if rows == right.shape[0] and x.shape[1] == 4:
            return left + right
        return left


def test_a_check_of_a_size_is_on_the_device_as_soon_as_its_sizes_are() -> None:
    x = torch.randn(2, 4)
    graph = capture(Compares(), (x,))
    analyse(graph, (x,), {})
    found = find_closed_cuts(graph).cuts
    legal = legal_cuts(graph)
    assert len(found) < len(legal)
    assert found[0].crossing == ("x",)  # the size of the input is checked on the device
    cuts = by_crossing(found)
    for crossing, cut in legal.items():
        assert any(other <= crossing and cuts[other].device_macs <= cut.device_macs for other in cuts)


def test_opaque_nodes_and_what_follows_are_on_the_server() -> None:
    model = Detector().eval()
    graph = capture(model, (IMAGES,))
    opaque = next(node for node in graph.graph.nodes if info(node).opaque)
    found = find_closed_cuts(graph).cuts
    assert len(found) >= len(find_cuts(graph)) - 1
    assert all(opaque.name not in cut.device_nodes for cut in found)
    for cut in found[:: max(1, len(found) // 10)]:
        head, tail = split_at_cut(graph, cut.crossing, cut.device_nodes)
        with torch.no_grad():
            sent = [value.clone() if isinstance(value, Tensor) else value for value in head(IMAGES)]
            assert same(tail(*sent), model(IMAGES))
