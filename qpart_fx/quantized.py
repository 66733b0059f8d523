"""Which quantizers a head was lowered with: kept in its ``meta`` and in its graph, read by whatever packs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch.fx import GraphModule, Node

from .quantizer import FakeQuantize, UniformQuantizer, WeightQuantizer
from .rounding import Rounding

_KEY = "qpart_weight_quantizers"


def weight_quantizers(head: GraphModule) -> dict[str, WeightQuantizer]:
    """The quantizer of every quantized weight, by the weight's qualified name."""
    return dict(head.meta.get(_KEY, {}))


def set_weight_quantizers(head: GraphModule, quantizers: Mapping[str, WeightQuantizer]) -> None:
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


@contextmanager
def rounded_weights(
    graph_module: GraphModule, weights: Sequence[str], resolution: float, rounding: Rounding
) -> Iterator[None]:
    """The weights rounded to a resolution, and as they were afterwards."""
    parameters = [graph_module.get_parameter(name) for name in weights]
    originals = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        try:
            for name, parameter in zip(weights, parameters, strict=True):
                parameter.copy_(rounding.rounded(name, parameter, resolution))
            yield
        finally:
            for parameter, original in zip(parameters, originals, strict=True):
                parameter.copy_(original)
