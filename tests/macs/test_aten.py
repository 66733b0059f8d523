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
