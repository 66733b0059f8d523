"""What crosses the wire for one call of a head: each tensor at its bits, behind a header of a few bytes.

Layout, little-endian: ``QPA1``, the number of values (1 byte), and for each value its kind (1 byte), its number of
dimensions (1 byte) and its sizes (4 bytes each); then the values one after the other; last a CRC-32 of all before it.
The steps and zero points are the head's and are not sent.
"""

from __future__ import annotations

import struct
import zlib
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from qpart_fx.bitpack import pack_bits, packed_size, unpack_bits
from qpart_fx.errors import ArtifactError, RequestError
from qpart_fx.quantized import payload_quantizers
from qpart_fx.quantizer import UniformQuantizer

_MAGIC = b"QPA1"
_DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64,
)  # fmt: skip
_NUMBERS: tuple[type, ...] = (int, float, bool, type(None))
_QUANTIZED, _NUMBER = 64, 128
"""Kinds: a dtype's index, plus 64 when packed at the head's bits; 128 and up for plain numbers."""


def pack_payload(head: GraphModule, payload: tuple[Any, ...]) -> bytes:
    """The bytes to send for ``payload``, which ``head`` returned for one sample or a batch.

    Raises:
        RequestError: ``payload`` is not what this head returns.
    """
    quantizers = payload_quantizers(head)
    if len(payload) != len(quantizers):
        raise RequestError(f"the head returns a tuple of {len(quantizers)} values: pass it as it is")
    header, pieces = [_MAGIC, bytes([len(payload)])], []
    for value, quantizer in zip(payload, quantizers, strict=True):
        try:
            kind, sizes, piece = _pack(value, quantizer)
        except (ValueError, struct.error) as error:
            what = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise RequestError(f"a value of type {what} in the payload cannot be sent: {error}") from error
        header.append(struct.pack(f"<BB{len(sizes)}I", kind, len(sizes), *sizes))
        pieces.append(piece)
    content = b"".join([*header, *pieces])
    return content + struct.pack("<I", zlib.crc32(content))


def unpack_payload(head: GraphModule, data: bytes) -> tuple[Any, ...]:
    """The payload that :func:`pack_payload` packed, equal to the last bit.

    Raises:
        ArtifactError: the bytes are cut short or damaged, or are not for this head.
    """
    quantizers = payload_quantizers(head)
    if len(data) < 9 or data[:4] != _MAGIC or zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
        raise ArtifactError("the activation is cut short or damaged: send it again")
    if data[4] != len(quantizers):
        raise ArtifactError(f"the activation holds {data[4]} values, and this head sends {len(quantizers)}")
    try:
        return _unpack(data, quantizers)
    except (struct.error, IndexError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"the activation is malformed: {error}") from error


def _pack(value: Any, quantizer: UniformQuantizer | None) -> tuple[int, tuple[int, ...], bytes]:
    if not isinstance(value, Tensor):
        kind = _NUMBER + _NUMBERS.index(type(value))
        return kind, (), b"" if value is None else struct.pack("<d" if type(value) is float else "<q", value)
    kind, values = _DTYPES.index(value.dtype), value.detach().cpu().contiguous()
    if quantizer is None:
        return kind, tuple(value.shape), values.reshape(-1).view(torch.uint8).numpy().tobytes()
    codes = quantizer.encode(values).flatten().numpy().astype(np.uint16)
    return kind + _QUANTIZED, tuple(value.shape), pack_bits(codes, quantizer.bits)


def _unpack(data: bytes, quantizers: list[UniformQuantizer | None]) -> tuple[Any, ...]:
    place, headers = 5, []
    for _ in quantizers:
        kind, dimensions = data[place], data[place + 1]
        headers.append((kind, struct.unpack_from(f"<{dimensions}I", data, place + 2)))
        place += 2 + 4 * dimensions
    values: list[Any] = []
    for (kind, shape), quantizer in zip(headers, quantizers, strict=True):
        size = _size(kind, shape, quantizer)
        piece = memoryview(data)[place : place + size]
        if len(piece) != size or place + size > len(data) - 4:
            raise ArtifactError(f"a value of shape {list(shape)} takes {size:,} bytes, more than the activation holds")
        place += size
        values.append(_value(kind, shape, quantizer, piece))
    if place != len(data) - 4:
        raise ArtifactError(f"the activation has {len(data) - 4 - place} bytes too many")
    return tuple(values)


def _size(kind: int, shape: tuple[int, ...], quantizer: UniformQuantizer | None) -> int:
    if kind >= _NUMBER:
        return 0 if _NUMBERS[kind - _NUMBER] is type(None) else 8
    if (kind >= _QUANTIZED) != (quantizer is not None):
        raise ArtifactError("the activation comes from another head: what is quantized in one is not in the other")
    return packed_size(prod(shape), quantizer.bits) if quantizer else prod(shape) * _DTYPES[kind].itemsize


def _value(kind: int, shape: tuple[int, ...], quantizer: UniformQuantizer | None, piece: memoryview) -> Any:
    if kind >= _NUMBER:
        number = _NUMBERS[kind - _NUMBER]
        return None if number is type(None) else number(struct.unpack("<d" if number is float else "<q", piece)[0])
    if quantizer is None:
        raw = torch.frombuffer(bytearray(piece), dtype=torch.uint8) if len(piece) else torch.empty(0, dtype=torch.uint8)
        return raw.view(_DTYPES[kind]).reshape(shape)
    codes = unpack_bits(piece, prod(shape), quantizer.bits).astype(np.float32).reshape(shape)
    return quantizer.decode(torch.from_numpy(codes), _DTYPES[kind - _QUANTIZED])
