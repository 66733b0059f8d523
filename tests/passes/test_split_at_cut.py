"""Head then tail is the model, bit for bit, at every cut."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qpart_fx as qpart
from qpart_fx.compiler import analyse
from qpart_fx.meta import info
from qpart_fx.passes.capture import capture
from qpart_fx.passes.find_cuts import find_cuts
from qpart_fx.passes.split_at_cut import split_at_cut
from tests.networks import Residual, Tokens, TwoInputs, classifier, images

SMALL: dict[str, tuple[nn.Module, tuple[Any, ...]]] = {
    "residual": (Residual(), (images(2),)),
    "two inputs": (TwoInputs(), (torch.randn(2, 4), torch.randn(2, 3), 0.5)),
    "tokens": (Tokens(), (torch.randint(11, (2, 7)),)),
    "classifier": (classifier(), (images(2),)),
}


def same(left: Any, right: Any) -> bool:
    """Equal structures of bit-identical tensors."""
    if isinstance(left, Tensor):
        return isinstance(right, Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return type(left) is type(right) and bool(left == right)


def require_exact_at_every_cut(model: nn.Module, args: tuple[Any, ...]) -> int:
    """Split at every cut, and return how many there were."""
    model.eval()
    graph = capture(model)
    analyse(graph, args, {})
    with torch.no_grad():
        expected = model(*args)
        cuts = find_cuts(graph)
        for cut in cuts:
            head, tail = split_at_cut(graph, cut.crossing, cut.device_nodes)
            payload = head(*args)
            assert len(payload) == len(cut.crossing)
            sent = tuple(value.clone() if isinstance(value, Tensor) else value for value in payload)
            assert same(tail(*sent), expected), cut.crossing
    return len(cuts)


@pytest.mark.parametrize("name", SMALL)
def test_exact_at_every_cut(name: str) -> None:
    assert require_exact_at_every_cut(*SMALL[name]) >= 5


@pytest.mark.parametrize("name", ["resnet20", pytest.param("mobilenet_v1", marks=pytest.mark.slow)])
def test_exact_at_every_cut_of_real_networks(zoo: ModuleType, name: str) -> None:
    size = 32 if name == "resnet20" else 224
    assert require_exact_at_every_cut(zoo.model(name), (torch.randn(1, 3, size, size),)) >= 70


def test_every_node_is_on_one_side() -> None:
    model, args = SMALL["residual"]
    graph = capture(model)
    analyse(graph, args, {})
    nodes = {node.name for node in graph.graph.nodes if node.op not in ("placeholder", "output")}
    for cut in find_cuts(graph):
        head, tail = split_at_cut(graph, cut.crossing, cut.device_nodes)
        sides = [
            {node.name for node in side.graph.nodes if node.op not in ("placeholder", "output")}
            for side in (head, tail)
        ]
        assert sides[0].isdisjoint(sides[1])
        assert sides[0] | sides[1] == nodes


@pytest.mark.parametrize("name", SMALL)
def test_the_work_of_both_sides_is_that_of_the_model(name: str) -> None:
    """What crosses is the device's work, and none of the tail's."""
    model, args = SMALL[name]
    graph = capture(model)
    analyse(graph, args, {})
    whole = sum(info(node).macs or 0 for node in graph.graph.nodes)
    for cut in find_cuts(graph):
        head, tail = split_at_cut(graph, cut.crossing, cut.device_nodes)
        sides = [sum(info(node).macs or 0 for node in side.graph.nodes) for side in (head, tail)]
        assert sides == [cut.device_macs, cut.server_macs]
        assert sum(sides) == whole


def test_sides_hold_only_what_they_use_and_share_nothing() -> None:
    model = classifier()
    split = qpart.split(model, images(1), cut="_2")
    assert sorted(split.head.state_dict()) == ["0.bias", "0.weight"]
    assert sorted(split.tail.state_dict()) == ["3.bias", "3.weight", "6.bias", "6.weight"]
    with torch.no_grad():
        for parameter in split.parameters():
            parameter.zero_()
    assert all(bool(parameter.any()) for parameter in model.parameters())


def test_tied_weights_are_on_both_sides() -> None:
    model, args = SMALL["tokens"]
    split = qpart.split(model, args, cut="gelu")
    assert "embedding.weight" in split.head.state_dict()
    assert "out.weight" in split.tail.state_dict()
    assert same(split(*args), model(*args))


def test_called_like_the_model() -> None:
    model, _ = SMALL["two inputs"]
    split = qpart.split(model, {"left": torch.randn(2, 4), "right": torch.randn(2, 3)})
    left, right = torch.randn(5, 4), torch.randn(5, 3)
    calls: list[tuple[tuple[Tensor, ...], dict[str, Any]]] = [
        ((left, right), {}),
        ((left,), {"right": right, "scale": 3.0}),
        ((), {"right": right, "left": left}),
    ]
    for args, kwargs in calls:
        output = split(*args, **kwargs)
        assert type(output) is dict
        assert same(output, model(*args, **kwargs))


def test_halves_are_ordinary_modules() -> None:
    model = Residual().eval()
    x = images(2)
    split = qpart.split(model, x)
    assert "def forward(self, x" in split.head.code
    assert sum(p.numel() for p in split.parameters()) == sum(p.numel() for p in model.parameters())
    assert split.to(torch.float64)(x.double()).dtype == torch.float64
    split.to(torch.float32).load_state_dict(split.state_dict())
    compiled = torch.compile(split.tail, backend="eager")
    assert torch.equal(compiled(*split.head(x)), split(x))
