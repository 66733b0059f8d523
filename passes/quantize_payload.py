"""Lowering: the crossing activations rounded to their grids, as the last thing that the head does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch.fx import GraphModule, Node

from qpart_fx.inputs import device_of
from qpart_fx.pass_manager import Pass, PassResult
from qpart_fx.quantized import crossing_nodes
from qpart_fx.quantizer import FakeQuantize, UniformQuantizer


@dataclass(frozen=True)
class QuantizePayload(Pass):
    """Puts a :class:`FakeQuantize` before every value that the head returns and ``quantizers`` names by its node."""

    quantizers: Mapping[str, UniformQuantizer]

    def run(self, graph_module: GraphModule) -> PassResult:
        before = crossing_nodes(graph_module)
        after = tuple(self._rounded(graph_module, node) for node in before)
        graph_module.graph.output_node().args = (after,)
        graph_module.recompile()
        return PassResult(graph_module, modified=after != before)

    def _rounded(self, graph_module: GraphModule, node: Node) -> Node:
        if node.name not in self.quantizers:
            return node
        name = f"quantize_{node.name}"
        quantize = FakeQuantize(self.quantizers[node.name]).eval().to(device_of(graph_module))
        graph_module.add_submodule(name, quantize)
        with graph_module.graph.inserting_before(graph_module.graph.output_node()):
            return graph_module.graph.call_module(name, (node,))
