"""ONNX: a head and a tail for any runtime that reads it, quantized weights as integers behind DequantizeLinear."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import GraphModule

from qpart_fx.container import make_directory, write_file
from qpart_fx.errors import MissingDependencyError
from qpart_fx.onnx_graph import example_inputs, onnx_graph
from qpart_fx.quantized import weight_quantizers
from qpart_fx.runtimes import carried_by

from .base import Backend, Halves

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class OnnxBackend(Backend):
    """Writes ``head.onnx`` and ``tail.onnx``, for any batch size; nodes are called by the model's layers.

    The head returns what crosses, rounded, under the names of the plan's cut; the tail takes it under these. Weights
    lie in the least integers of ONNX that hold their codes: 2, 4, 8 or 16 bits. In onnxruntime the head equals
    PyTorch's with the session option ``session.disable_quant_qdq`` = 1; without, it may round activations where 4-bit
    weights are multiplied.
    """

    carries = carried_by("onnx")

    def export(self, halves: Halves, directory: Path) -> list[Path]:
        inputs = example_inputs(halves.head) if halves.inputs is None else halves.inputs
        with torch.no_grad():
            payload = halves.head(*inputs)
        about = {} if halves.plan is None else {"qpart.plan": halves.plan.to_json()}
        names = [str(node.target) for node in halves.tail.graph.nodes if node.op == "placeholder"]
        models = {
            "head.onnx": onnx_model(halves.head, inputs, {"qpart.side": "head", **about}, outputs=names),
            "tail.onnx": onnx_model(halves.tail, payload, {"qpart.side": "tail", **about}),
        }
        make_directory(directory)
        for name, model in models.items():
            write_file(directory / name, model.SerializeToString())
        return [directory / name for name in models]


def onnx_model(
    graph_module: GraphModule, inputs: tuple[Any, ...], about: Mapping[str, str], outputs: list[str] | None = None
) -> onnx.ModelProto:
    """A head or a tail with its weights, checked.

    Args:
        inputs: example values of its placeholders. about: metadata. outputs: the names of its outputs.

    Raises:
        ModelError: ONNX has no operator for what it calls.
    """
    try:
        import onnx
        import onnx_ir as ir

        from qpart_fx.onnx_quantizers import OPSET_OF_TWO_BITS, codes_of, dequantize, fill, lower_rounding
    except ModuleNotFoundError as error:
        raise MissingDependencyError("ONNX", extra="onnx") from error
    graph = onnx_graph(graph_module, inputs, outputs)
    quantizers = weight_quantizers(graph_module)
    lower_rounding(graph, codes_out=False)
    for name, tensor in graph.tensors.items():
        codes = codes_of(tensor, quantizers[name]) if name in quantizers else None
        if codes is None:
            fill(graph, graph.open_value(name), ir.tensor(tensor.detach().cpu().contiguous().clone(), name=name))
            continue
        of_codes, of_scale = dequantize(graph, name, codes)
        fill(graph, of_codes, ir.tensor(codes.values.astype(codes.dtype.numpy()), dtype=codes.dtype))
        fill(graph, of_scale, ir.tensor(codes.scale))
        if codes.dtype in (ir.DataType.INT2, ir.DataType.UINT2):
            graph.model.opset_imports[""] = OPSET_OF_TWO_BITS
    graph.model.metadata_props.clear()
    graph.model.metadata_props.update(about)
    model: onnx.ModelProto = ir.serde.serialize_model(graph.model)
    onnx.checker.check_model(model, full_check=True)
    return model
