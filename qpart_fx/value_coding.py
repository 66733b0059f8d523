"""Quantized values of an activation, entropy-coded: adaptively, since nothing is known of them beforehand.

Values that lie side by side are of one channel or one token, and of one scale: runs of them are the rows of
``entropy_coding``, each with a model of its own. A range that begins at zero (after a ReLU) is folded, 0, 1, 2, 3, ...
to 0, -1, 1, -2, ..., so that a symmetric model fits. And where there are many more zeros than a model expects, a bit
for each value says which are zero, and only the others are coded.

Layout: whether zeros are apart (1 byte); if so, the bits that are 1 for other values; the coded rows.

Needs numpy and constriction only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import entropy_coding
from .bitpack import packed_size
from .errors import ArtifactError

Integers = NDArray[np.int32]

_RUN = 128
"""Values of a row: enough for the row's class to cost next to nothing, and few enough to be of one scale."""


def encode_values(codes: Integers, bits: int, zero_point: int) -> bytes:
    """Code ``codes``, a flat array of integers from 0 to 2**bits - 1.

    >>> codes = np.array([3, 0, 0, 0, 1], dtype=np.int32)
    >>> decode_values(encode_values(codes, 2, 0), 5, 2, 0).tolist()
    [3, 0, 0, 0, 1]
    """
    zero = _zero(bits, zero_point)
    numbers = codes - zero
    together = _folded(numbers, zero)
    if not _are_zeros_apart(together):
        return b"\0" + entropy_coding.encode(_runs(together))
    others = numbers != 0
    kept = numbers[others] - (zero == 0)
    return b"\1" + np.packbits(others).tobytes() + entropy_coding.encode(_runs(_folded(kept, zero)))


def decode_values(data: bytes | memoryview, count: int, bits: int, zero_point: int) -> Integers:
    """The ``count`` codes that :func:`encode_values` coded.

    Raises:
        ArtifactError: the bytes are not what it makes of so many codes.
    """
    zero, apart, rest = _zero(bits, zero_point), bytes(data[:1]), data[1:]
    if apart not in (b"\0", b"\1"):
        raise ArtifactError("coded values begin with another byte than 0 or 1")
    if apart == b"\0":
        numbers = _unfolded(_decoded(rest, count, bits), zero)
    else:
        size = packed_size(count, 1)
        if size > len(rest):
            raise ArtifactError(f"coded values are cut short: {count:,} are claimed to be in {len(data):,} bytes")
        others = np.unpackbits(np.frombuffer(rest[:size], dtype=np.uint8), count=count).astype(np.bool_)
        numbers = np.zeros(count, dtype=np.int32)
        kept = _decoded(rest[size:], int(others.sum()), bits)
        numbers[others] = _unfolded(kept, zero) + (zero == 0)
    codes = numbers + zero
    if count and not 0 <= int(codes.min()) <= int(codes.max()) < 2**bits:
        raise ArtifactError(f"coded values are of more than {bits} bits")
    return codes


def _zero(bits: int, zero_point: int) -> int:
    """The code of the value nearest to zero."""
    return min(max(zero_point, 0), (1 << bits) - 1)


def _folded(numbers: Integers, zero: int) -> Integers:
    """Of numbers that are none below 0, every second one below it; others as they are."""
    if zero:
        return numbers
    return np.where(numbers & 1, -((numbers + 1) >> 1), numbers >> 1).astype(np.int32)


def _unfolded(numbers: Integers, zero: int) -> Integers:
    if zero:
        return numbers
    return np.where(numbers < 0, -2 * numbers - 1, 2 * numbers).astype(np.int32)


def _runs(numbers: Integers) -> Integers:
    """As rows, the last one filled up with zeros."""
    rows = -(-numbers.size // _RUN)
    return np.append(numbers, np.zeros(rows * _RUN - numbers.size, dtype=np.int32)).reshape(rows, _RUN)


def _decoded(data: bytes | memoryview, count: int, bits: int) -> Integers:
    rows = -(-count // _RUN)
    numbers = entropy_coding.decode(data, rows, _RUN, 2**bits).ravel()
    if numbers[count:].any():
        raise ArtifactError(f"more than {count:,} values are coded")
    return numbers[:count]


def _are_zeros_apart(numbers: Integers) -> bool:
    """Whether to tell zeros from others by a Laplace model of their mean magnitude takes more than a bit each."""
    mean = float(np.abs(numbers).mean()) if numbers.size else 0.0
    if not mean:
        return False
    t = mean / (1 + np.sqrt(1 + mean * mean))
    expected = (1 - t) / (1 + t)
    zeros = float((numbers == 0).mean())
    return bool(-zeros * np.log2(expected) - (1 - zeros) * np.log2(1 - expected) > 1)
