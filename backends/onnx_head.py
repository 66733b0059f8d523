"""The head's file for a device without torch: its graph as ONNX, its weights at their bits beside it.

The ONNX graph is the file's first tensor, deflated bytes called :data:`~qpart_fx.head_file.ONNX_GRAPH`. Its own
tensors have no data there: whoever runs it gives them, as floats, but of those that the record calls ``integers`` the
codes and the steps, for integer kernels, and those that it has in ``filled`` with zeros up to the shapes there. What is
rounded to cross leaves the graph as codes of 8 or 16 bits, those beyond the last to be clipped. Names of nodes and
shapes of values are left out: they would take a third of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.fx import GraphModule

from qpart_fx import container
from qpart_fx.errors import MissingDependencyError
from qpart_fx.head_file import ONNX_GRAPH
from qpart_fx.inputs import example_inputs
from qpart_fx.onnx_graph import OnnxGraph, onnx_graph
from qpart_fx.plan import Plan
from qpart_fx.plan_summary import PlanSummary
from qpart_fx.quantized import crossing_nodes, payload_quantizers, weight_quantizers
from qpart_fx.tensor_table import write_tensors

if TYPE_CHECKING:
    import onnx


def pack_onnx_head(head: GraphModule, plan: Plan | None, inputs: tuple[Any, ...] | None = None) -> bytes:
    """The file that :class:`qpart_fx.device.HeadRuntime` runs.

    Args:
        inputs: example values of the head's placeholders; by default zeros as it was captured with.

    Raises:
        MissingDependencyError: without the extra ``onnx``.
        ModelError: ONNX has no operator for what the head calls.
        RequestError: the shapes of the head's inputs are not known.
    """
    try:
        from qpart_fx.onnx_channels import fill_blocks
        from qpart_fx.onnx_pads import fold_pads
        from qpart_fx.onnx_quantizers import integer_weights, lower_rounding
    except ModuleNotFoundError as error:
        raise MissingDependencyError("ONNX", extra="onnx") from error
    names = [node.name for node in crossing_nodes(head)]
    graph = onnx_graph(head, example_inputs(head) if inputs is None else inputs, names)
    dtypes = {str(value.name): value.dtype.numpy().name for value in graph.model.graph.outputs if value.dtype}
    quantizers = weight_quantizers(head)
    fold_pads(graph)
    as_codes = lower_rounding(graph, codes_out=True)
    integers = integer_weights(graph, quantizers)
    filled = fill_blocks(graph)
    outputs = [
        [name] if grid is None else [name, grid.bits, grid.step, grid.zero_point, dtypes[name], name in as_codes]
        for name, grid in zip(graph.outputs, payload_quantizers(head), strict=True)
    ]
    packed = container.deflate(_without_data(graph).SerializeToString())
    tensors = {ONNX_GRAPH: torch.frombuffer(bytearray(packed), dtype=torch.uint8), **graph.tensors}
    rows, data = write_tensors(tensors, quantizers)
    for row in rows:
        row.pop("grad", None)  # only torch minds
    about = {} if plan is None else {"plan": PlanSummary.of(plan).to_record()}
    record = {
        "outputs": outputs,
        **({"integers": integers} if integers else {}),
        **({"filled": filled} if filled else {}),
    }
    return container.encode("head", {"graph": {"graph": record, "tensors": rows}, **about}, data)


def _without_data(graph: OnnxGraph) -> onnx.ModelProto:
    """The model with its open tensors as initializers whose data lie elsewhere."""
    import onnx
    import onnx_ir as ir

    model: onnx.ModelProto = ir.serde.serialize_model(graph.model)
    given = [value for value in model.graph.input if value.name not in graph.inputs]
    for value in given:
        kind = value.type.tensor_type
        tensor = onnx.TensorProto(name=value.name, data_type=kind.elem_type, data_location=onnx.TensorProto.EXTERNAL)
        tensor.dims.extend(size.dim_value for size in kind.shape.dim)
        tensor.external_data.add(key="location", value="_")
        model.graph.initializer.append(tensor)
        model.graph.input.remove(value)
    for node in model.graph.node:
        node.ClearField("name")
    del model.graph.value_info[:]
    del model.metadata_props[:]
    model.ClearField("producer_name")
    model.ClearField("producer_version")
    return model
