"""A head's payload as a message, and back: torch's side of :mod:`qpart_fx.message`."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from qpart_fx.errors import ArtifactError, RequestError
from qpart_fx.memory_layout import MemoryLayout
from qpart_fx.message import (
    DTYPES,
    NUMBERS,
    STRIDED,
    Header,
    Piece,
    read_codes,
    read_message,
    read_number,
    require_rate,
    write_codes,
    write_message,
    write_number,
)
from qpart_fx.quantized import crossing_nodes, payload_quantizers
from qpart_fx.quantizer import UniformQuantizer


def pack_payload(head: GraphModule, payload: Sequence[Any], uplink_bps: float | None = None) -> bytes:
    """The bytes to send for ``payload``, which ``head`` returned for one sample or a batch.

    Args:
        uplink_bps: the link's rate, bits a second. Quantized values are entropy-coded where that saves more time on
            the link than the coder takes (:data:`qpart_fx.message.CODER_S_PER_VALUE`); never if it is None.

    Raises:
        RequestError: ``payload`` is not what this head returns, or holds a value that has no bytes: one that is neither
            a tensor nor a number, a number of more than 64 bits, a tensor that is sparse, nested or of torch's own
            quantization, NaN where a quantizer is.
    """
    quantizers = payload_quantizers(head)
    require_rate(uplink_bps)
    if not isinstance(payload, tuple | list) or len(payload) != len(quantizers):
        raise RequestError(f"the head returns a tuple of {len(quantizers)} values: pass it as it is")
    values = []
    for node, value, quantizer in zip(crossing_nodes(head), payload, quantizers, strict=True):
        try:
            header, piece = _pack(value, quantizer, uplink_bps)
            header.packed()
        except (ValueError, TypeError, RuntimeError, OverflowError, struct.error) as error:
            what = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"of type {type(value).__name__}"
            raise RequestError(f"the payload's value '{node.name}', {what}, cannot be sent: {error}") from error
        values.append((header, piece))
    return write_message(values)


def unpack_payload(head: GraphModule, data: bytes) -> tuple[Any, ...]:
    """The payload that :func:`pack_payload` packed, equal to the last bit and strided alike.

    Values that share memory arrive as copies. Where a tensor repeats its elements (``expand``), so does what arrives:
    it cannot be written to. Strides that leave gaps beyond measure are not kept.

    Raises:
        ArtifactError: the bytes are cut short or damaged, of another version, or not for this head.
    """
    quantizers = payload_quantizers(head)
    try:
        values = read_message(data, quantizers)
        return tuple(
            value_of(header, piece, quantizer) for (header, piece), quantizer in zip(values, quantizers, strict=True)
        )
    except (struct.error, IndexError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"the activation is malformed: {error}") from error


def _pack(value: Any, quantizer: UniformQuantizer | None, uplink_bps: float | None) -> tuple[Header, Piece]:
    if not isinstance(value, Tensor):
        if type(value) not in NUMBERS:
            raise TypeError("it is neither a tensor nor a number")
        return write_number(value)
    name = str(value.dtype).removeprefix("torch.")
    if value.is_nested or value.layout is not torch.strided or name not in DTYPES:
        raise TypeError("only dense tensors of plain numbers are; convert it in the model")
    kind, shape, strides = DTYPES.index(name), tuple(value.shape), value.stride()
    layout = MemoryLayout.contiguous(shape)
    if strides != layout.strides:
        if (strided := MemoryLayout(shape, strides)).can_be_kept:
            kind, layout = kind + STRIDED, strided
        else:
            value = value.clone(memory_format=torch.contiguous_format)
    values = gathered(layout, value.detach()).cpu()
    if quantizer is None:
        return Header(kind, layout), values.view(torch.uint8).numpy().data
    codes = quantizer.encode(values)
    if codes.sum().isnan():
        raise ValueError("it holds NaN, which no code stands for")
    return write_codes(kind, layout, codes.numpy(), quantizer, uplink_bps)


def value_of(header: Header, piece: memoryview, quantizer: UniformQuantizer | None) -> Any:
    """The value that was packed: a tensor, from codes if there is a quantizer, or a number.

    Raises:
        ArtifactError: it is none.
    """
    if number := header.number:
        return read_number(number, piece)
    dtype = getattr(torch, header.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise ArtifactError(f"the activation holds a tensor of {header.dtype}, which this torch has not")
    if quantizer is None:
        raw = torch.empty(len(piece), dtype=torch.uint8)  # torch's memory is aligned, as the head's was; bytes are not
        raw.numpy()[:] = np.frombuffer(piece, dtype=np.uint8)
        return scattered(header.layout, raw.view(dtype))
    codes = torch.from_numpy(read_codes(header, piece, quantizer).astype(np.float32))
    return scattered(header.layout, quantizer.decode(codes, dtype))


def gathered(layout: MemoryLayout, value: Tensor) -> Tensor:
    """The values to send of a tensor that lies like ``layout``, flat and fresh of lazy signs.

    >>> row = torch.arange(3.0)
    >>> layout = MemoryLayout((1000, 3), (0, 1))  # that of row.expand(1000, 3)
    >>> gathered(layout, row.expand(1000, 3))
    tensor([0., 1., 2.])
    """
    visited = value.as_strided(*layout.loops).resolve_conj().resolve_neg()
    if layout.overlaps:
        memory = torch.zeros(layout.span, dtype=value.dtype, device=value.device)
        memory.as_strided(*layout.loops).copy_(visited)
        return memory
    return visited.contiguous().reshape(-1)


def scattered(layout: MemoryLayout, values: Tensor) -> Tensor:
    """The tensor that lies like ``layout``, of the values that :func:`gathered` made. Gaps in memory are zeros."""
    if layout.count < layout.span:
        memory = torch.zeros(layout.span, dtype=values.dtype)
        memory.as_strided(*layout.loops).copy_(values.reshape(layout.loops[0]))
        values = memory
    return values.as_strided(layout.shape, layout.strides)
