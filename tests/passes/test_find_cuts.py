"""Cuts: what crosses, what each side does, and which names stand for one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpart_fx as qpart
from qpart_fx.compiler import analyse
from qpart_fx.cut import Cut
from qpart_fx.meta import TensorInfo, info
from qpart_fx.passes.capture import capture
from qpart_fx.passes.find_cuts import find_cuts, resolve_cut
from qpart_fx.passes.split_at_cut import split_at_cut
from tests.networks import Residual, Tokens, TwoInputs, classifier, images


def analysed(model: nn.Module, *args: object) -> GraphModule:
    graph = capture(model)
    analyse(graph, args, {})
    return graph


def crossing_by_definition(graph: GraphModule, cut: Cut) -> set[str]:
    """Outputs of device nodes that a node on the server, or the model's output, uses."""
    device = set(cut.device_nodes)
    return {
        node.name
        for node in graph.graph.nodes
        if node.name in device and node.op != "get_attr" and any(user.name not in device for user in node.users)
    }


@pytest.mark.parametrize(
    ("model", "args"),
    [
        (Residual(), (images(1),)),
        (TwoInputs(), (torch.randn(1, 4), torch.randn(1, 3))),
        (Tokens(), (torch.zeros(1, 5, dtype=torch.int64),)),
    ],
)
def test_crossing_values_and_macs_are_those_of_the_definition(model: nn.Module, args: tuple[Tensor, ...]) -> None:
    graph = analysed(model, *args)
    by_name = {node.name: node for node in graph.graph.nodes}
    cuts = find_cuts(graph)
    assert len({cut.crossing for cut in cuts}) == len(cuts)
    for cut in cuts:
        assert set(cut.crossing) == crossing_by_definition(graph, cut)
        on_device = sum(info(by_name[name]).macs or 0 for name in cut.device_nodes)
        assert cut.device_macs == on_device
        assert cut.device_macs + cut.server_macs == cuts[-1].device_macs
        tensors = [info(by_name[name]).output for name in cut.crossing]
        assert cut.elements == sum(t.elements for t in tensors if isinstance(t, TensorInfo) and t.quantizable)


def test_cuts_of_a_chain() -> None:
    cuts = find_cuts(analysed(classifier(), images(1)))
    assert [cut.crossing for cut in cuts] == [("input_1",), *((f"_{index}",) for index in range(7))]
    assert [cut.elements for cut in cuts] == [192, 384, 384, 96, 32, 32, 32, 4]
    assert cuts[0].device_macs == cuts[-1].server_macs == 0


def test_peak_memory_of_a_chain_is_the_largest_pair_of_neighbours() -> None:
    cuts = find_cuts(analysed(classifier(), images(1)))
    assert [cut.peak_bytes for cut in cuts] == [4 * n for n in (192, 576, 768, 768, 768, 768, 768, 768)]


def test_integers_cross_exactly() -> None:
    cuts = find_cuts(analysed(Tokens(), torch.zeros(1, 5, dtype=torch.int64)))
    assert cuts[0].crossing == ("tokens",)
    assert (cuts[0].elements, cuts[0].exact_bits) == (0, 5 * 64)


def test_names_stand_for_a_cut() -> None:
    graph = analysed(Residual(), images(1))
    assert resolve_cut(graph, "input").crossing == ("x",)
    assert resolve_cut(graph, "output").crossing == ("fc",)
    assert resolve_cut(graph, ["relu"]).crossing == ("relu",)
    assert resolve_cut(graph, "relu") == resolve_cut(graph, ("relu",))


