"""How large a head's file, or an update of it, will be, before it is written.

Its weights at every resolution, and the rest at every cut.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from . import container
from .cut import Cut
from .errors import ArtifactError
from .graph_json import node_to_record
from .head_update import code_difference
from .meta import info
from .operations import module_to_record
from .plan_summary import PlanSummary
from .quantizer import STEPS_PER_OCTAVE, ChannelQuantizer, UniformQuantizer, WeightQuantizer
from .resolution import width_of
from .rounding import Rounding
from .stored_tensor import ChannelTensor, Row
from .tensor_table import write_quantized

_FINE = 10.0
"""Beyond this resolution codes are spread evenly over far more than one step: halving it costs each number a bit."""

_LARGE = 1 << 14
"""Weights of so many numbers are not coded beyond: half a percent off at most, in a third less time."""


def coded_bits(rounding: Rounding, name: str, weight: Tensor) -> tuple[float, ...]:
    """Bits of a weight's data in the file, at each resolution: eq. 14 for the paper's rounding, the coded ones else."""
    found: list[float] = []
    quantizers = [rounding.quantizer(name, weight, resolution) for resolution in rounding.resolutions]
    for place, (resolution, quantizer) in enumerate(zip(rounding.resolutions, quantizers, strict=True)):
        if isinstance(quantizer, UniformQuantizer):
            found.append(float(quantizer.bits * weight.numel()))
        elif resolution > _FINE and weight.numel() >= _LARGE:
            found.append(found[-1] + _finer_bits(weight, quantizers[place - 1], quantizer))
        else:
            _, data = write_quantized(rounding.rounded(name, weight.detach(), resolution).cpu(), quantizer)
            found.append(8.0 * len(data))
    return tuple(found)


def _finer_bits(weight: Tensor, coarse: WeightQuantizer, fine: ChannelQuantizer) -> float:
    """What finer steps cost beyond coarse ones, of channels that are not all zero."""
    assert isinstance(coarse, ChannelQuantizer)
    live = weight.detach().reshape(len(weight), -1).any(dim=1).cpu()
    octaves = (coarse.exponents.double() - fine.exponents.double())[live].sum() / STEPS_PER_OCTAVE
    return float(octaves) * weight[0].numel()


_SAMPLED = 1 << 16
"""Numbers that are coded to learn how many bits differences take: within some percent, in 20 to 40 ms a layer."""


def update_bits(rounding: Rounding, name: str, weight: Tensor, held: float) -> tuple[float, ...]:
    """Bits of a weight's data in an update, at each resolution, where the device has it at the resolution ``held``, if
    the difference is sent; eq. 14 for the paper's rounding, whose codes are sent anew.

    Of a large weight, some channels are coded and stand for all.
    """
    if not isinstance(rounding.quantizer(name, weight, held), ChannelQuantizer) or not weight.numel():
        return tuple(float(width_of(resolution) * weight.numel()) for resolution in rounding.resolutions)
    channels = max(1, min(len(weight), _SAMPLED * len(weight) // weight.numel()))
    rows = torch.linspace(0, len(weight) - 1, channels).round().long()
    known = _channels_of(rounding, name, weight, held, rows)
    found = []
    for resolution in rounding.resolutions:
        _, steps, codes = code_difference(known, _channels_of(rounding, name, weight, resolution, rows))
        found.append(8.0 * (len(steps) + len(codes)) * len(weight) / channels)
    return tuple(found)


def _channels_of(rounding: Rounding, name: str, weight: Tensor, resolution: float, rows: Tensor) -> ChannelTensor:
    quantizer = rounding.quantizer(name, weight, resolution)
    assert isinstance(quantizer, ChannelQuantizer)
    sampled = ChannelQuantizer(quantizer.bits, quantizer.exponents[rows])
    codes = sampled.encode(rounding.rounded(name, weight.detach(), resolution).cpu()[rows]).numpy().astype(np.int16)
    return ChannelTensor(name, "float32", codes.shape, None, quantizer.bits, sampled.exponents.numpy(), codes)


def head_bits(graph: GraphModule, cuts: Sequence[Cut]) -> tuple[float, ...]:
    """Bits of a head's file without its weights' data, for each of ``cuts``: graph, biases, norms, framing.

    Within some bytes of the file's: codes and steps that are yet to come are written as some others. A head with
    nothing to run is not downloaded: 0. What no file can hold is not counted.
    """
    parts = _parts(graph)

    def rest(cut: Cut) -> int:
        inside = set(cut.device_nodes)
        found = [part for name, part in parts.items() if name in inside]
        if not cut.device_macs and not any(part.tensors for part in found):
            return 0
        found += [_rounds(name) for name in cut.crossing]
        record = {
            "name": graph._get_name(),
            "nodes": [part.node for part in found],
            "modules": {part.node[2]: part.module for part in found if part.module is not None},
        }
        table = [row for part in found for row in part.tensors]
        about = {"graph": {"graph": record, "tensors": table}, "plan": _summary(record["name"], cut).to_record()}
        framing = container.encode("head", about, b"")
        return len(framing) + sum(part.data for part in found)

    return tuple(8.0 * rest(cut) for cut in cuts)


def _summary(model: str, cut: Cut) -> PlanSummary:
    """What a file may say of a plan with this cut: as long, and as hard to compress."""
    digits = hashlib.sha256(model.encode()).hexdigest()
    return PlanSummary(model, digits[:32], digits[32:48], cut.crossing, 0.01, 0.01234, 0.02345, 0.03456, 0.95, 1024)


class _Part(NamedTuple):
    """What a node adds to a file: its record, its module's, the rows of its tensors, bytes of data but for weights."""

    node: list[Any]
    module: dict[str, Any] | None
    tensors: list[Row]
    data: int


