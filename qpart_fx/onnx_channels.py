"""Channels of zeros beside those of depthwise convolutions, so that there are whole blocks of them.

onnxruntime's integer kernel for depthwise convolutions runs 16 channels at once, and what is left by slower means: 32
channels take two thirds of the time of 24. The head's file keeps its weights as they are; who runs the
graph puts the zeros there.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from .onnx_graph import OnnxGraph

BLOCK = 16

_BETWEEN = ("QuantizeLinear", "DequantizeLinear", "Relu", "Clip")
"""What may lie between two convolutions: 0 stays 0."""


def fill_blocks(graph: OnnxGraph) -> dict[str, list[int]]:
    """Widen depthwise convolutions of integers between two others to whole blocks.

    Returns:
        The new shapes of open tensors, by name: to be filled up at their ends, scales with any number, others with 0.
    """
    shapes: dict[str, list[int]] = {}
    for node in graph.model.graph:
        if node.op_type != "Conv" or not _is_of_integers(node):
            continue
        channels, of_each, *_ = _sizes(_tensors(node)[0])
        before, behind = _next(node, _before), _next(node, _behind)
        missing = -channels % BLOCK
        if not missing or _groups(node) != channels or of_each != 1 or before is None or behind is None:
            continue
        if not all(_has_them_alone(conv) for conv in (before, node, behind)):
            continue
        for tensor in (*_tensors(before), *_tensors(node)):
            _widen(tensor, 0, missing, shapes)
        _widen(_tensors(behind)[0], 1, missing, shapes)
        node.attributes["group"] = ir.AttrInt64("group", channels + missing)
    return shapes


def _groups(conv: ir.Node) -> int:
    return conv.attributes["group"].as_int() if "group" in conv.attributes else 1


def _next(node: ir.Node, step: Callable[[ir.Node], ir.Node | None]) -> ir.Node | None:
    """The plain convolution on one side of a depthwise one, with nothing branching off between them."""
    other = step(node)
    while other is not None and other.op_type in _BETWEEN:
        other = step(other)
    return None if other is None or other.op_type != "Conv" or _groups(other) != 1 else other


def _before(node: ir.Node) -> ir.Node | None:
    value = node.inputs[0]
    return None if value is None or len(value.uses()) != 1 or value.is_graph_output() else value.producer()


def _behind(node: ir.Node) -> ir.Node | None:
    (value,) = node.outputs
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and uses[0].idx == 0 and not value.is_graph_output() else None


def _is_of_integers(conv: ir.Node) -> bool:
    return len(_tensors(conv)) > len(conv.inputs) - 1


def _tensors(conv: ir.Node) -> list[ir.Value]:
    """What a convolution is made of, along its outputs: its weight, or codes, scale and zero points; and a bias."""
    weight = conv.inputs[1]
    assert weight is not None
    made_by = weight.producer()
    of_weight = [weight] if made_by is None else list(made_by.inputs)
    return [value for value in (*of_weight, *conv.inputs[2:]) if value is not None]


def _has_them_alone(conv: ir.Node) -> bool:
    """Whether no other node takes its tensors."""
    return all(value is not None and len(value.uses()) == 1 for value in (*conv.inputs[1:], *_tensors(conv)))


def _sizes(value: ir.Value) -> list[int]:
    shape = () if value.shape is None else value.shape.numpy()
    return [int(size) for size in shape]


def _widen(value: ir.Value, dimension: int, missing: int, shapes: dict[str, list[int]]) -> None:
    sizes = _sizes(value)
    if not sizes:
        return  # one scale for all channels
    sizes[dimension] += missing
    if value.const_value is None:
        shapes[str(value.name)] = sizes
    else:
        filled = np.zeros(sizes, value.const_value.numpy().dtype)
        filled[tuple(slice(size) for size in value.const_value.shape)] = value.const_value.numpy()
        value.const_value = ir.tensor(filled, dtype=value.dtype, name=value.name)
    value.shape = ir.Shape(sizes)
