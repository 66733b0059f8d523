"""What crosses the wire for one call of a head: each tensor at its bits, behind a header of a few bytes.

Layout, little-endian: ``QPA2``, the number of values (2 bytes), and for each value its kind (1 byte), its number of
dimensions (1 byte), its sizes (4 bytes each), unless it is contiguous, its strides (4 bytes each, in elements), and, if
it is entropy-coded, how many bytes it takes (4); then the values one after the other, each in the order of its memory
and without gaps and repetitions; last a CRC-32 of all before it. The steps and zero points are the head's and are not
sent.

Strides are sent since results depend on them to the last bit: sums and convolutions choose their order by them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule

from qpart_fx.bitpack import pack_bits, packed_size, unpack_bits
from qpart_fx.errors import ArtifactError, RequestError
from qpart_fx.memory_layout import MemoryLayout
from qpart_fx.quantized import crossing_nodes, payload_quantizers
from qpart_fx.quantizer import UniformQuantizer
from qpart_fx.value_coding import decode_values, encode_values

_MAGIC = b"QPA2"
_LATER_DTYPES = ("float8_e8m0fnu", "float4_e2m1fn_x2")
"""Not in every torch that we run on, and added to it in this order."""

_DTYPES: tuple[torch.dtype, ...] = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64, torch.complex128, torch.complex32, torch.uint16, torch.uint32,
    torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz,
    *(getattr(torch, name) for name in _LATER_DTYPES if hasattr(torch, name)),
)  # fmt: skip
_NUMBERS: tuple[type, ...] = (int, float, bool, type(None))
_STRIDED, _QUANTIZED, _NUMBER = 32, 64, 128
_CODED = _NUMBER + _QUANTIZED
"""Kinds: a dtype's index, plus 32 when strides follow, plus 64 when packed at the head's bits, or plus 192 when these
are entropy-coded; or 128 plus the index of a plain number's type."""

CODER_S, CODER_S_PER_VALUE = 5e-4, 8e-8
"""Seconds that the entropy coder takes for a tensor, and for each value of it, at both ends together: measured on one
core of a server's processor (50 to 80 ns a value, from some thousands of values on). A slow device takes some times as
long: give it a faster link than it has."""

_SCALAR = MemoryLayout((), ())


@dataclass(frozen=True, slots=True)
class _Header:
    """What is known of a value before its bytes."""

    kind: int
    layout: MemoryLayout = _SCALAR
    coded: int = 0
    """Bytes of an entropy-coded value."""

    @property
    def dtype(self) -> torch.dtype:
        index = self.kind % _STRIDED
        if index >= len(_DTYPES):
            raise ArtifactError(f"the activation holds a tensor of a dtype that this torch has not: number {index}")
        return _DTYPES[index]

    @property
    def number(self) -> type | None:
        """The type of a plain number; None for tensors."""
        return _NUMBERS[self.kind - _NUMBER] if self.kind & _CODED == _NUMBER else None

    @property
    def is_coded(self) -> bool:
        return self.kind & _CODED == _CODED

    def size(self, quantizer: UniformQuantizer | None) -> int:
        """Bytes of the value."""
        if self.number:
            return 0 if self.number is type(None) else 8
        if bool(self.kind & _QUANTIZED) != (quantizer is not None):
            raise ArtifactError("the activation comes from another head: what is quantized in one is not in the other")
        if self.is_coded:
            return self.coded
        count = self.layout.count
        return packed_size(count, quantizer.bits) if quantizer else count * self.dtype.itemsize

    def packed(self) -> bytes:
        shape, strides = self.layout.shape, self.layout.strides if self.kind & _STRIDED else ()
        sizes = (*shape, *strides, self.coded) if self.is_coded else (*shape, *strides)
        return struct.pack(f"<BB{len(sizes)}I", self.kind, len(shape), *sizes)

    @classmethod
    def unpacked(cls, data: bytes, place: int) -> tuple[_Header, int]:
        """The header at ``place``, and the place after it."""
        kind, dimensions = data[place], data[place + 1]
        place += 2
        if kind & _CODED == _NUMBER:
            if dimensions or kind >= _NUMBER + len(_NUMBERS):
                raise ArtifactError(f"the activation holds a value of an unknown kind: {kind}")
            return cls(kind), place
        shape = struct.unpack_from(f"<{dimensions}I", data, place)
        place += 4 * dimensions
        layout = MemoryLayout.contiguous(shape)
        if kind & _STRIDED:
            layout = MemoryLayout(shape, struct.unpack_from(f"<{dimensions}I", data, place))
            place += 4 * dimensions
            if not layout.can_be_kept:
                raise ArtifactError(
                    f"a value of shape {list(shape)} claims the impossible strides {list(layout.strides)}"
                )
        if kind & _CODED != _CODED:
            return cls(kind, layout), place
        return cls(kind, layout, *struct.unpack_from("<I", data, place)), place + 4


