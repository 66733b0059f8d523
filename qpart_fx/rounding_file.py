"""A rounding in a profile's file: the exponents and codes of every weight, entropy-coded."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import entropy_coding
from .errors import ArtifactError
from .resolution import LARGEST_WIDTH, RESOLUTIONS
from .rounding import NEAREST, CompensatedRounding, Rounding

_LARGEST = 2**15 - 1


def write_rounding(rounding: Rounding) -> tuple[dict[str, Any] | None, bytes]:
    """A record with a table of the weights, and their coded data; None for the paper's rounding, which needs none."""
    if not isinstance(rounding, CompensatedRounding):
        return None, b""
    rows: list[dict[str, Any]] = []
    pieces: list[bytes] = []
    for name, exponents in rounding.exponents.items():
        count, channels, columns = rounding.codes[name].shape
        coded = [_encode(exponents), *(_encode(codes) for codes in rounding.codes[name])]
        pieces += coded
        rows.append({"name": name, "shape": [count, channels, columns], "sizes": [len(piece) for piece in coded]})
    return {"largest_width": rounding.largest_width, "weights": rows}, b"".join(pieces)


def read_rounding(record: Any, data: memoryview) -> Rounding:
    """The rounding that :func:`write_rounding` wrote.

    Raises:
        ArtifactError: the table does not fit the data.
    """
    if record is None:
        return NEAREST
    largest_width = record["largest_width"]
    if type(largest_width) is not int or not 2 <= largest_width <= LARGEST_WIDTH:
        raise ArtifactError(f"codes of weights are {largest_width!r} bits wide at most, and there are 2 to 16")
    exponents: dict[str, Tensor] = {}
    codes: dict[str, Tensor] = {}
    place = 0
    for row in record["weights"]:
        count, channels, columns = row["shape"]
        if not all(type(size) is int and size >= 0 for size in (*row["shape"], *row["sizes"])):
            raise ArtifactError(f"the codes of '{row['name']}' are of the impossible shape {row['shape']}")
        if count * channels * columns > len(data) << 16 or len(row["sizes"]) != count + 1 or count > len(RESOLUTIONS):
            raise ArtifactError(f"the codes of '{row['name']}' do not fit the file")
        pieces = []
        for size in row["sizes"]:
            pieces.append(data[place : place + size])
            place += size
        exponents[row["name"]] = _decode(pieces[0], len(RESOLUTIONS), channels)
        found = [_decode(piece, channels, columns) for piece in pieces[1:]]
        codes[row["name"]] = torch.stack(found)
    if place != len(data):
        raise ArtifactError(f"the codes of weights take {place:,} bytes, and the file holds {len(data):,}")
    return CompensatedRounding(exponents, codes, largest_width)


def _encode(numbers: Tensor) -> bytes:
    return entropy_coding.encode(numbers.numpy().astype(np.int32))


def _decode(piece: memoryview, rows: int, columns: int) -> Tensor:
    numbers = entropy_coding.decode(piece, rows, columns, _LARGEST)
    if numbers.size and np.abs(numbers).max() > _LARGEST:
        raise ArtifactError("a code is larger than any width has")
    return torch.from_numpy(numbers.astype(np.int16))
