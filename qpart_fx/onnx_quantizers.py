"""Quantizers in ONNX's own terms: what rounds an activation, and what makes a weight of its codes.

QuantizeLinear divides by the step, rounds half to even and adds the zero point, DequantizeLinear takes it off and
multiplies, in float32 both: as :class:`~qpart_fx.quantizer.UniformQuantizer` does, to the last bit. Codes lie in the
least integers of ONNX that hold them; those of fewer bits than these are clipped before they are rounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from .onnx_graph import DOMAIN, ROUND, OnnxGraph
from .quantizer import ChannelQuantizer, UniformQuantizer, WeightQuantizer

OPSET_OF_TWO_BITS = 25
"""The first that has 2-bit integers in DequantizeLinear."""

_SIGNED = {2: ir.DataType.INT2, 4: ir.DataType.INT4, 8: ir.DataType.INT8, 16: ir.DataType.INT16}
_UNSIGNED = {2: ir.DataType.UINT2, 4: ir.DataType.UINT4, 8: ir.DataType.UINT8, 16: ir.DataType.UINT16}
_PRODUCTS = ("Conv", "Gemm", "MatMul")
"""Those that have integer kernels; a weight is their second input."""

_RECTIFIERS = ("Relu", "Clip")
"""Those that onnxruntime makes a part of the integer kernel before them."""

_ACTIVATIONS = (8, 16)
"""Widths of integers that onnxruntime rounds to."""


@dataclass(frozen=True)
class Codes:
    """A weight as DequantizeLinear takes it: integers of the weight's shape, a scale or one for each channel along the
    first dimension, and the code that stands for zero, if it is not 0."""

    values: NDArray[np.integer[Any]]
    dtype: ir.DataType
    scale: NDArray[np.float32]
    zero: int = 0


def codes_of(weight: Tensor, quantizer: WeightQuantizer, containers: Sequence[int] = (2, 4, 8, 16)) -> Codes | None:
    """The codes of a weight that lies on the grid of ``quantizer``, in the least integers of ``containers`` bits that
    hold them; None where ONNX cannot say it: other floats than float32, zero points that are no code."""
    if weight.dtype != torch.float32:
        return None
    bits = next((bits for bits in containers if bits >= quantizer.bits), None)
    if bits is None:
        return None
    codes: NDArray[Any] = quantizer.encode(weight.detach().cpu()).numpy()
    if isinstance(quantizer, ChannelQuantizer):
        scale = ChannelQuantizer.steps_of(quantizer.exponents).numpy()
        signed: NDArray[np.integer[Any]] = codes.astype(np.int8 if bits <= 8 else np.int16)
        return Codes(signed, _SIGNED[bits], scale)
    if not 0 <= quantizer.zero_point < 2**bits:
        return None
    unsigned: NDArray[np.integer[Any]] = codes.astype(np.uint8 if bits <= 8 else np.uint16)
    return Codes(unsigned, _UNSIGNED[bits], np.array(quantizer.step, np.float32), quantizer.zero_point)


def dequantize(graph: OnnxGraph, name: str, codes: Codes) -> tuple[ir.Value, ir.Value]:
    """Have the open tensor ``name`` made of its codes; returns the values of codes and scale, which are open now."""
    weight = graph.open_value(name)
    model = graph.model.graph
    of_codes = ir.Value(name=f"{name}.codes", type=ir.TensorType(codes.dtype), shape=ir.Shape(codes.values.shape))
    of_scale = ir.Value(name=f"{name}.scale", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(codes.scale.shape))
    # Without zero points onnxruntime would multiply by Gemm in floats, or add one of the wrong shape for exact kernels.
    of_zero = _constant(graph, f"{name}.zero", np.full(codes.scale.shape, codes.zero), codes.dtype)
    attributes = [ir.AttrInt64("axis", 0)] if codes.scale.ndim else []
    node = ir.Node("", "DequantizeLinear", [of_codes, of_scale, of_zero], attributes, name=f"{name}/DequantizeLinear")
    model.inputs.remove(weight)
    model.inputs.extend([of_codes, of_scale])
    (made,) = node.outputs
    made.name, made.type, made.shape = name, weight.type, weight.shape
    ir.convenience.replace_all_uses_with(weight, made)
    model.insert_before(model[0], node)
    return of_codes, of_scale


def integer_weights(graph: OnnxGraph, quantizers: Mapping[str, WeightQuantizer]) -> list[str]:
    """Have those open weights made of 8-bit codes that integer kernels multiply with rounded values; returns their
    names."""
    found = []
    for name in graph.tensors:
        uses = graph.open_value(name).uses()
        products = [use.node for use in uses if use.node.op_type in _PRODUCTS and use.idx == 1]
        if name not in quantizers or not products or len(products) < len(uses):
            continue
        rounded = all(_is_rounded(node.inputs[0]) and _can_be_integer(node) for node in products)
        codes = codes_of(graph.tensors[name], quantizers[name], containers=(8,)) if rounded else None
        if codes is not None:
            dequantize(graph, name, codes)
            found.append(name)
            for node in products:
                _take_bias_out(graph, node)
    return found


def _take_bias_out(graph: OnnxGraph, product: ir.Node) -> None:
    """Of a product of integers that makes floats: onnxruntime's has no bias in floats."""
    (made,) = product.outputs
    bias = product.inputs[2] if product.op_type == "Gemm" and len(product.inputs) == 3 else None
    if bias is None or any(_makes_bytes(use.node) for use in made.uses()):
        return
    name = made.name
    add = ir.Node("", "Add", [made, bias], name=f"{product.name}/bias")
    (total,) = add.outputs
    total.type, total.shape = made.type, made.shape
    ir.convenience.replace_all_uses_with(made, total, replace_graph_outputs=True)
    add.replace_input_with(0, made)
    product.resize_inputs(2)
    made.name, total.name = f"{name}/product", name
    graph.model.graph.insert_after(product, add)


