"""What crosses the wire for one call of a head, as bytes: each value at its bits, behind a header of a few bytes.

Layout, little-endian: ``QPA4``, the number of values (2 bytes), and for each value its kind (1 byte), its number of
dimensions (1 byte), its sizes (4 bytes each), unless it is contiguous, its strides (4 bytes each, in elements), and, if
it is entropy-coded, how many bytes it takes (4); then the values one after the other, each in the order of its memory
and without gaps and repetitions; last the :func:`~qpart_fx.checksum.checksum` of all before it (4 bytes). Codes of 8
and of 16 bits are integers of one byte and of two, those of other widths lie in the planes of :mod:`qpart_fx.bitpack`.
The steps and zero points are the head's and are not sent.

Strides are sent since results depend on them to the last bit: sums and convolutions choose their order by them.

Needs no torch: devices write messages, and read the answers to them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .bitpack import pack_bits, packed_size, unpack_bits
from .checksum import SIZE, checksum
from .errors import ArtifactError, RequestError
from .memory_layout import MemoryLayout
from .value_coding import decode_values, encode_values

_MAGIC = b"QPA4"

DTYPES = (
    "float32 float64 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64 complex128 complex32 uint16 uint32 "
    "uint64 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu float4_e2m1fn_x2"
).split()
"""Names of torch's, by their number in a message: a new one goes to the end."""

_SIZES = dict(zip(DTYPES, (4, 8, 2, 2, 8, 4, 2, 1, 1, 1, 8, 16, 4, 2, 4, 8, 1, 1, 1, 1, 1, 1), strict=True))
NUMBERS: tuple[type, ...] = (int, float, bool, type(None))
STRIDED, QUANTIZED, NUMBER = 32, 64, 128
CODED = NUMBER + QUANTIZED
"""Kinds: a dtype's number, plus 32 when strides follow, plus 64 when packed at the head's bits, or plus 192 when these
are entropy-coded; or 128 plus the number of a plain number's type."""

CODER_S, CODER_S_PER_VALUE = 5e-4, 8e-8
"""Seconds that the entropy coder takes for a tensor, and for each value of it, at both ends together: measured on one
core of a server's processor (50 to 80 ns a value, from some thousands of values on). A slow device takes some times as
long: :mod:`qpart_fx.device.coding` finds out."""

Piece = bytes | memoryview
"""The bytes of a value."""

_WHOLE: Mapping[int, Any] = {8: np.dtype("<u1"), 16: np.dtype("<u2")}
"""Widths that are integers as they are: they need no packing."""

_SCALAR = MemoryLayout((), ())


