"""Arrays as the bytes that cross the wire, and back: numpy's side of :mod:`qpart_fx.message`."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArtifactError, RequestError
from ..memory_layout import MemoryLayout
from ..message import (
    DTYPES,
    Header,
    Piece,
    bytes_of,
    read_codes,
    read_message,
    read_number,
    write_codes,
    write_message,
)

Array = NDArray[Any]

_FLOAT32_MAX = np.finfo(np.float32).max


@dataclass(frozen=True, slots=True)
class Rounded:
    """What a value is rounded to, (code - ``zero_point``) * ``step``, and the dtype that it then has."""

    bits: int
    step: float
    zero_point: int
    dtype: str = "float32"

    def encode(self, values: Array) -> NDArray[np.float32]:
        """The codes of ``values``, as :class:`~qpart_fx.quantizer.UniformQuantizer` has them, to the last bit."""
        codes: NDArray[np.float32] = np.atleast_1d(values.astype(np.float32, copy=False)) / np.float32(self.step)
        np.rint(codes, out=codes)
        codes += np.float32(self.zero_point)
        return np.clip(codes, 0, 2**self.bits - 1, out=codes).reshape(values.shape)

    def decode(self, codes: Array) -> Array:
        """The values that ``codes`` stand for."""
        zero, step = np.float32(self.zero_point), np.float32(self.step)
        values = np.atleast_1d(codes.astype(np.float32)) - zero
        with np.errstate(over="ignore"):
            values *= step
            ends = (np.array([0, 2**self.bits - 1], np.float32) - zero) * step
        largest = np.float32(min(np.finfo(self.dtype).max, _FLOAT32_MAX))
        if np.abs(ends).max() > largest:  # the grid reaches half a step beyond the range
            np.clip(values, -largest, largest, out=values)
        return values.astype(self.dtype, copy=False).reshape(codes.shape)


def pack_arrays(arrays: Sequence[Array]) -> bytes:
    """The message of arrays as they are.

    >>> unpack_arrays(pack_arrays([np.array([[1.5, 2]])]))
    (array([[1.5, 2. ]]),)

    Raises:
        RequestError: one is of a dtype that no message holds.
    """
    return write_message([plain(array) for array in arrays])


def unpack_arrays(data: bytes, grids: Sequence[Rounded | None] | None = None) -> tuple[Any, ...]:
    """The arrays, and plain numbers, of a message, each in memory of its own.

    Args:
        grids: of those that are rounded; by default none is, and there may be any number.

    Raises:
        ArtifactError: the bytes are damaged, of another version, or not of such values.
    """
    try:
        known = [None] * struct.unpack_from("<H", data, 4)[0] if grids is None else grids
        values = read_message(data, known)
        return tuple(_array(header, grid, piece) for (header, piece), grid in zip(values, known, strict=True))
    except (struct.error, IndexError, ValueError, TypeError, OverflowError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"the activation is malformed: {error}") from error


def plain(array: Array) -> tuple[Header, Piece]:
    """A value of a message as it is."""
    if array.dtype.name not in DTYPES:
        raise RequestError(f"an array of {array.dtype} cannot be sent: convert it")
    return Header(DTYPES.index(array.dtype.name), MemoryLayout.contiguous(array.shape)), bytes_of(
        _little(array).reshape(-1)
    )


def rounded(codes: Array, grid: Rounded, uplink_bps: float | None) -> tuple[Header, Piece]:
    """A value of a message at its bits, from its codes."""
    layout = MemoryLayout.contiguous(codes.shape)
    return write_codes(DTYPES.index(grid.dtype), layout, codes.reshape(-1), grid, uplink_bps)


def _little(array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _array(header: Header, grid: Rounded | None, piece: memoryview) -> Any:
    if number := header.number:
        return read_number(number, piece)
    if grid is not None:
        flat: Array = grid.decode(read_codes(header, piece, grid))
    else:
        flat = np.frombuffer(piece, dtype=np.dtype(header.dtype).newbyteorder("<")).astype(header.dtype)
    return _scattered(header.layout, flat)


def _scattered(layout: MemoryLayout, values: Array) -> Array:
    """The array that lies like ``layout``, of the values that were sent of it."""
    if layout.strides == MemoryLayout.contiguous(layout.shape).strides:
        return values.reshape(layout.shape)
    size = values.itemsize
    sizes, strides = layout.loops
    memory = np.zeros(layout.span, dtype=values.dtype)
    if layout.overlaps:
        memory[:] = values
    else:
        np.lib.stride_tricks.as_strided(memory, sizes, [size * each for each in strides])[...] = values.reshape(sizes)
    return np.lib.stride_tricks.as_strided(memory, layout.shape, [size * each for each in layout.strides]).copy()
