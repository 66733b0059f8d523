"""What each node of an analysed graph costs a device that fuses as runtimes do: rectifiers, pads and norms are free
where the layer before or behind them takes them in."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.fx import GraphModule, Node

from .graph_parts import plain_operation
from .meta import TensorInfo, info, tensors_in
from .node_work import PICTURE_CHANNELS, NodeWork

_FLOAT = 4
"""Bytes of a value or a weight, as runtimes hold them."""

_FUSED_BEHIND = frozenset("relu relu6 hardtanh clamp batchnorm1d batchnorm2d batchnorm3d leakyrelu sigmoid".split())
_FUSED_BEFORE = frozenset("pad zeropad1d zeropad2d zeropad3d".split())
_FREE = frozenset(
    "alphadropout contiguous detach dropout dropout2d expand flatten getattr getitem identity reshape size squeeze "
    "unflatten unsqueeze view".split()
)
_RECURRENT = frozenset("rnn lstm gru rnntanh rnnrelu".split())


def work_of(graph: GraphModule) -> dict[str, NodeWork]:
    """By name, the nodes that take time; those that are fused into others, or only name what is there, are left out."""
    return {node.name: work for node in graph.graph.nodes if (work := _work(graph, node)) is not None}


def _work(graph: GraphModule, node: Node) -> NodeWork | None:
    record = info(node)
    if node.op in ("placeholder", "get_attr", "output") or record.constant:
        return None
    kind = _kind(graph, node)
    if kind is None:
        return None
    moved = _elements(node) + sum(_elements(source) for source in node.all_input_nodes if not info(source).constant)
    weights = sum(graph.get_parameter(name).numel() for name in record.weights)
    return NodeWork(kind, record.macs or 0, _FLOAT * moved, _FLOAT * weights)


def _kind(graph: GraphModule, node: Node) -> str | None:
    name = plain_operation(graph, node)
    if name.startswith("conv"):
        return _kind_of_convolution(graph, node)
    if name in _RECURRENT:
        return "recurrence"
    if info(node).macs:
        return "linear" if info(node).weights else "matrix_product"
    sources = [source for source in node.all_input_nodes if not info(source).constant]
    if name in _FREE or not _elements(node):
        return None
    if name in _FUSED_BEHIND and len(sources) == 1 and len(sources[0].users) == 1 and _takes_in(graph, sources[0]):
        return None
    if name in _FUSED_BEFORE and all(plain_operation(graph, user).startswith("conv") for user in node.users):
        return None
    return "elementwise"


def _takes_in(graph: GraphModule, node: Node) -> bool:
    """Whether a runtime fuses the rectifier behind ``node`` with it: convolutions, and what is fused with them."""
    name = plain_operation(graph, node)
    if name in _FUSED_BEHIND:
        return len(node.all_input_nodes) == 1 and _takes_in(graph, node.all_input_nodes[0])
    return name.startswith(("conv", "linear"))


def _kind_of_convolution(graph: GraphModule, node: Node) -> str:
    shape = next((tensor.shape for tensor in _weights(graph, node) if tensor.dim() > 2), None)
    if shape is None:
        return "convolution"
    images = info(node.all_input_nodes[0]).output
    channels = images.shape[1] if isinstance(images, TensorInfo) else 0
    if shape[1] == 1 and channels > 1:
        return "depthwise_convolution"
    if channels <= PICTURE_CHANNELS:
        return "image_convolution"
    return "pointwise_convolution" if shape[2:].numel() == 1 else "convolution"


def _weights(graph: GraphModule, node: Node) -> Iterator[Tensor]:
    if node.op == "call_module":
        yield from graph.get_submodule(str(node.target)).parameters()
    for source in node.all_input_nodes:
        if source.op == "get_attr" and str(source.target) in dict(graph.named_parameters()):
            yield graph.get_parameter(str(source.target))


def _elements(node: Node) -> int:
    return sum(each.elements for each in tensors_in(info(node).output))