def pack_payload(head: GraphModule, payload: Sequence[Any], uplink_bps: float | None = None) -> bytes:
    """The bytes to send for ``payload``, which ``head`` returned for one sample or a batch.

    Args:
        uplink_bps: the link's rate, bits a second. Quantized values are entropy-coded where that saves more time on
            the link than the coder takes (:data:`CODER_S_PER_VALUE`); never if it is None.

    Raises:
        RequestError: ``payload`` is not what this head returns, or holds a value that has no bytes: one that is neither
            a tensor nor a number, a number of more than 64 bits, a tensor that is sparse, nested or of torch's own
            quantization, NaN where a quantizer is.
    """
    quantizers = payload_quantizers(head)
    if uplink_bps is not None and not uplink_bps > 0:
        raise RequestError(f"uplink_bps = {uplink_bps!r}: a rate in bits a second is above 0; None if it is not known")
    if not isinstance(payload, tuple | list) or len(payload) != len(quantizers):
        raise RequestError(f"the head returns a tuple of {len(quantizers)} values: pass it as it is")
    if len(payload) >= 2**16:
        raise RequestError(
            f"{len(payload):,} values cross this cut, and {2**16 - 1:,} can be sent at most: cut elsewhere"
        )
    headers, pieces = [], []
    for node, value, quantizer in zip(crossing_nodes(head), payload, quantizers, strict=True):
        try:
            header, piece = _pack(value, quantizer, uplink_bps)
            headers.append(header.packed())
        except (ValueError, TypeError, RuntimeError, OverflowError, struct.error) as error:
            what = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"of type {type(value).__name__}"
            raise RequestError(f"the payload's value '{node.name}', {what}, cannot be sent: {error}") from error
        pieces.append(piece)
    content = b"".join([_MAGIC, struct.pack("<H", len(payload)), *headers, *pieces])
    return content + struct.pack("<I", zlib.crc32(content))


def unpack_payload(head: GraphModule, data: bytes) -> tuple[Any, ...]:
    """The payload that :func:`pack_payload` packed, equal to the last bit and strided alike.

    Values that share memory arrive as copies. Where a tensor repeats its elements (``expand``), so does what arrives:
    it cannot be written to. Strides that leave gaps beyond measure are not kept.

    Raises:
        ArtifactError: the bytes are cut short or damaged, of another version, or not for this head.
    """
    quantizers = payload_quantizers(head)
    if len(data) < 10 or data[:3] != _MAGIC[:3] or zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
        raise ArtifactError("the activation is cut short or damaged: send it again")
    if data[:4] != _MAGIC:
        raise ArtifactError("the activation is of another version: pack and unpack it with the same qpart_fx")
    (count,) = struct.unpack_from("<H", data, 4)
    if count != len(quantizers):
        raise ArtifactError(f"the activation holds {count} values, and this head sends {len(quantizers)}")
    try:
        return _unpack(data, quantizers)
    except (struct.error, IndexError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"the activation is malformed: {error}") from error


