"""Lowering: what a head holds in float beside its weights, in half precision."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import GraphModule

from qpart_fx.meta import info
from qpart_fx.pass_manager import Pass, PassResult

_LEAST = 2.0**-14
"""Half precision has eleven bits from here on; where a number is smaller, the tensor stays as it is."""


@dataclass(frozen=True)
class HalveFloats(Pass):
    """Rounds biases and norms to half precision, in place, where it has them all; the graph and dtypes stay."""

    def run(self, graph_module: GraphModule) -> PassResult:
        weights = {name for node in graph_module.graph.nodes for name in info(node).weights}
        tensors = (*graph_module.named_parameters(), *graph_module.named_buffers())
        with torch.no_grad():
            for name, tensor in tensors:
                if name in weights or tensor.dtype != torch.float32:
                    continue
                half = tensor.half().float()
                if bool(((half - tensor).abs() <= tensor.abs().clamp_min(_LEAST) * 2.0**-11).all()):
                    tensor.copy_(half)
        return PassResult(graph_module, modified=False)
