"""Tails: messages of a head in, the values of the model's output out, many calls at once.

What a message claims is checked before anything is made of it: :meth:`ServedTail.read` does that, and is quick enough
for the event loop. :meth:`ServedTail.run` is for the thread that computes.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..backends.activation import gathered, value_of
from ..backends.packed import unpack_side
from ..checksum import SIZE
from ..device.arrays import Rounded
from ..errors import ArtifactError
from ..memory_layout import MemoryLayout
from ..message import DTYPES, STRIDED, Header, Piece, bytes_of, is_whole, read_codes, read_message, write_number
from ..quantizer import UniformQuantizer
from .output_structure import values_of
from .planner import Tail, Value
from .refusal import Refused, invalid

Row = tuple[Header, Piece]
"""A value of a message."""

MOST_SAMPLES = 256
"""Of one call."""

_MOST_FORMS = 64

_MOST_GROWTH = 16
"""So many times the elements that the model was profiled with may a sample have: sequences may be longer."""

_CALLER = (RuntimeError, IndexError, ValueError, TypeError, AssertionError, OverflowError, struct.error)
"""What a tail raises that is given shapes or numbers that it does not take."""


@dataclass(frozen=True, slots=True)
class Payload:
    """What crosses in one call, as bytes still. ``exact``: by value, whether it came as it is, and not in codes.
    ``key``: calls of the same key can run together; None for one that has to run alone."""

    rows: tuple[tuple[Header, memoryview], ...]
    exact: tuple[bool, ...]
    samples: int
    size: int
    key: tuple[Any, ...] | None


@dataclass(frozen=True, slots=True)
class _Form:
    """What messages that begin alike, and are as long, have in common; nothing of their values. ``start`` is all before
    these, and ``ends`` are their places."""

    start: bytes
    headers: tuple[Header, ...]
    ends: tuple[tuple[int, int], ...]
    exact: tuple[bool, ...]
    samples: int
    key: tuple[Any, ...] | None

    @classmethod
    def of(cls, message: bytes, payload: Payload) -> _Form:
        """That of a message with this in it."""
        ends, place = [], len(message) - SIZE
        for _, piece in reversed(payload.rows):
            ends.append((place - len(piece), place))
            place -= len(piece)
        headers = tuple(header for header, _ in payload.rows)
        return cls(message[:place], headers, tuple(reversed(ends)), payload.exact, payload.samples, payload.key)

    def read(self, message: bytes) -> Payload:
        """What is in a whole message of this form."""
        view = memoryview(message)
        pieces = [view[start:end] for start, end in self.ends]
        rows = tuple(zip(self.headers, pieces, strict=True))
        return Payload(rows, self.exact, self.samples, len(message), self.key)


class ServedTail:
    """A tail that runs here.

    Raises:
        ArtifactError: its file is damaged, or calls what this qpart_fx does not know.
    """

    def __init__(self, tail: Tail) -> None:
        self.signature = tail.signature
        self.takes, self.gives = tail.signature.takes, tail.signature.gives
        self.outputs, self.batches = tail.signature.outputs, tail.signature.batches
        self.module = unpack_side(tail.content)
        self._like: dict[int, _Form] = {}
        self._grids = [
            None if value.grid is None else UniformQuantizer(value.grid.bits, value.grid.step, value.grid.zero_point)
            for value in self.takes
        ]
        self._rounded = [
            Rounded(16, 1.0, 0)
            if value.grid is None
            else Rounded(value.grid.bits, value.grid.step, value.grid.zero_point)
            for value in self.takes
        ]

    def read(self, message: bytes) -> Payload:
        """What is in a message of the head.

        Raises:
            Refused: it is damaged, or not of this head.
        """
        if (known := self._like.get(len(message))) is not None and message.startswith(known.start):
            if not is_whole(message):
                raise invalid("the activation is cut short or damaged: send it again")
            return known.read(message)
        try:
            rows = read_message(message, self._grids)
            payload = self._payload(rows, tuple(grid is None for grid in self._grids), len(message))
            self._remember(message, payload)
            return payload
        except (ArtifactError, struct.error, IndexError, ValueError, OverflowError) as error:
            raise invalid(str(error)[:500]) from None

    def _remember(self, message: bytes, payload: Payload) -> None:
        """Messages of a device are all of one form: what is known of this one need not be found out again."""
        if len(self._like) >= _MOST_FORMS:
            self._like.clear()
        self._like[len(message)] = _Form.of(message, payload)

    def given(self, rows: Sequence[Row]) -> Payload:
        """The same for values that came one by one, as they are.

        Raises:
            Refused: they are not what the tail takes.
        """
        size = sum(len(piece) for _, piece in rows)
        return self._payload([(header, memoryview(piece)) for header, piece in rows], (True,) * len(rows), size)

    def _payload(self, rows: list[tuple[Header, memoryview]], exact: tuple[bool, ...], size: int) -> Payload:
        samples = None
        key: list[Any] = []
        batches = self.batches
        for value, (header, _) in zip(self.takes, rows, strict=True):
            if value.dtype is None or header.number is not None:
                if value.dtype is not None or header.number is None:
                    raise invalid(f"'{value.name}' is {'no number' if header.number is None else 'a number'}")
                continue
            shape = header.layout.shape
            self._require_fit(value, header.dtype, shape)
            if samples is None:
                samples = shape[0] if shape else 1
            batches = batches and len(shape) > 0 and shape[0] == samples and samples <= MOST_SAMPLES
            key.append((header.dtype, shape[1:]))
        if self.batches and not batches:
            raise invalid("the values are not of the same number of samples")
        return Payload(tuple(rows), exact, samples or 1, size, (exact, *key) if batches else None)

    def _require_fit(self, value: Value, dtype: str, shape: tuple[int, ...]) -> None:
        if dtype != value.dtype:
            raise invalid(f"'{value.name}' is {dtype}, and the tail takes {value.dtype}")
        of_one = shape[1:] if self.batches else shape
        if len(of_one) != len(value.shape) or (self.batches and len(shape) == 0):
            raise invalid(f"'{value.name}' has {len(shape)} dimensions, and the tail takes another number")
        if 0 in shape:
            raise invalid(f"'{value.name}' is empty: its shape is {list(shape)}")
        if self.batches and shape[0] > MOST_SAMPLES:
            raise invalid(f"'{value.name}' holds {shape[0]} samples: {MOST_SAMPLES} can be sent at once")
        if prod(of_one) > _MOST_GROWTH * max(prod(value.shape), 1):
            raise invalid(f"'{value.name}' of shape {list(shape)} is far larger than what the model was profiled with")

    def run(self, payloads: Sequence[Payload]) -> list[list[Row] | Refused]:
        """The values of the model's output for each call, or why there are none. The calls are of one key, or one."""
        try:
            return list(self._together(payloads))
        except _CALLER as error:
            if len(payloads) == 1:
                return [invalid(f"the tail does not take these values: {str(error)[:300]}")]
        return [found for payload in payloads for found in self.run([payload])]  # whoever it was, alone

    @torch.inference_mode()
    def _together(self, payloads: Sequence[Payload]) -> Sequence[list[Row]]:
        values = [self._decoded(place, payloads) for place in range(len(self.takes))]
        found: list[Any] = []
        if values_of(self.module(*values), found) != self.outputs:
            raise RuntimeError("the output is of another structure than it was")
        rows = [_row(value) for value in found]
        if len(payloads) == 1:
            return [rows]
        total = sum(payload.samples for payload in payloads)
        if any(header.number or header.layout.shape[:1] != (total,) for header, _ in rows):
            raise RuntimeError("the output is not of as many samples")
        return _parted(rows, [payload.samples for payload in payloads])

    def _decoded(self, place: int, payloads: Sequence[Payload]) -> Any:
        """One of the values that the tail takes, of all calls together."""
        first, _ = payloads[0].rows[place]
        grid = None if payloads[0].exact[place] else self._grids[place]
        rows = [payload.rows[place] for payload in payloads]
        as_integers = grid is None or grid.bits in (8, 16) or first.dtype == "float32"
        if not as_integers or first.number is not None or any(_is_apart(header) for header, _ in rows):
            values = [value_of(header, piece, grid) for header, piece in rows]
            return values[0] if len(values) == 1 else torch.cat(values)
        shape = (sum(header.layout.shape[0] for header, _ in rows), *first.layout.shape[1:]) if self.batches else None
        if grid is None or first.dtype != "float32":
            joined = memoryview(b"".join(piece for _, piece in rows))
            whole = Header(first.kind, first.layout if shape is None else MemoryLayout.contiguous(shape))
            return value_of(whole, joined, grid)
        codes = [read_codes(header, piece, grid) for header, piece in rows]
        together = codes[0] if len(codes) == 1 else np.concatenate(codes)
        return torch.from_numpy(self._rounded[place].decode(together)).reshape(shape or first.layout.shape)