def _pack(value: Any, quantizer: UniformQuantizer | None, uplink_bps: float | None) -> tuple[_Header, bytes]:
    if not isinstance(value, Tensor):
        if type(value) not in _NUMBERS:
            raise TypeError("it is neither a tensor nor a number")
        number = _Header(_NUMBER + _NUMBERS.index(type(value)))
        return number, b"" if value is None else struct.pack("<d" if type(value) is float else "<q", value)
    if value.is_nested or value.layout is not torch.strided or value.dtype not in _DTYPES:
        raise TypeError("only dense tensors of plain numbers are; convert it in the model")
    kind, shape, strides = _DTYPES.index(value.dtype), tuple(value.shape), value.stride()
    layout = MemoryLayout.contiguous(shape)
    if strides != layout.strides:
        if (strided := MemoryLayout(shape, strides)).can_be_kept:
            kind, layout = kind + _STRIDED, strided
        else:
            value = value.clone(memory_format=torch.contiguous_format)
    values = layout.gathered(value.detach()).cpu()
    if quantizer is None:
        return _Header(kind, layout), values.view(torch.uint8).numpy().tobytes()
    codes = quantizer.encode(values)
    if codes.sum().isnan():
        raise ValueError("it holds NaN, which no code stands for")
    numbers = codes.numpy()
    if uplink_bps is not None and (coded := _coded(numbers, quantizer, uplink_bps)) is not None:
        return _Header(kind + _CODED, layout, len(coded)), coded
    return _Header(kind + _QUANTIZED, layout), pack_bits(numbers.astype(np.uint16), quantizer.bits)


def _coded(codes: NDArray[np.float32], quantizer: UniformQuantizer, uplink_bps: float) -> bytes | None:
    """Entropy-coded, if that saves more time on the link than it takes."""
    worth = (CODER_S + CODER_S_PER_VALUE * codes.size) * uplink_bps / 8  # bytes
    packed = packed_size(codes.size, quantizer.bits)
    if packed <= worth:  # even if nothing were left of it
        return None
    coded = encode_values(codes.astype(np.int32), quantizer.bits, quantizer.zero_point)
    return coded if packed - len(coded) - 4 > worth else None


def _unpack(data: bytes, quantizers: list[UniformQuantizer | None]) -> tuple[Any, ...]:
    place, headers = len(_MAGIC) + 2, []
    for _ in quantizers:
        header, place = _Header.unpacked(data, place)
        headers.append(header)
    values: list[Any] = []
    for header, quantizer in zip(headers, quantizers, strict=True):
        size = header.size(quantizer)
        if place + size > len(data) - 4:
            raise ArtifactError(
                f"a value of shape {list(header.layout.shape)} takes {size:,} bytes, more than the activation holds"
            )
        values.append(_value(header, quantizer, memoryview(data)[place : place + size]))
        place += size
    if place != len(data) - 4:
        raise ArtifactError(f"the activation has {len(data) - 4 - place} bytes too many")
    return tuple(values)


def _value(header: _Header, quantizer: UniformQuantizer | None, piece: memoryview) -> Any:
    if number := header.number:
        return None if number is type(None) else number(struct.unpack("<d" if number is float else "<q", piece)[0])
    if quantizer is None:
        raw = torch.empty(len(piece), dtype=torch.uint8)  # torch's memory is aligned, as the head's was; bytes are not
        raw.numpy()[:] = np.frombuffer(piece, dtype=np.uint8)
        return header.layout.scattered(raw.view(header.dtype))
    count = header.layout.count
    if header.is_coded:
        codes = decode_values(piece, count, quantizer.bits, quantizer.zero_point).astype(np.float32)
    else:
        codes = unpack_bits(piece, count, quantizer.bits).astype(np.float32)
    return header.layout.scattered(quantizer.decode(torch.from_numpy(codes), header.dtype))
