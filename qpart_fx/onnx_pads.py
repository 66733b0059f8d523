"""Zeros that a node of its own puts around what a convolution takes, left to the convolution.

PyTorch pads both sides alike, so that networks from elsewhere have a node that pads one side more. ONNX's convolutions
need none, and with one in between, onnxruntime's integer kernels would go to floats and back for it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .onnx_graph import DOMAIN, ROUND, OnnxGraph


def fold_pads(graph: OnnxGraph) -> None:
    """Take such nodes out, and what rounds their results where they were of rounded values: 0 is rounded to 0."""
    model = graph.model.graph
    for node in list(model):
        if node.op_type == "Conv" and node.domain == "" and _text(node, "auto_pad", "NOTSET") == "NOTSET":
            _fold(model, node)


def _fold(model: ir.Graph, conv: ir.Node) -> None:
    rounding = _made_for(conv, conv.inputs[0], ROUND)
    if (
        rounding is not None
        and not 0 <= rounding.attributes["zero"].as_int() < 2 ** rounding.attributes["bits"].as_int()
    ):
        return
    behind = conv if rounding is None else rounding
    pad = _made_for(behind, behind.inputs[0], "Pad")
    around = None if pad is None else _zeros_around(pad)
    if pad is None or around is None:
        return
    own = conv.attributes["pads"].as_ints() if "pads" in conv.attributes else [0] * len(around)
    conv.attributes["pads"] = ir.AttrInt64s("pads", [a + b for a, b in zip(own, around, strict=True)])
    given = pad.inputs[0]
    assert given is not None
    before = given.producer()
    if rounding is None or (before is not None and _alike(rounding, before)):
        conv.replace_input_with(0, given)
        if rounding is not None:
            model.remove(rounding, safe=True)
    else:
        rounding.replace_input_with(0, given)
        rounding.outputs[0].shape = given.shape
    model.remove(pad, safe=True)


def _made_for(user: ir.Node, value: ir.Value | None, kind: str) -> ir.Node | None:
    """The node of this kind that makes ``value``, if only ``user`` takes it."""
    node = None if value is None else value.producer()
    if node is None or value is None or value.is_graph_output() or len(value.uses()) != 1:
        return None
    return node if node.op_type == kind and node.domain == (DOMAIN if kind == ROUND else "") else None


def _zeros_around(pad: ir.Node) -> list[int] | None:
    """How many zeros it puts before and behind each dimension of an image, as a convolution's ``pads``; None if it does
    something else."""
    inputs = [None if value is None else value.const_value for value in pad.inputs[1:]]
    given = [value is not None for value in pad.inputs[1:]]
    if _text(pad, "mode", "constant") != "constant" or not inputs or inputs[0] is None or any(given[2:]):
        return None
    if any(given[1:2]) and (inputs[1] is None or np.any(inputs[1].numpy() != 0)):
        return None
    pads = inputs[0].numpy().tolist()
    dimensions = len(pads) // 2
    before, behind = pads[:dimensions], pads[dimensions:]
    if min(pads) < 0 or any(before[:2] + behind[:2]):  # samples and channels
        return None
    return [*before[2:], *behind[2:]]


def _text(node: ir.Node, name: str, default: str) -> str:
    """An attribute of a node."""
    return node.attributes[name].as_string() if name in node.attributes else default


def _alike(rounding: ir.Node, before: ir.Node) -> bool:
    """Whether what comes from ``before`` lies on the grid of ``rounding``."""
    return (before.domain, before.op_type) == (DOMAIN, ROUND) and all(
        before.attributes[name].value == rounding.attributes[name].value for name in ("bits", "step", "zero")
    )
