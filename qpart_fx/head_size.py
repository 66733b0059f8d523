"""How large a head's file will be, before it is written: what its weights take at every width, and the rest at a cut."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from . import container
from .cut import Cut
from .graph_json import graph_to_record, tensors_of
from .meta import info
from .quantizer import UniformQuantizer
from .rounding import Rounding
from .tensor_table import Row, write_quantized


def coded_bits(rounding: Rounding, name: str, weight: Tensor, bits: int) -> float:
    """Bits of a weight's data in the file, at a width: eq. 14 for the paper's rounding, the coded ones else."""
    quantizer = rounding.quantizer(name, weight, bits)
    if isinstance(quantizer, UniformQuantizer):
        return float(bits * weight.numel())
    _, data = write_quantized(rounding.rounded(name, weight.detach(), bits).cpu(), quantizer)
    return 8.0 * len(data)


def head_bits(graph: GraphModule, cuts: Sequence[Cut]) -> tuple[float, ...]:
    """Bits of a head's file without its weights' data, for each of ``cuts``: graph, biases, norms, framing.

    Within some bytes of the file's: codes and steps that are yet to come are written as some others. A head with
    nothing to run is not downloaded: 0.
    """
    record = graph_to_record(graph)
    tensors = tensors_of(graph)
    weights = {name for node in graph.graph.nodes for name in info(node).weights}
    floats = {
        name: tensor.numel() * (2 if tensor.dtype == torch.float32 else tensor.itemsize)
        for name, tensor in tensors.items()
        if name not in weights
    }
    rows = {name: _row(name, tensor, name in weights) for name, tensor in tensors.items()}

    def rest(cut: Cut) -> int:
        inside = set(cut.device_nodes)
        nodes = [node for node in record["nodes"] if node[1] in inside]
        modules = {node[2]: record["modules"][node[2]] for node in nodes if node[0] == "call_module"}
        constants = {node[2] for node in nodes if node[0] == "get_attr"}
        kept = [name for name in rows if name.rpartition(".")[0] in modules or name in constants]
        table = [rows[name] for name in kept]
        for name in cut.crossing:
            quantize = f"quantize_{name}"
            nodes.append(["call_module", quantize, quantize, {"tuple": [{"node": name}]}, {"dict": []}])
            modules[quantize] = {"type": "FakeQuantize", "bits": 8}
            table += [
                {"name": f"{quantize}.{part}", "dtype": "int32", "shape": []} for part in ("step_bits", "zero_point")
            ]
        graph_record = {"name": record["name"], "nodes": nodes, "modules": modules}
        manifest = {"graph": {"graph": graph_record, "tensors": table}}
        data = sum(floats.get(name, 0) for name in kept) + 8 * len(cut.crossing)
        return len(container.encode("head", manifest, b"")) + data

    return tuple(8.0 * rest(cut) if cut.device_macs else 0.0 for cut in cuts)


def _row(name: str, tensor: Tensor, quantized: bool) -> Row:
    """About what the table of a file says of a tensor; sizes of coded data are as long as they will be."""
    row: Row = {"name": name, "dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
    if isinstance(tensor, nn.Parameter):
        row["grad"] = True
    if quantized:
        likely = zlib.crc32(name.encode()) % max(tensor.numel(), 10) // 2
        return row | {"bits": 2 + likely % 7, "steps": [-likely % 97, len(tensor) // 2 + 11], "coded": likely}
    return row | ({"stored": "float16"} if tensor.dtype == torch.float32 else {})
