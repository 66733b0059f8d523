"""Analysis: the weights of every node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.fx import GraphModule, Node

from qpart_fx.meta import constants_behind, info, set_info
from qpart_fx.pass_manager import Pass, PassResult


@dataclass(frozen=True)
class CountParameters(Pass):
    """Sets ``info(node).weights``: what a plan gives a width to.

    A weight is a floating-point parameter of two or more dimensions (z_w of the paper; biases and norms are not
    quantized). One that several nodes use belongs to the first of them, so that every weight is counted once.
    """

    def run(self, graph_module: GraphModule) -> PassResult:
        owned: set[int] = set()
        parameters = dict(graph_module.named_parameters(remove_duplicate=False))
        for node in graph_module.graph.nodes:
            weights = {}
            for name, parameter in _used_by(node, parameters):
                if parameter.dim() >= 2 and parameter.is_floating_point() and id(parameter) not in owned:
                    owned.add(id(parameter))
                    weights[name] = parameter.numel()
            set_info(node, weights=weights)
        return PassResult(graph_module, modified=False)


def _used_by(node: Node, parameters: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The parameters that ``node`` uses: its module's, and raw ones, also if they are reshaped or scaled before."""
    if node.op == "call_module":
        prefix = f"{node.target}."
        yield from ((name, parameter) for name, parameter in parameters.items() if name.startswith(prefix))
    if node.op in ("call_function", "call_method", "call_module") and not info(node).constant:
        for source in reversed(constants_behind(node)):
            if source.op == "get_attr" and str(source.target) in parameters:
                yield str(source.target), parameters[str(source.target)]
