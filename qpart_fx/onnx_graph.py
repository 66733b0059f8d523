"""A head or a tail as an ONNX graph whose tensors are open: named, of known shape, and filled in by whoever writes it.

torch.onnx makes the graph. Its parameters and buffers become inputs while it is simplified, so that no weight is folded
into another and each lies on its quantizer's grid as before; a graph can be kept and filled with other weights. What
rounds an activation is one node, ``qpart::Round``, that :mod:`qpart_fx.onnx_quantizers` puts into ONNX's own terms.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from .errors import MissingDependencyError, RequestError
from .exporting import quiet
from .failing_node import failure, require_no_opaque
from .graph_json import tensors_of
from .graph_parts import graph_module_of
from .inputs import copied
from .quantizer import FakeQuantize

if TYPE_CHECKING:
    import onnx_ir as ir

OPSET = 21
"""The first that has 4-bit and 16-bit integers in QuantizeLinear."""

_Constant = int | float | bool | str | None
"""Inputs that the graph of a head may hold: the rest of a call is tensors."""

DOMAIN, ROUND = "qpart", "Round"
"""Of the node that rounds to a :class:`~qpart_fx.quantizer.UniformQuantizer`'s grid: attributes bits, step, zero."""


@dataclass(frozen=True)
class OnnxGraph:
    """``model``: its last inputs are the open ``tensors``. ``inputs`` and ``outputs``: the names of the others."""

    model: ir.Model
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tensors: Mapping[str, Tensor]

    def open_value(self, name: str) -> ir.Value:
        """The value of an open tensor."""
        return next(value for value in self.model.graph.inputs if value.name == name)


def onnx_graph(graph_module: GraphModule, args: Sequence[Any], outputs: Sequence[str] | None = None) -> OnnxGraph:
    """The graph of a head or a tail in inference, for any batch size.

    Args:
        args: example values of its placeholders, samples along the first dimensions. What is no tensor but a number
            becomes a constant.
        outputs: what its outputs are to be called; by default as torch calls them.

    Raises:
        MissingDependencyError: without the extra ``onnx``.
        ModelError: ONNX has no operator for what it calls; names it.
        RequestError: an input is no tensor.
    """
    try:
        from onnxscript import optimizer
    except ModuleNotFoundError as error:
        raise MissingDependencyError("ONNX", extra="onnx") from error
    require_no_opaque(graph_module, "ONNX")
    placeholders = [node for node in graph_module.graph.nodes if node.op == "placeholder"]
    given, output = dict(zip(placeholders, args, strict=True)), graph_module.graph.output_node()
    for node, value in given.items():
        if not isinstance(value, Tensor | _Constant) or (not isinstance(value, Tensor) and output in node.users):
            raise RequestError(
                f"ONNX passes tensors, and '{node.target}' is of type {type(value).__name__}: choose another cut or "
                "input"
            )
    tensors = {node: value for node, value in given.items() if isinstance(value, Tensor)}
    exported = _exported(graph_module, tuple(args))
    names = [str(node.target).lstrip("*") for node in tensors]
    graph = exported.graph
    own = {name: tensor for name, tensor in tensors_of(graph_module).items() if name in graph.initializers}
    for name in own:
        value = graph.initializers.pop(name)
        value.const_value = None
        graph.inputs.append(value)
    optimizer.optimize(exported)
    _hand_inputs_on(graph)
    inputs = list(zip(graph.inputs, names, strict=False))  # the open tensors come behind
    made = [value for value in graph.outputs if not value.is_graph_input()]
    called = dict(zip(graph.outputs, outputs or [str(value.name) for value in graph.outputs], strict=True))
    _call(graph, [*inputs, *((value, called[value]) for value in made)], own)
    _name_nodes(graph)
    return OnnxGraph(
        exported, tuple(str(value.name) for value, _ in inputs), tuple(str(value.name) for value in graph.outputs), own
    )


