"""A tensor as it lies in a file: a row of the file's table says what it is, a piece of the data what it holds.

Needs numpy, and constriction for coded weights: a device reads its head by this, and so does torch's side
(``tensor_table``), so that both have the same numbers to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import entropy_coding
from .bitpack import packed_size, unpack_bits
from .errors import ArtifactError

Row = dict[str, Any]

STEPS_PER_OCTAVE = 8
"""Steps of channels are whole eighths of an octave: a byte or two says which."""

_EIGHTHS = np.array([2.0 ** (eighth / STEPS_PER_OCTAVE) for eighth in range(STEPS_PER_OCTAVE)], dtype=np.float32)
_MOST_EXPONENT = STEPS_PER_OCTAVE * 126
_MOST_ZERO_POINT = 2**22
"""Twice as far from zero as any range lies whose values float32 can tell apart."""

_MOST_WEIGHTS_A_BYTE = 1 << 16
"""No model of the coder makes a number so likely that more would fit."""

_LARGEST = {
    "float16": np.float32(np.finfo(np.float16).max),
    "bfloat16": np.uint32(0x7F7F0000).view(np.float32),
    "float32": np.finfo(np.float32).max,
    "float64": np.finfo(np.float32).max,  # values are made in float32
}
"""Of the dtypes that a quantized weight may be of, the largest value."""

_NUMPY = {
    name: np.dtype(name)
    for name in (
        "float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64",
        "bool", "complex64", "complex128",
    )
}  # fmt: skip
_OTHER_SIZES = {
    "bfloat16": 2, "complex32": 4, "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1, "float4_e2m1fn_x2": 1,
}  # fmt: skip
"""Bytes of an element of those of torch's dtypes that numpy has not."""


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """``dtype`` by torch's name. ``requires_grad``: None for what is no parameter."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    requires_grad: bool | None

    @property
    def values(self) -> NDArray[Any]:
        """The values, of ``shape``; those of bfloat16 as float32, which holds them exactly.

        Raises:
            ArtifactError: numpy has no such dtype.
        """
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class PlainTensor(StoredTensor):
    """One that is stored as it is: ``data`` are its elements, of the dtype ``stored``."""

    stored: str
    data: bytes

    @property
    def values(self) -> NDArray[Any]:
        if self.stored == "bfloat16":
            wide = np.frombuffer(self.data, dtype="<u2").astype(np.uint32) << np.uint32(16)
            return wide.view(np.float32).reshape(self.shape)
        if self.stored not in _NUMPY:
            raise ArtifactError(f"tensor '{self.name}' is of {self.dtype}, which numpy has not: read it with torch")
        values = np.frombuffer(self.data, dtype=_NUMPY[self.stored].newbyteorder("<")).reshape(self.shape)
        return values.astype(_NUMPY[self.dtype])


@dataclass(frozen=True, eq=False)
class UniformTensor(StoredTensor):
    """A weight of one step: ``codes``, uint16 of its shape, stand for (code - ``zero_point``) * ``step``."""

    bits: int
    step: float
    zero_point: int
    codes: NDArray[np.uint16]

    @property
    def values(self) -> NDArray[Any]:
        with np.errstate(all="ignore"):
            values = (self.codes.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.step)
        largest = _LARGEST[self.dtype]  # the grid reaches half a step beyond the range
        return _as(np.clip(values, -largest, largest), self.dtype)


@dataclass(frozen=True, eq=False)
class ChannelTensor(StoredTensor):
    """A weight with a step for each channel along its first dimension: ``codes``, int16 of its shape, stand for
    code * step.

    ``bits``: the width that all codes fit in, signed. ``exponents``: of the steps 2**(exponent / 8), int16 of shape
    (channels,).
    """

    bits: int
    exponents: NDArray[np.int16]
    codes: NDArray[np.int16]

    @property
    def steps(self) -> NDArray[np.float32]:
        """Of each channel, shape (channels,)."""
        return steps_of(self.exponents)

    @property
    def values(self) -> NDArray[Any]:
        steps = self.steps.reshape(-1, *[1] * (len(self.shape) - 1))
        with np.errstate(all="ignore"):
            return _as(self.codes.astype(np.float32) * steps, self.dtype)


def steps_of(exponents: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
    """The steps 2**(exponent / 8), float32 of the same shape, the same to the last bit on every machine.

    >>> steps_of(np.array([-8, 0, 16]))
    array([0.5, 1. , 4. ], dtype=float32)
    """
    octave, eighth = np.divmod(exponents.astype(np.int32), STEPS_PER_OCTAVE)
    return np.asarray(np.ldexp(_EIGHTHS[eighth], octave))


def code_channels(exponents: NDArray[np.integer[Any]], codes: NDArray[np.integer[Any]]) -> tuple[Row, bytes]:
    """What the table says of the data of a :class:`ChannelTensor`, and the data."""
    middle = int(np.median(exponents))
    steps = entropy_coding.encode((exponents.astype(np.int32) - middle)[None])
    coded = entropy_coding.encode(codes.reshape(len(exponents), -1).astype(np.int32))
    return {"steps": [middle, len(steps)], "coded": len(coded)}, steps + coded


def size_of(row: Row) -> int:
    """Bytes of a tensor's data, its row of the table checked as far as that.

    Raises:
        ArtifactError: there is no such tensor.
    """
    name, dtype, shape = row["name"], row["dtype"], row["shape"]
    itemsize = _NUMPY[dtype].itemsize if dtype in _NUMPY else _OTHER_SIZES.get(dtype)
    if itemsize is None or not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise ArtifactError(f"tensor '{name}' is of the impossible type {dtype}{shape}")
    count = prod(shape)
    if "bits" not in row:
        if row.get("stored", "float16") != "float16" or ("stored" in row and dtype != "float32"):
            raise ArtifactError(f"tensor '{name}' of {dtype} is stored as {row['stored']!r}")
        return count * (2 if "stored" in row else itemsize)
    bits = row["bits"]
    if type(bits) is not int or not 2 <= bits <= 16:
        raise ArtifactError(f"tensor '{name}' is of {bits!r} bits, and there are 2 to 16")
    if dtype not in _LARGEST:
        raise ArtifactError(f"tensor '{name}' of {dtype} is quantized, and only floats are")
    if "steps" not in row:
        return packed_size(count, bits)
    sizes = row["steps"][1], row["coded"]
    if not all(type(size) is int and size >= 0 for size in sizes) or not shape:
        raise ArtifactError(f"tensor '{name}' claims the impossible sizes {sizes}")
    if count > _MOST_WEIGHTS_A_BYTE * sum(sizes):
        raise ArtifactError(f"tensor '{name}' claims {count:,} weights in {sum(sizes):,} bytes")
    return sum(sizes)


def read_tensor(row: Row, piece: bytes | memoryview) -> StoredTensor:
    """The tensor that a row describes, from its data, which are :func:`size_of` bytes.

    Raises:
        ArtifactError: the data are not those of such a tensor.
    """
    name, dtype, shape, grad = row["name"], row["dtype"], tuple(row["shape"]), row.get("grad")
    if not isinstance(name, str) or ("grad" in row and type(grad) is not bool):
        raise ArtifactError(f"a tensor is called {name!r}, or of the impossible requires_grad = {grad!r}")
    if "bits" not in row:
        return PlainTensor(name, dtype, shape, grad, str(row.get("stored", dtype)), bytes(piece))
    bits = row["bits"]
    if "steps" not in row:
        step, zero_point = row["step"], row["zero"]
        if type(step) not in (int, float) or type(zero_point) is not int or abs(zero_point) > _MOST_ZERO_POINT:
            raise ArtifactError(f"tensor '{name}' has an impossible step or zero point: {step!r}, {zero_point!r}")
        return UniformTensor(
            name, dtype, shape, grad, bits, step, zero_point, unpack_bits(piece, prod(shape), bits).reshape(shape)
        )
    middle, size = row["steps"]
    if type(middle) is not int or abs(middle) > _MOST_EXPONENT:
        raise ArtifactError(f"tensor '{name}' has impossible steps")
    exponents = entropy_coding.decode(piece[:size], 1, shape[0], 2 * _MOST_EXPONENT)[0].astype(np.int64) + middle
    if (np.abs(exponents) > _MOST_EXPONENT).any():
        raise ArtifactError(f"tensor '{name}' has impossible steps")
    most = 2 ** (bits - 1) - 1
    codes = entropy_coding.decode(piece[size:], shape[0], prod(shape) // max(shape[0], 1), most)
    if codes.size and np.abs(codes).max() > most:
        raise ArtifactError(f"tensor '{name}' holds codes of more than {bits} bits")
    return ChannelTensor(
        name, dtype, shape, grad, bits, exponents.astype(np.int16), codes.astype(np.int16).reshape(shape)
    )


def _as(values: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """Rounded to a dtype, to the nearest and to even as torch does."""
    if dtype != "bfloat16":
        return values.astype(_NUMPY[dtype])
    raw = values.view(np.uint32).astype(np.uint64)
    rounded = (raw + 0x7FFF + ((raw >> np.uint64(16)) & np.uint64(1))) & np.uint64(0xFFFF0000)
    return np.where(np.isnan(values), values, rounded.astype(np.uint32).view(np.float32))
