"""Before profiling: batch norms folded into the convolution or linear layer before them.

A norm's four numbers a channel become the bias of the layer, and its scale a part of the weights, where it costs no
bytes: the quantizer's steps are of each channel anyway.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.fx import GraphModule, Node

from qpart_fx.meta import info, tensors_in
from qpart_fx.pass_manager import Pass, PassResult

_Layer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
_Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


@dataclass(frozen=True)
class FoldNorms(Pass):
    """Takes a batch norm out of the graph where it is all that uses what a layer makes; the layer takes its place.

    The values before the norm are no longer made; those behind it are as before, but for rounding.
    """

    def run(self, graph_module: GraphModule) -> PassResult:
        modules = dict(graph_module.named_modules(remove_duplicate=False))
        read = {str(node.target) for node in graph_module.graph.nodes if node.op == "get_attr"}
        calls = [str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"]
        modified = False
        for node in list(graph_module.graph.nodes):
            pair = _layer_before(node, modules)
            if pair is None or calls.count(str(pair[0].target)) != 1 or calls.count(str(node.target)) != 1:
                continue
            before, layer, norm = pair
            if any(f"{before.target}.{name}" in read for name in ("weight", "bias")):
                continue  # who reads the weight means the one before folding
            _fold(layer, norm)
            node.replace_all_uses_with(before)
            graph_module.graph.erase_node(node)
            modified = True
        if modified:
            graph_module.delete_all_unused_submodules()
            graph_module.recompile()
        return PassResult(graph_module, modified)


def _layer_before(node: Node, modules: dict[str, nn.Module]) -> tuple[Node, _Layer, _Norm] | None:
    """The node, the layer and the norm, if ``node`` is a norm in eval mode and only it uses what a layer makes."""
    if node.op != "call_module" or len(node.args) != 1 or node.kwargs or not isinstance(node.args[0], Node):
        return None
    norm, before = modules[str(node.target)], node.args[0]
    if not isinstance(norm, _Norm) or norm.training or norm.running_var is None:
        return None
    if before.op != "call_module" or len(before.users) != 1:
        return None
    layer = modules[str(before.target)]
    if not isinstance(layer, _Layer) or _shared(layer, modules):
        return None
    if isinstance(layer, nn.Linear) and not _flat(before):
        return None
    return before, layer, norm


def _flat(node: Node) -> bool:
    """Whether the node is known to make (samples, channels): of more dimensions, a norm's channels are the second."""
    return [len(tensor.shape) for tensor in tensors_in(info(node).output)] == [2]


def _shared(layer: nn.Module, modules: dict[str, nn.Module]) -> bool:
    """Whether another module holds one of the layer's parameters as well."""
    own = {id(parameter) for parameter in layer.parameters(recurse=False)}
    others = (other for other in {id(each): each for each in modules.values()}.values() if other is not layer)
    return any(id(parameter) in own for other in others for parameter in other.parameters(recurse=False))


@torch.no_grad()
def _fold(layer: _Layer, norm: _Norm) -> None:
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double() * scale
    if norm.affine:
        scale, shift = scale * norm.weight.double(), shift * norm.weight.double() + norm.bias.double()
    if layer.bias is not None:
        shift = shift + layer.bias.double() * scale
    weight = layer.weight
    weight.copy_(weight.double() * scale.reshape(-1, *[1] * (weight.dim() - 1)))
    layer.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=weight.requires_grad)