def test_a_cut_that_is_no_prefix_of_the_order() -> None:
    graph = analysed(TwoInputs(), torch.randn(1, 4), torch.randn(1, 3))
    cut = resolve_cut(graph, ["right_1", "left", "right", "scale"])
    assert set(cut.crossing) == crossing_by_definition(graph, cut)
    assert cut.device_macs == 18
    assert (cut.device_nodes, cut.runs, cut.size) == (("left", "right", "scale", "right_1"), (3, 3, 1), 4)
    assert cut.order == find_cuts(graph)[0].order
    split = qpart.split(TwoInputs(), (torch.randn(1, 4), torch.randn(1, 3)), cut=["right_1", "left", "right", "scale"])
    assert split.tail(*split.head(torch.randn(2, 4), torch.randn(2, 3)))["logits"].shape == (2, 4)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("relu_7", "no node 'relu_7' .did you mean 'relu_1'.*nearest legal cuts are at add or"),
        ([], "name at least one crossing node"),
        (["norm2"], "not only norm2 would cross, but also relu"),
        (["conv1", "fc"], "nothing on the server would use conv1"),
    ],
)
def test_names_that_are_no_cut(names: list[str], message: str) -> None:
    graph = analysed(Residual(), images(1))
    with pytest.raises(qpart.RequestError, match=message):
        resolve_cut(graph, names)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.fc = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        sequence, _ = self.lstm(x)
        scores: Tensor = self.fc(sequence[:, -1])
        return scores


def test_a_tuple_does_not_cross() -> None:
    graph = analysed(Recurrent(), torch.randn(1, 6, 4))
    assert all("lstm" not in cut.crossing for cut in find_cuts(graph))
    with pytest.raises(qpart.RequestError, match="'lstm' is neither a tensor nor a number"):
        resolve_cut(graph, "lstm")


class View(nn.Module):
    """A view, and a write to it that reaches what it is a view of."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        row = y.select(1, 0)
        row.add_(1)  # nothing uses the result; y has changed
        z: Tensor = self.second(y) + row[:, None]
        return z


def test_a_view_that_the_server_writes_to_does_not_cross_beside_its_base() -> None:
    x = torch.randn(3, 4)
    graph = analysed(View(), x)
    crossings = [cut.crossing for cut in find_cuts(graph)]
    assert ("first",) in crossings  # the view is made where it is written to
    assert ("first", "select") in crossings  # behind the write both may cross
    before_the_write = [cut for cut in find_cuts(graph) if "add_" not in cut.device_nodes]
    assert all("select" not in cut.crossing for cut in before_the_write)


class Branch(View):
    """The same beside another branch, so that the part around the view can be cut on its own."""

    def forward(self, x: Tensor) -> Tensor:
        other = torch.tanh(x)
        return other + super().forward(x)


def test_a_write_that_would_come_too_late_is_no_cut() -> None:
    with pytest.raises(qpart.RequestError, match=r"'add_' writes in place to what '\w+' touches"):
        resolve_cut(analysed(Branch(), torch.randn(3, 4)), ["x", "second", "select"])


def test_every_legal_cut_around_a_view_is_exact() -> None:
    model, x = View(), torch.randn(3, 4)
    graph = analysed(model, x)
    for cut in find_cuts(graph):
        head, tail = split_at_cut(graph, cut.crossing, cut.device_nodes)
        assert torch.equal(tail(*(value.clone() for value in head(x))), model(x)), cut.crossing


class Computed(nn.Module):
    """Uses a parameter through a transpose and a product, as attention's projections often are."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.weight = nn.Parameter(torch.randn(3, 6))

    def forward(self, x: Tensor) -> Tensor:
        scaled = self.weight.t() * 2
        scores: Tensor = torch.relu(self.first(x)) @ scaled
        return scores


def test_what_follows_from_parameters_alone_never_crosses() -> None:
    graph = analysed(Computed(), torch.randn(2, 4))
    cuts = find_cuts(graph)
    assert [cut.crossing for cut in cuts] == [("x",), ("first",), ("relu",), ("matmul",)]
    for cut in cuts:
        head, tail = split_at_cut(graph, cut.crossing, cut.device_nodes)
        x = torch.randn(5, 4)
        assert torch.equal(tail(*head(x)), graph(x))


def test_a_weight_belongs_to_what_multiplies_with_it() -> None:
    graph = analysed(Computed(), torch.randn(2, 4))
    weights = {node.name: dict(info(node).weights) for node in graph.graph.nodes if info(node).weights}
    assert weights == {"first": {"first.weight": 24}, "matmul": {"weight": 18}}
