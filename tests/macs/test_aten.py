"""Exported graphs count the same multiply-adds as the modules they come from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import qpart_fx as qpart
from qpart_fx.exporting import export_graph
from qpart_fx.meta import info
from qpart_fx.passes.count_macs import CountMacs, uncounted
from qpart_fx.passes.propagate_shapes import PropagateShapes
from tests.networks import Residual, Tokens, images

NETWORKS: dict[str, tuple[nn.Module, tuple[Any, ...]]] = {
    "residual": (Residual(), (images(2),)),
    "tokens": (Tokens(), (torch.randint(11, (2, 7)),)),
    "attention": (nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), (torch.randn(2, 5, 16),)),
    "transposed": (nn.ConvTranspose2d(3, 4, 3, stride=2), (images(2),)),
}


def exported(model: nn.Module, args: tuple[Any, ...]) -> torch.fx.GraphModule:
    model.eval()
    with torch.no_grad():
        graph = export_graph(model, args, {}, model(*args), dynamic=False)
    PropagateShapes(args).run(graph)
    CountMacs().run(graph)
    return graph


@pytest.mark.parametrize("name", NETWORKS)
def test_total_is_the_flop_counter_s(name: str) -> None:
    model, args = NETWORKS[name]
    graph = exported(model, args)
    assert uncounted(graph) == {}
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        graph(*args)
    assert sum(info(node).macs or 0 for node in graph.graph.nodes) == counter.get_total_flops() / 2 > 0


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_count_like_their_modules(kind: type[nn.Module]) -> None:
    model, x = kind(4, 6, num_layers=2, bidirectional=True), torch.randn(5, 3, 4)
    graph = exported(model, (x,))
    assert uncounted(graph) == {}
    tokens, per_token = 15, sum(parameter.numel() for parameter in model.parameters() if parameter.dim() == 2)
    assert sum(info(node).macs or 0 for node in graph.graph.nodes) == tokens * per_token
    assert qpart.split(model, x).head is not None


def attend(query: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """Opaque to tracing: it writes to its list, and calls what the table knows."""
    sizes.append(query.shape[-1])
    keys = query.reshape(-1, *sizes)
    return torch.softmax(keys @ keys.transpose(-1, -2), dim=-1) @ keys


def transform(query: torch.Tensor) -> torch.Tensor:
    product: torch.Tensor = torch.fft.rfft(query).real @ torch.ones(3, 2)
    return product


torch.fx.wrap("attend")
torch.fx.wrap("transform")


def test_a_function_of_python_counts_by_what_it_calls() -> None:
    class Wrapped(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return attend(x, [5])

    graph = torch.fx.symbolic_trace(Wrapped())
    PropagateShapes((torch.randn(2, 5, 4),)).run(graph)
    CountMacs().run(graph)
    assert uncounted(graph) == {}
    assert {node.name: info(node).macs for node in graph.graph.nodes}["attend"] == 2 * 2 * 5 * 5 * 4


def test_a_function_of_python_that_calls_something_unknown_is_listed() -> None:
    class Wrapped(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return transform(x)

    graph = torch.fx.symbolic_trace(Wrapped())
    PropagateShapes((torch.randn(2, 4),)).run(graph)
    assert list(uncounted(graph)) == ["transform"]