def _is_rounded(value: ir.Value | None) -> bool:
    made_by = None if value is None else value.producer()
    return made_by is not None and made_by.op_type == "DequantizeLinear"


def _is_product_of_rounded(value: ir.Value) -> bool:
    """Whether a matrix product makes it of values that are rounded."""
    node = value.producer()
    if node is None or node.op_type not in ("Gemm", "MatMul") or len(value.uses()) != 1:
        return False
    source = None if node.inputs[0] is None else node.inputs[0].producer()
    return source is not None and source.op_type in ("DequantizeLinear", ROUND)


def _can_be_integer(product: ir.Node) -> bool:
    """Whether integer kernels make what a product of rounded values makes: convolutions make 8-bit integers only. In
    floats, their weights would be made of codes anew in every run."""
    if product.op_type != "Conv":
        return True
    user = _only_user(product)
    while user is not None and user.op_type in _RECTIFIERS:
        user = _only_user(user)
    return user is not None and _makes_bytes(user)


def _only_user(node: ir.Node) -> ir.Node | None:
    (made,) = node.outputs
    users = [use.node for use in made.uses()]
    return users[0] if len(users) == 1 else None


def _makes_bytes(node: ir.Node) -> bool:
    zero = node.inputs[2] if node.op_type == "QuantizeLinear" else None
    return zero is not None and zero.dtype == ir.DataType.UINT8


def fill(graph: OnnxGraph, value: ir.Value, tensor: ir.TensorProtocol) -> None:
    """Make an open value an initializer."""
    graph.model.graph.inputs.remove(value)
    value.const_value = tensor
    graph.model.graph.initializers[str(value.name)] = value