def _exported(graph_module: GraphModule, args: tuple[Any, ...]) -> ir.Model:
    try:
        return _export(graph_module, copied(args))
    except Exception as error:  # the exporter raises what its parts do
        raise failure(graph_module, args, "ONNX", _export, error) from error


def _export(graph_module: GraphModule, args: tuple[Any, ...]) -> ir.Model:
    placeholders = graph_module.graph.find_nodes(op="placeholder")
    given = dict(zip(placeholders, args, strict=True))
    prepared = _prepared(graph_module, {node: each for node, each in given.items() if not isinstance(each, Tensor)})
    args = tuple(each for each in args if isinstance(each, Tensor))
    sizes = {value.shape[0] for value in args if value.dim()}
    batched = tuple({0: torch.export.Dim.AUTO} if value.dim() and len(sizes) == 1 else None for value in args)
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            prepared, args, dynamo=True, optimize=False, opset_version=OPSET, verbose=False, dynamic_shapes=batched
        )
    assert program is not None
    return program.model


class _Round(nn.Module):
    """A :class:`FakeQuantize` while a graph is written as ONNX."""

    def __init__(self, module: FakeQuantize) -> None:
        super().__init__()
        quantizer = module.quantizer
        self.attributes: dict[str, Any] = {
            "bits": quantizer.bits, "step": quantizer.step, "zero": quantizer.zero_point
        }  # fmt: skip

    def forward(self, values: Tensor) -> Tensor:
        return torch.onnx.ops.symbolic(
            f"{DOMAIN}::{ROUND}", (values,), self.attributes, dtype=values.dtype, shape=values.shape, version=1
        )


def _prepared(graph_module: GraphModule, constants: Mapping[Node, _Constant]) -> GraphModule:
    """The same graph over the same parts, but for what rounds, and for inputs that are constants."""
    graph = torch.fx.Graph()
    placed: dict[Node, Any] = dict(constants)
    output = graph.graph_copy(graph_module.graph, placed)
    graph.output(output)
    for node in graph.find_nodes(op="placeholder"):
        while hasattr(graph_module, str(node.target)):  # the exporter would take one for the other
            node.target = f"{node.target}_"
    modules = dict(graph_module.named_modules())
    made = {name: _Round(module) for name, module in modules.items() if isinstance(module, FakeQuantize)}
    return graph_module_of(graph, graph_module, type(graph_module).__name__, made)


def _hand_inputs_on(graph: ir.Graph) -> None:
    """An input that is an output too, is one value: the exporter puts a node between."""
    for place, value in enumerate(graph.outputs):
        node = value.producer()
        if node is not None and node.op_type == "Identity" and node.inputs[0] in list(graph.inputs):
            graph.outputs[place] = node.inputs[0]
            graph.remove(node, safe=False)


def _call(graph: ir.Graph, names: Sequence[tuple[ir.Value, str]], taken: Iterable[str]) -> None:
    """Give inputs and outputs their names; each that is taken already, by a tensor of the model or one before, gets a
    dash at its end, and so do values within the graph."""
    known = set(taken)
    within = [value for node in graph for value in node.outputs if not value.is_graph_output()]
    for value, name in [*names, *((value, str(value.name)) for value in within)]:
        while name in known:
            name += "_"
        known.add(name)
        value.name = name


def _name_nodes(graph: ir.Graph) -> None:
    """By the layers that they come from; what else the exporter says of them (sources, stacks) is left out."""
    seen: dict[str, int] = {}
    for node in graph:
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "['']"))
        layer = next((scope for scope in reversed(scopes[:-1]) if scope), scopes[-1])
        name = f"{layer}/{node.op_type}" if layer else node.op_type
        seen[name] = seen.get(name, 0) + 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"
        node.metadata_props.clear()
        node.doc_string = None
    for value in (*graph.inputs, *graph.outputs, *(each for node in graph for each in node.outputs)):
        value.metadata_props.clear()
    graph.metadata_props.clear()
