"""Torch's tensors in a file: a table that says what each is, and one block of data.

Quantized ones lie at exactly their bits, or entropy-coded with a step for each channel.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from .bitpack import pack_bits
from .errors import ArtifactError
from .quantizer import ChannelQuantizer, UniformQuantizer, WeightQuantizer
from .stored_tensor import (
    ChannelTensor,
    PlainTensor,
    Row,
    StoredTensor,
    UniformTensor,
    code_channels,
    read_tensor,
    size_of,
)


def write_tensors(tensors: Mapping[str, Tensor], quantizers: Mapping[str, WeightQuantizer]) -> tuple[list[Row], bytes]:
    """The table and the data of ``tensors``; those that have a quantizer lie on its grid already.

    Floats that are no other in half precision are stored so.
    """
    rows: list[Row] = []
    pieces: list[bytes] = []
    names: dict[int, str] = {}
    for name, tensor in tensors.items():
        if id(tensor) in names:
            rows.append({"name": name, "same": names[id(tensor)]})
            continue
        names[id(tensor)] = name
        row: Row = {"name": name, "dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
        if isinstance(tensor, nn.Parameter):
            row["grad"] = tensor.requires_grad
        values = tensor.detach().cpu().contiguous()
        quantizer = quantizers.get(name)
        if quantizer is not None and not torch.equal(quantizer(values), values):
            quantizer = None  # changed since it was quantized: it no longer lies on the grid
        if quantizer is not None:
            description, piece = write_quantized(values, quantizer)
            row |= description
            pieces.append(piece)
        else:
            if values.dtype == torch.float32 and values.numel() and torch.equal(values.half().float(), values):
                row["stored"] = "float16"
                values = values.half()
            pieces.append(values.reshape(-1).view(torch.uint8).numpy().tobytes())
        rows.append(row)
    return rows, b"".join(pieces)


def write_quantized(values: Tensor, quantizer: WeightQuantizer) -> tuple[Row, bytes]:
    """How a quantized weight is described in the table, and its data."""
    codes = quantizer.encode(values).numpy()
    if isinstance(quantizer, ChannelQuantizer):
        description, data = code_channels(quantizer.exponents.numpy(), codes)
        return {"bits": quantizer.bits, **description}, data
    row: Row = {"bits": quantizer.bits, "step": quantizer.step, "zero": quantizer.zero_point}
    return row, pack_bits(codes.ravel().astype(np.uint16), quantizer.bits)


def read_tensors(rows: list[Row], data: memoryview) -> tuple[dict[str, Tensor], dict[str, WeightQuantizer], int]:
    """The tensors and quantizers that :func:`write_tensors` wrote, and how many bytes of ``data`` they took.

    Sizes are checked against the data that are there before anything is allocated.

    Raises:
        ArtifactError: the table does not fit the data.
    """
    tensors: dict[str, Tensor] = {}
    quantizers: dict[str, WeightQuantizer] = {}
    place = 0
    for row in rows:
        name = row["name"]
        if "same" in row:
            tensors[name] = tensors[row["same"]]
            continue
        size = size_of(row)
        if size > len(data) - place:
            raise ArtifactError(f"tensor '{name}' claims {size:,} bytes, and the file has {len(data) - place:,} left")
        stored = read_tensor(row, data[place : place + size])
        place += size
        tensor = _tensor(stored)
        if (quantizer := _quantizer(stored)) is not None:
            quantizers[name] = quantizer
        tensors[name] = tensor if stored.requires_grad is None else nn.Parameter(tensor, stored.requires_grad)
    return tensors, quantizers, place


def _tensor(stored: StoredTensor) -> Tensor:
    dtype = getattr(torch, stored.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise ArtifactError(f"tensor '{stored.name}' is of {stored.dtype}, which this torch has not")
    if not isinstance(stored, PlainTensor):
        return torch.from_numpy(stored.values).to(dtype)
    raw = torch.frombuffer(bytearray(stored.data), dtype=torch.uint8) if stored.data else torch.empty(0).byte()
    return raw.view(getattr(torch, stored.stored)).reshape(stored.shape).to(dtype)


def _quantizer(stored: StoredTensor) -> WeightQuantizer | None:
    if isinstance(stored, ChannelTensor):
        return ChannelQuantizer(stored.bits, torch.from_numpy(stored.exponents))
    return UniformQuantizer(stored.bits, stored.step, stored.zero_point) if isinstance(stored, UniformTensor) else None
