"""Integers packed at exactly their width, in bit planes: the highest bits of all values, then the next, and so on.

Planes are quick (whole bytes at a time), and the first k of them are the values at k bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def packed_size(count: int, bits: int) -> int:
    """Bytes of ``count`` values of ``bits`` bits.

    >>> packed_size(10, 3)
    6
    """
    return bits * (-(-count // 8))


def pack_bits(codes: NDArray[np.unsignedinteger], bits: int) -> bytes:
    """Pack a flat array of integers below ``2**bits``, 1 to 16 bits.

    >>> pack_bits(np.array([1, 2, 3], dtype=np.uint16), 2).hex()
    '60a0'
    """
    values: NDArray[Any] = np.ascontiguousarray(codes, dtype=_integers(bits))
    planes = [np.packbits((values & values.dtype.type(1 << bit)) != 0) for bit in reversed(range(bits))]
    return b"".join(plane.data for plane in planes)


def unpack_bits(data: bytes | memoryview, count: int, bits: int) -> NDArray[np.uint16]:
    """The ``count`` integers that :func:`pack_bits` packed.

    Raises:
        ValueError: ``data`` is not as long as ``count`` values of ``bits`` bits are.
    """
    if len(data) != packed_size(count, bits):
        raise ValueError(f"{count} values of {bits} bits take {packed_size(count, bits)} bytes, not {len(data)}")
    planes = np.frombuffer(data, dtype=np.uint8).reshape(bits, -1)
    values: NDArray[Any] = np.zeros(count, dtype=_integers(bits))
    for plane in planes:
        values += values  # a shift takes several times as long
        values |= np.unpackbits(plane, count=count)
    return values.astype(np.uint16, copy=False)


def _integers(bits: int) -> type[np.uint8] | type[np.uint16]:
    """Bytes take half the time."""
    return np.uint8 if bits <= 8 else np.uint16