def _is_apart(header: Header) -> bool:
    """Whether the bytes of a value cannot be put behind those of another one."""
    return bool(header.kind & STRIDED) or header.is_coded


def _row(value: Any) -> Row:
    """A value of the output, as it is sent: contiguous, since nobody minds its strides."""
    if not isinstance(value, Tensor):
        return write_number(value)
    layout = MemoryLayout.contiguous(tuple(value.shape))
    if value.dtype is torch.float32 and value.is_contiguous() and value.device.type == "cpu":  # as nearly always
        return Header(0, layout), bytes_of(value.numpy().reshape(-1))
    flat = gathered(layout, value.detach().contiguous()).cpu()
    return Header(DTYPES.index(str(value.dtype).removeprefix("torch.")), layout), flat.view(torch.uint8).numpy().data


def _parted(rows: Sequence[Row], samples: Sequence[int]) -> list[list[Row]]:
    """The rows of each call, of those of all calls together."""
    parted: list[list[Row]] = [[] for _ in samples]
    for header, piece in rows:
        total, *rest = header.layout.shape
        size, start = len(piece) // max(total, 1), 0
        headers = {count: Header(header.kind, MemoryLayout.contiguous((count, *rest))) for count in set(samples)}
        for own, count in zip(parted, samples, strict=True):
            end = start + size * count
            own.append((headers[count], piece[start:end]))
            start = end
    return parted


class SharedWeights:
    """Tails of one model have weights in common: each is held once."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Tensor] = {}

    def share(self, module: nn.Module) -> dict[int, int]:
        """Let the tensors of ``module`` be those that are known already, where they are equal; returns the bytes of
        each by its address."""
        sizes: dict[int, int] = {}
        for tensor in (*module.parameters(), *module.buffers()):
            data = tensor.data
            if data.untyped_storage().nbytes() > data.nbytes:
                data = data.clone(memory_format=torch.preserve_format)  # or it would hold the whole file in memory
            key = (data.dtype, tuple(data.shape), data.stride(), _hash_of(data))
            known = self._known.setdefault(key, data)
            tensor.data = known
            sizes[known.data_ptr()] = known.nbytes
        return sizes

    def keep(self, addresses: set[int]) -> None:
        """Forget all but those at these addresses."""
        self._known = {key: tensor for key, tensor in self._known.items() if tensor.data_ptr() in addresses}


def _hash_of(data: Tensor) -> bytes:
    flat = data.detach().contiguous().reshape(-1)
    raw: NDArray[np.uint8] = flat.view(torch.uint8).numpy()
    return hashlib.sha256(raw.data).digest()
