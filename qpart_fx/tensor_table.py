"""Tensors in a file: a table that says what each is, and one block of data; quantized ones at exactly their bits."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .bitpack import pack_bits, packed_size, unpack_bits
from .errors import ArtifactError
from .quantizer import UniformQuantizer

Row = dict[str, Any]


def write_tensors(tensors: Mapping[str, Tensor], quantizers: Mapping[str, UniformQuantizer]) -> tuple[list[Row], bytes]:
    """The table and the data of ``tensors``; those that have a quantizer lie on its grid already."""
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
            row |= {"bits": quantizer.bits, "step": quantizer.step, "zero": quantizer.zero_point}
            codes = quantizer.encode(values).flatten().numpy().astype(np.uint16)
            pieces.append(pack_bits(codes, quantizer.bits))
        else:
            pieces.append(values.reshape(-1).view(torch.uint8).numpy().tobytes())
        rows.append(row)
    return rows, b"".join(pieces)


def read_tensors(rows: list[Row], data: memoryview) -> tuple[dict[str, Tensor], dict[str, UniformQuantizer], int]:
    """The tensors and quantizers that :func:`write_tensors` wrote, and how many bytes of ``data`` they took.

    Sizes are checked against the data that are there before anything is allocated.

    Raises:
        ArtifactError: the table does not fit the data.
    """
    tensors: dict[str, Tensor] = {}
    quantizers: dict[str, UniformQuantizer] = {}
    place = 0
    for row in rows:
        name = row["name"]
        if "same" in row:
            tensors[name] = tensors[row["same"]]
            continue
        dtype, shape = getattr(torch, row["dtype"], None), tuple(row["shape"])
        if not isinstance(dtype, torch.dtype) or not all(isinstance(size, int) and size >= 0 for size in shape):
            raise ArtifactError(f"tensor '{name}' is of the impossible type {row['dtype']}{row['shape']}")
        count = prod(shape)
        bits = row.get("bits")
        if bits is not None and (type(bits) is not int or not 2 <= bits <= 16):
            raise ArtifactError(f"tensor '{name}' is of {bits!r} bits, and there are 2 to 16")
        size = count * dtype.itemsize if bits is None else packed_size(count, bits)
        if size > len(data) - place:
            raise ArtifactError(f"tensor '{name}' claims {size:,} bytes, and the file has {len(data) - place:,} left")
        piece = data[place : place + size]
        place += size
        if bits is None:
            values = (
                torch.frombuffer(bytearray(piece), dtype=torch.uint8) if size else torch.empty(0, dtype=torch.uint8)
            )
            tensor = values.view(dtype).reshape(shape)
        else:
            quantizers[name] = UniformQuantizer(bits, row["step"], row["zero"])
            codes = torch.from_numpy(unpack_bits(piece, count, bits).astype(np.float32)).reshape(shape)
            tensor = quantizers[name].decode(codes, dtype)
        tensors[name] = nn.Parameter(tensor, row["grad"]) if "grad" in row else tensor
    return tensors, quantizers, place
