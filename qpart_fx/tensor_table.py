"""Tensors in a file: a table that says what each is, and one block of data; quantized ones at exactly their bits, or
entropy-coded where that is smaller."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import entropy_coding
from .bitpack import pack_bits, packed_size, unpack_bits
from .errors import ArtifactError
from .quantizer import ChannelQuantizer, UniformQuantizer, WeightQuantizer

Row = dict[str, Any]


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
    codes = quantizer.encode(values)
    if isinstance(quantizer, ChannelQuantizer):
        exponents = quantizer.exponents.numpy().astype(np.int32)
        middle = int(np.median(exponents))
        steps = entropy_coding.encode((exponents - middle)[None])
        coded = entropy_coding.encode(codes.reshape(len(exponents), -1).numpy().astype(np.int32))
        return {"bits": quantizer.bits, "steps": [middle, len(steps)], "coded": len(coded)}, steps + coded
    row: Row = {"bits": quantizer.bits, "step": quantizer.step, "zero": quantizer.zero_point}
    return row, pack_bits(codes.flatten().numpy().astype(np.uint16), quantizer.bits)


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
        dtype, shape = getattr(torch, row["dtype"], None), tuple(row["shape"])
        if not isinstance(dtype, torch.dtype) or not all(type(size) is int and size >= 0 for size in shape):
            raise ArtifactError(f"tensor '{name}' is of the impossible type {row['dtype']}{row['shape']}")
        size = _size(row, dtype, shape)
        if size > len(data) - place:
            raise ArtifactError(f"tensor '{name}' claims {size:,} bytes, and the file has {len(data) - place:,} left")
        piece = data[place : place + size]
        place += size
        if "bits" in row:
            tensor, quantizers[name] = _read_quantized(row, dtype, shape, piece)
        else:
            raw = torch.frombuffer(bytearray(piece), dtype=torch.uint8) if size else torch.empty(0, dtype=torch.uint8)
            stored = torch.float16 if "stored" in row else dtype
            tensor = raw.view(stored).reshape(shape).to(dtype)
        tensors[name] = nn.Parameter(tensor, row["grad"]) if "grad" in row else tensor
    return tensors, quantizers, place


def _size(row: Row, dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor's data, its row checked as far as that."""
    name, count = row["name"], prod(shape)
    if "bits" not in row:
        if row.get("stored", "float16") != "float16" or ("stored" in row and dtype != torch.float32):
            raise ArtifactError(f"tensor '{name}' of {row['dtype']} is stored as {row['stored']!r}")
        return count * (2 if "stored" in row else dtype.itemsize)
    bits = row["bits"]
    if type(bits) is not int or not 2 <= bits <= 16:
        raise ArtifactError(f"tensor '{name}' is of {bits!r} bits, and there are 2 to 16")
    if "steps" not in row:
        return packed_size(count, bits)
    sizes = row["steps"][1], row["coded"]
    if not all(type(size) is int and size >= 0 for size in sizes) or not shape:
        raise ArtifactError(f"tensor '{name}' claims the impossible sizes {sizes}")
    if count > _MOST_WEIGHTS_A_BYTE * sum(sizes):
        raise ArtifactError(f"tensor '{name}' claims {count:,} weights in {sum(sizes):,} bytes")
    return sum(sizes)


_MOST_WEIGHTS_A_BYTE = 1 << 16
"""No model of the coder makes a number so likely that more would fit."""


def _read_quantized(
    row: Row, dtype: torch.dtype, shape: tuple[int, ...], piece: memoryview
) -> tuple[Tensor, WeightQuantizer]:
    bits, count = row["bits"], prod(shape)
    if "steps" not in row:
        uniform = UniformQuantizer(bits, row["step"], row["zero"])
        codes = torch.from_numpy(unpack_bits(piece, count, bits).astype(np.float32)).reshape(shape)
        return uniform.decode(codes, dtype), uniform
    middle, size = row["steps"]
    if type(middle) is not int or abs(middle) > _MOST_EXPONENT:
        raise ArtifactError(f"tensor '{row['name']}' has impossible steps")
    exponents = entropy_coding.decode(piece[:size], 1, shape[0], 2 * _MOST_EXPONENT)[0].astype(np.int64) + middle
    if (np.abs(exponents) > _MOST_EXPONENT).any():
        raise ArtifactError(f"tensor '{row['name']}' has impossible steps")
    quantizer = ChannelQuantizer(bits, torch.from_numpy(exponents.astype(np.int16)))
    most = 2 ** (bits - 1) - 1
    numbers = entropy_coding.decode(piece[size:], shape[0], count // max(shape[0], 1), most)
    if numbers.size and np.abs(numbers).max() > most:
        raise ArtifactError(f"tensor '{row['name']}' holds codes of more than {bits} bits")
    return quantizer.decode(torch.from_numpy(numbers.astype(np.float32)).reshape(shape), dtype), quantizer


_MOST_EXPONENT = 8 * 126
