"""Heads, tails and whole splits as files: weights at exactly their bits, nothing pickled, nothing unknown executed."""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule

from qpart_fx import container
from qpart_fx.container import read_checked
from qpart_fx.errors import ArtifactError
from qpart_fx.graph_json import graph_from_record, graph_to_record, tensors_of
from qpart_fx.input_shapes import input_shapes, set_input_shapes
from qpart_fx.plan import Plan
from qpart_fx.plan_summary import PlanSummary
from qpart_fx.quantized import set_weight_quantizers, weight_quantizers
from qpart_fx.tensor_table import read_tensors, write_tensors


def pack_head(head: GraphModule, plan: Plan | None = None) -> bytes:
    """The file that a device downloads: the graph, the weights at their bits, biases and norms as they are, and what
    the device needs to know of the plan. :mod:`qpart_fx.head_file` reads it without torch.

    Raises:
        ArtifactError: the head calls something that no file can hold.
    """
    record, data = write_graph(head)
    about = {} if plan is None else {"plan": PlanSummary.of(plan).to_record()}
    return container.encode("head", {"graph": record, **about}, data)


def pack_tail(tail: GraphModule) -> bytes:
    """The server's half, in float."""
    record, data = write_graph(tail)
    return container.encode("tail", {"graph": record}, data)


def unpack_side(content: bytes) -> GraphModule:
    """The head or the tail that :func:`pack_head` or :func:`pack_tail` packed, equal to the last bit.

    Raises:
        ArtifactError: the file is damaged, of a later version, or calls unknown operations.
    """
    _, manifest, data = container.decode(content, "head", "tail")
    return read_checked(lambda: _whole(*read_graph(manifest["graph"], data), data))


def pack_split(head: GraphModule, tail: GraphModule, plan: Plan | None) -> bytes:
    """Head, tail and plan in one file."""
    device, of_device = write_graph(head)
    server, of_server = write_graph(tail)
    manifest = {
        "head": device,
        "tail": server,
        "inputs": input_shapes(head),
        "plan": None if plan is None else plan.to_json(),
    }
    return container.encode("split", manifest, of_device + of_server)


def unpack_split(manifest: dict[str, Any], data: memoryview) -> tuple[GraphModule, GraphModule, Plan | None]:
    """Head, tail and plan from the manifest and the data of what :func:`pack_split` packed.

    Raises:
        ArtifactError: the manifest is malformed, or a graph calls unknown operations.
    """

    def read() -> tuple[GraphModule, GraphModule, Plan | None]:
        head, used = read_graph(manifest["head"], data)
        set_input_shapes(head, manifest.get("inputs", {}))
        tail = _whole(*read_graph(manifest["tail"], data[used:]), data[used:])
        return head, tail, None if manifest["plan"] is None else Plan.from_json(manifest["plan"])

    return read_checked(read)


def write_graph(graph_module: GraphModule) -> tuple[dict[str, Any], bytes]:
    """A graph module as JSON and data: its structure, its tensors, and the quantizers of its weights."""
    rows, data = write_tensors(tensors_of(graph_module), weight_quantizers(graph_module))
    return {"graph": graph_to_record(graph_module), "tensors": rows}, data


def read_graph(record: dict[str, Any], data: memoryview) -> tuple[GraphModule, int]:
    """The graph module that :func:`write_graph` wrote, and how many bytes of ``data`` it took."""
    tensors, quantizers, used = read_tensors(record["tensors"], data)
    graph_module = graph_from_record(record["graph"], tensors)
    set_weight_quantizers(graph_module, quantizers)
    return graph_module, used


def _whole(graph_module: GraphModule, used: int, data: memoryview) -> GraphModule:
    if used != len(data):
        raise ArtifactError(f"the file's tensors take {used:,} bytes, and it holds {len(data):,}")
    return graph_module
