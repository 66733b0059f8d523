"""Analysis: the weights of every node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.fx import GraphModule, Node

from qpart_fx.meta import set_info
from qpart_fx.pass_manager import Pass, PassResult


@dataclass(frozen=True)
class CountParameters(Pass):
    """Sets ``info(node).weights``: what a plan gives a width to.

    A weight is a floating-point parameter of two or more dimensions (z_w of the paper; biases and norms are not
    quantized). One that several nodes use belongs to the first of them, so that every weight is counted once.
    """

    def run(self, graph_module: GraphModule) -> PassResult:
        owned: set[int] = set()
        for node in graph_module.graph.nodes:
            weights = {}
            for name, parameter in parameters_of(graph_module, node):
                if parameter.dim() >= 2 and parameter.is_floating_point() and id(parameter) not in owned:
                    owned.add(id(parameter))
                    weights[name] = parameter.numel()
            set_info(node, weights=weights)
        return PassResult(graph_module, modified=False)


def parameters_of(graph_module: GraphModule, node: Node) -> Iterator[tuple[str, Tensor]]:
    """The parameters that ``node`` uses, with their qualified names: its module's, or raw ones passed to a function."""
    if node.op == "call_module":
        module = graph_module.get_submodule(str(node.target))
        for name, parameter in module.named_parameters():
            yield f"{node.target}.{name}", parameter
    elif node.op in ("call_function", "call_method"):
        parameters = dict(graph_module.named_parameters(remove_duplicate=False))
        for source in node.all_input_nodes:
            if source.op == "get_attr" and str(source.target) in parameters:
                yield str(source.target), parameters[str(source.target)]