class Grid(Protocol):
    """What a value that crosses is rounded to: (code - zero_point) * step."""

    @property
    def bits(self) -> int: ...

    @property
    def zero_point(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of a value before its bytes."""

    kind: int
    layout: MemoryLayout = _SCALAR
    coded: int = 0
    """Bytes of an entropy-coded value."""

    @property
    def dtype(self) -> str:
        """Of a tensor.

        Raises:
            ArtifactError: there is none of this number.
        """
        if self.kind % STRIDED >= len(DTYPES):
            raise ArtifactError(f"the activation holds a tensor of an unknown dtype: number {self.kind % STRIDED}")
        return DTYPES[self.kind % STRIDED]

    @property
    def number(self) -> type | None:
        """The type of a plain number; None for tensors."""
        return NUMBERS[self.kind - NUMBER] if self.kind & CODED == NUMBER else None

    @property
    def is_coded(self) -> bool:
        return self.kind & CODED == CODED

    def size(self, grid: Grid | None) -> int:
        """Bytes of the value."""
        if self.number:
            return 0 if self.number is type(None) else 8
        if bool(self.kind & QUANTIZED) != (grid is not None):
            raise ArtifactError("the activation comes from another head: what is quantized in one is not in the other")
        if self.is_coded:
            return self.coded
        count = self.layout.count
        return _size(count, grid.bits) if grid else count * _SIZES[self.dtype]

    def packed(self) -> bytes:
        shape, strides = self.layout.shape, self.layout.strides if self.kind & STRIDED else ()
        sizes = (*shape, *strides, self.coded) if self.is_coded else (*shape, *strides)
        return struct.pack(f"<BB{len(sizes)}I", self.kind, len(shape), *sizes)

    @classmethod
    def unpacked(cls, data: bytes, place: int) -> tuple[Header, int]:
        """The header at ``place``, and the place after it."""
        kind, dimensions = data[place], data[place + 1]
        place += 2
        if kind & CODED == NUMBER:
            if dimensions or kind >= NUMBER + len(NUMBERS):
                raise ArtifactError(f"the activation holds a value of an unknown kind: {kind}")
            return cls(kind), place
        shape = struct.unpack_from(f"<{dimensions}I", data, place)
        place += 4 * dimensions
        layout = MemoryLayout.contiguous(shape)
        if kind & STRIDED:
            layout = MemoryLayout(shape, struct.unpack_from(f"<{dimensions}I", data, place))
            place += 4 * dimensions
            if not layout.can_be_kept:
                raise ArtifactError(
                    f"a value of shape {list(shape)} claims the impossible strides {list(layout.strides)}"
                )
        if kind & CODED != CODED:
            return cls(kind, layout), place
        return cls(kind, layout, *struct.unpack_from("<I", data, place)), place + 4


def require_rate(uplink_bps: float | None) -> None:
    """Refuse a rate that is none.

    Raises:
        RequestError: it is not above 0.
    """
    if uplink_bps is not None and not uplink_bps > 0:
        raise RequestError(f"uplink_bps = {uplink_bps!r}: a rate in bits a second is above 0; None if it is not known")


def write_message(values: Sequence[tuple[Header, Piece]]) -> bytes:
    """The message of values that are bytes already.

    Raises:
        RequestError: there are more than a message can hold.
    """
    if len(values) >= 2**16:
        raise RequestError(
            f"{len(values):,} values cross this cut, and {2**16 - 1:,} can be sent at most: cut elsewhere"
        )
    start = b"".join([_MAGIC, struct.pack("<H", len(values)), *(header.packed() for header, _ in values)])
    parts = [start, *(piece for _, piece in values)]
    return b"".join([*parts, checksum(*parts).to_bytes(SIZE, "little")])


def bytes_of(flat: NDArray[Any]) -> memoryview:
    """The bytes of a flat array without gaps: its own memory, and no copy of it."""
    return flat.view(np.uint8).data


def read_message(data: bytes, grids: Sequence[Grid | None]) -> list[tuple[Header, memoryview]]:
    """The values of a message, as bytes still, one for each of ``grids``.

    Raises:
        ArtifactError: the bytes are cut short or damaged, of another version, or not for this head.
    """
    if len(data) < len(_MAGIC) + 2 + SIZE or data[:3] != _MAGIC[:3] or not is_whole(data):
        raise ArtifactError("the activation is cut short or damaged: send it again")
    if data[:4] != _MAGIC:
        raise ArtifactError("the activation is of another version: pack and unpack it with the same qpart_fx")
    (count,) = struct.unpack_from("<H", data, 4)
    if count != len(grids):
        raise ArtifactError(f"the activation holds {count} values, and this head sends {len(grids)}")
    place, end, headers = len(_MAGIC) + 2, len(data) - SIZE, []
    for _ in grids:
        header, place = Header.unpacked(data, place)
        headers.append(header)
    values = []
    for header, grid in zip(headers, grids, strict=True):
        size = header.size(grid)
        if place + size > end:
            raise ArtifactError(
                f"a value of shape {list(header.layout.shape)} takes {size:,} bytes, more than the activation holds"
            )
        values.append((header, memoryview(data)[place : place + size]))
        place += size
    if place != end:
        raise ArtifactError(f"the activation has {end - place} bytes too many")
    return values


def is_whole(data: bytes) -> bool:
    """Whether a message of some bytes has the checksum that it ends with."""
    return checksum(memoryview(data)[:-SIZE]) == int.from_bytes(data[-SIZE:], "little")


def write_number(value: float | None) -> tuple[Header, bytes]:
    """A plain number, or None."""
    header = Header(NUMBER + NUMBERS.index(type(value)))
    return header, b"" if value is None else struct.pack("<d" if type(value) is float else "<q", value)


def read_number(kind: type, piece: memoryview) -> Any:
    """The number, or None, that :func:`write_number` wrote."""
    return None if kind is type(None) else kind(struct.unpack("<d" if kind is float else "<q", piece)[0])


def write_codes(
    kind: int, layout: MemoryLayout, codes: NDArray[Any], grid: Grid, uplink_bps: float | None
) -> tuple[Header, Piece]:
    """Codes of a quantized value, flat and in the order of its memory; entropy-coded where that saves more time on a
    link of so many bits a second than it takes.

    Args:
        kind: the number of the dtype of the value, plus ``STRIDED`` where it is.
    """
    if uplink_bps is not None:
        worth = (CODER_S + CODER_S_PER_VALUE * codes.size) * uplink_bps / 8  # bytes
        size = _size(codes.size, grid.bits)
        if size > worth:  # or else not even if nothing were left of it
            coded = encode_values(codes.astype(np.int32), grid.bits, grid.zero_point)
            if size - len(coded) - 4 > worth:
                return Header(kind + CODED, layout, len(coded)), coded
    if grid.bits in _WHOLE:
        return Header(kind + QUANTIZED, layout), bytes_of(codes.astype(_WHOLE[grid.bits], copy=False))
    narrow: NDArray[np.unsignedinteger[Any]] = codes.astype(np.uint8 if grid.bits < 8 else np.uint16, copy=False)
    return Header(kind + QUANTIZED, layout), pack_bits(narrow, grid.bits)


def read_codes(header: Header, piece: memoryview, grid: Grid) -> NDArray[np.integer[Any]]:
    """The codes that :func:`write_codes` wrote."""
    count = header.layout.count
    if header.is_coded:
        return decode_values(piece, count, grid.bits, grid.zero_point)
    if grid.bits in _WHOLE:
        return np.frombuffer(piece, _WHOLE[grid.bits])
    return unpack_bits(piece, count, grid.bits)


def _size(count: int, bits: int) -> int:
    """Bytes of codes that are not entropy-coded."""
    return count * bits // 8 if bits in _WHOLE else packed_size(count, bits)
