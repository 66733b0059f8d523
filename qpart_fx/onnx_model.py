"""Heads and tails as ONNX models: weights as integers behind DequantizeLinear, nodes called by the model's layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch.fx import GraphModule

from .errors import MissingDependencyError
from .onnx_graph import onnx_graph
from .quantized import weight_quantizers

if TYPE_CHECKING:
    import onnx

WIDTHS_OF_ONNX = (2, 4, 8, 16)
"""Those of its integers."""


def onnx_model(
    graph_module: GraphModule,
    inputs: Sequence[Any],
    about: Mapping[str, str],
    outputs: Sequence[str] | None = None,
    *,
    containers: Sequence[int] = WIDTHS_OF_ONNX,
    round_to_integers: bool = True,
) -> onnx.ModelProto:
    """A head or a tail with its weights, checked.

    Args:
        inputs: example values of its placeholders. about: metadata. outputs: the names of its outputs.
        containers: widths of the integers that weights may lie in, the least that holds their codes.
        round_to_integers: what crosses is rounded by QuantizeLinear; else in floats, which gives the same.

    Raises:
        ModelError: ONNX has no operator for what it calls; names the node.
    """
    try:
        import onnx
        import onnx_ir as ir

        from .onnx_pads import fold_pads
        from .onnx_quantizers import OPSET_OF_TWO_BITS, codes_of, dequantize, fill, lower_rounding
    except ModuleNotFoundError as error:
        raise MissingDependencyError("ONNX", extra="onnx") from error
    graph = onnx_graph(graph_module, inputs, outputs)
    quantizers = weight_quantizers(graph_module)
    fold_pads(graph)
    lower_rounding(graph, codes_out=False, to_integers=round_to_integers)
    for name, tensor in graph.tensors.items():
        codes = codes_of(tensor, quantizers[name], containers) if name in quantizers else None
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