def lower_rounding(graph: OnnxGraph, *, codes_out: bool, to_integers: bool = True) -> dict[str, UniformQuantizer]:
    """Put ONNX's operators for the nodes that round activations.

    Args:
        codes_out: what is rounded last, as an output of the graph, stays in codes. Where a product of integers makes
            it, and its codes are wider, it is not rounded: onnxruntime would run the product in floats.
        to_integers: by QuantizeLinear where the codes fit its integers; else in floats throughout.

    Returns:
        The quantizers of the outputs that are codes, by name.
    """
    model = graph.model.graph
    found = {}
    for node in list(model):
        if node.domain != DOMAIN or node.op_type != ROUND:
            continue
        quantizer = UniformQuantizer(
            node.attributes["bits"].as_int(), node.attributes["step"].as_float(), node.attributes["zero"].as_int()
        )
        (made,) = node.outputs
        given = node.inputs[0]
        assert given is not None
        last = codes_out and made.is_graph_output() and not made.uses()
        if last and _as_codes(quantizer) is not None:
            found[str(made.name)] = quantizer
        dtype = _as_codes(quantizer) if to_integers else None
        if last and dtype != ir.DataType.UINT8 and _is_product_of_rounded(given):
            found.pop(str(made.name), None)
            name = made.name
            ir.convenience.replace_all_uses_with(made, given, replace_graph_outputs=True)
            model.remove(node, safe=True)
            given.name = name
            continue
        nodes = _rounding(graph, given, quantizer, dtype, node.name or "", codes=str(made.name) in found)
        new = nodes[-1].outputs[0]
        name = made.name
        model.insert_before(node, nodes)
        ir.convenience.replace_all_uses_with(made, new, replace_graph_outputs=True)
        model.remove(node, safe=True)
        new.name, new.shape = name, made.shape
        new.type = ir.TensorType(dtype) if dtype is not None and str(name) in found else made.type
    graph.model.opset_imports.pop(DOMAIN, None)
    return found


def _as_codes(quantizer: UniformQuantizer) -> ir.DataType | None:
    """The integers that its codes lie in, where its zero point is one of them."""
    bits = next(bits for bits in _ACTIVATIONS if bits >= quantizer.bits)
    return _UNSIGNED[bits] if 0 <= quantizer.zero_point < 2**bits else None


def _rounding(
    graph: OnnxGraph,
    given: ir.Value,
    quantizer: UniformQuantizer,
    dtype: ir.DataType | None,
    name: str,
    *,
    codes: bool,
) -> list[ir.Node]:
    """The nodes that round a value, the last of which makes the result: codes, or what they stand for."""
    name = name.rpartition("/")[0]
    step, zero, most = np.float32(quantizer.step), quantizer.zero_point, 2**quantizer.bits - 1
    nodes: list[ir.Node] = []

    def add(kind: str, *inputs: ir.Value) -> ir.Value:
        nodes.append(ir.Node("", kind, inputs, name=f"{name}/{kind}" + "_2" * any(n.op_type == kind for n in nodes)))
        return nodes[-1].outputs[0]

    def constant(what: str, value: float | np.float32, kind: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
        return _constant(graph, f"{name}.{what}", np.array(value), kind)

    if dtype is None:  # in the same steps, on floats
        scaled = add("Round", add("Div", given, constant("scale", step)))
        clipped = add("Clip", scaled, constant("least", -zero), constant("most", most - zero))
        add("Mul", clipped, constant("scale", step))
        return nodes
    if not codes and (most < 255 or 255 < most < 65535):  # codes are clipped by whoever takes them
        ends = constant("least", np.float32(-zero) * step), constant("most", np.float32(most - zero) * step)
        given = add("Clip", given, *ends)
    scale, of_zero = constant("scale", step), constant("zero", zero, dtype)
    rounded = add("QuantizeLinear", given, scale, of_zero)
    if not codes:
        add("DequantizeLinear", rounded, scale, of_zero)
    return nodes


def _constant(graph: OnnxGraph, name: str, value: NDArray[np.generic], dtype: ir.DataType) -> ir.Value:
    initializers = graph.model.graph.initializers
    if name not in initializers:
        tensor = ir.tensor(value.astype(dtype.numpy()), dtype=dtype, name=name)
        initializers[name] = ir.Value(
            name=name, type=ir.TensorType(dtype), shape=ir.Shape(value.shape), const_value=tensor
        )
    return initializers[name]
