"""Lowering: values inside the head rounded to 8 bits, so that integer kernels can run it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch.fx import GraphModule

from qpart_fx.inputs import device_of
from qpart_fx.pass_manager import Pass, PassResult
from qpart_fx.quantized import crossing_nodes
from qpart_fx.quantizer import FakeQuantize, UniformQuantizer


@dataclass(frozen=True)
class QuantizeInside(Pass):
    """Puts a :class:`FakeQuantize` behind every node that ``quantizers`` names, for all that use it but what crosses:
    that is rounded as the plan says, from what the node made."""

    quantizers: Mapping[str, UniformQuantizer]

    def run(self, graph_module: GraphModule) -> PassResult:
        crossing = set(crossing_nodes(graph_module))
        modified = False
        for node in list(graph_module.graph.nodes):
            users = [user for user in node.users if user.op != "output"]
            if node.name not in self.quantizers or (node in crossing and not users):
                continue
            name = f"round_{node.name}"
            module = FakeQuantize(self.quantizers[node.name]).eval().to(device_of(graph_module))
            graph_module.add_submodule(name, module)
            with graph_module.graph.inserting_after(node):
                rounded = graph_module.graph.call_module(name, (node,))
            for user in users:
                user.replace_input_with(node, rounded)
            modified = True
        graph_module.recompile()
        return PassResult(graph_module, modified=modified)