def _parts(graph: GraphModule) -> dict[str, _Part]:
    """By the names of the nodes; what several nodes use adds to the first."""
    weights = {name for node in graph.graph.nodes for name in info(node).weights}
    tensors = {**dict(graph.named_parameters()), **dict(graph.named_buffers())}
    parts: dict[str, _Part] = {}
    for node in graph.graph.nodes:
        if node.op == "output":
            continue
        target = str(node.target)
        try:
            record = node_to_record(node)
            module = module_to_record(target, graph.get_submodule(target)) if node.op == "call_module" else None
        except ArtifactError:
            continue
        own = [name for name in tensors if node.op == "get_attr" and name == target]
        if module is not None:
            own = [name for name in tensors if name.startswith(f"{target}.")]
        used = {name: tensors.pop(name) for name in own}
        data = sum(
            tensor.numel() * (2 if tensor.dtype == torch.float32 else tensor.itemsize)
            for name, tensor in used.items()
            if name not in weights
        )
        rows = [_row(name, tensor, name in weights) for name, tensor in used.items()]
        parts[node.name] = _Part(record, module, rows, data)
    return parts


def _rounds(name: str) -> _Part:
    """What rounding a value that crosses adds."""
    quantize = f"quantize_{name}"
    rows: list[Row] = [
        {"name": f"{quantize}.{part}", "dtype": "int32", "shape": []} for part in ("step_bits", "zero_point")
    ]
    node = ["call_module", quantize, quantize, {"tuple": [{"node": name}]}, {"dict": []}]
    return _Part(node, {"type": "qpart_fx.FakeQuantize", "arguments": {"bits": 8}}, rows, 8)


def _row(name: str, tensor: Tensor, quantized: bool) -> Row:
    """About what the table of a file says of a tensor; sizes of coded data are as long as they will be."""
    row: Row = {"name": name, "dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
    if isinstance(tensor, nn.Parameter):
        row["grad"] = True
    if quantized:
        likely = zlib.crc32(name.encode()) % max(tensor.numel(), 10) // 2
        return row | {"bits": 2 + likely % 7, "steps": [-likely % 97, len(tensor) // 2 + 11], "coded": likely}
    return row | ({"stored": "float16"} if tensor.dtype == torch.float32 else {})
