"""Which quantizers a head was lowered with: kept in its ``meta`` and in its graph, read by whatever packs it."""

from __future__ import annotations

from collections.abc import Mapping

from torch.fx import GraphModule, Node

from .quantizer import FakeQuantize, UniformQuantizer

_KEY = "qpart_weight_quantizers"


def weight_quantizers(head: GraphModule) -> dict[str, UniformQuantizer]:
    """The quantizer of every quantized weight, by the weight's qualified name."""
    return dict(head.meta.get(_KEY, {}))


def set_weight_quantizers(head: GraphModule, quantizers: Mapping[str, UniformQuantizer]) -> None:
    """Say which quantizers the weights of ``head`` are rounded with."""
    head.meta[_KEY] = dict(quantizers)


def crossing_nodes(head: GraphModule) -> tuple[Node, ...]:
    """The nodes whose values a head returns."""
    return tuple(head.graph.output_node().args[0])  # type: ignore[arg-type]  # a head returns a tuple of nodes


def payload_quantizers(head: GraphModule) -> list[UniformQuantizer | None]:
    """The quantizer of each value that a head returns, None for one that crosses as it is."""
    found: list[UniformQuantizer | None] = []
    for node in crossing_nodes(head):
        module = head.get_submodule(str(node.target)) if node.op == "call_module" else None
        found.append(module.quantizer if isinstance(module, FakeQuantize) else None)
    return found
