"""What turns the head's file that a device holds into another of the same model: only what differs is sent.

Each tensor of the new file is, whatever takes the fewest bytes: the held one, whose data are copied; the held codes
scaled to the new steps, and the difference to the new codes, entropy-coded; or anew. The new manifest is deflated
against the held one. Where that is no smaller than the new file, the update is the new file.

Layout of the data of an ``update``: the first bytes of the held file's hash (8), the new file's hash (32), the new
manifest, and what is sent of each tensor, in the new file's order. Its manifest says how long the new manifest is, and
how each tensor is sent.

Needs no torch: a device applies updates itself. It codes and deflates again, which is the same everywhere but where
another zlib packs, or another mathematical library rounds, in another way: then the hash does not agree, and the device
fetches the whole file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import container, entropy_coding
from .container import HASH_SIZE, read_checked
from .errors import ArtifactError
from .stored_tensor import ChannelTensor, Row, code_channels, read_tensor, size_of, steps_of

_KNOWN_BY = 8
"""Bytes of the held file's hash that an update names it by."""

_HELD, _ANEW = 0, 1
"""How a tensor is sent; a difference is [median of the exponents' differences, bytes of them, bytes of the codes']."""

_MOST_EXPONENT_CHANGE = 1 << 12


def make_update(held: bytes, new: bytes) -> bytes:
    """What :func:`apply_update` makes the head's file ``new`` of, where the head's file ``held`` is there.

    Raises:
        ArtifactError: one of them is damaged, or no head's file.
    """
    before, after = _File.read(held), _File.read(new)
    ways: list[Any] = []
    pieces: list[bytes] = []
    for row, piece in after.pieces.values():
        way, sent = _least(row, piece, before)
        ways.append(way)
        pieces.append(sent)
    manifest = container.deflate(after.text, _known(before.text))
    data = b"".join([held[-HASH_SIZE:][:_KNOWN_BY], new[-HASH_SIZE:], manifest, *pieces])
    update = container.encode("update", {"manifest": len(manifest), "tensors": ways}, data)
    return min(update, new, key=len)


def apply_update(held: bytes, update: bytes) -> bytes:
    """The head's file that ``update`` was made for, byte for byte.

    Args:
        held: the head's file that the update was made for a device with.

    Raises:
        ArtifactError: either is damaged, or the update is for a device that holds another head.
    """
    kind, how, data = container.decode(update, "update", "head")
    if kind == "head":
        return update
    before = _File.read(held)
    if data[:_KNOWN_BY] != held[-HASH_SIZE:][:_KNOWN_BY]:
        raise ArtifactError("the update is for a device that holds another head: fetch the whole head")
    made = read_checked(lambda: _applied(before, how, data[_KNOWN_BY + HASH_SIZE :]))
    if made[-HASH_SIZE:] != data[_KNOWN_BY : _KNOWN_BY + HASH_SIZE]:
        raise ArtifactError("the update does not give the head that it was made for: fetch the whole head")
    return made


@dataclass(frozen=True)
class _File:
    """A head's file: its manifest as it is written, and for each tensor that has data, its row and these."""

    text: bytes
    pieces: dict[str, tuple[Row, memoryview]]

    @classmethod
    def read(cls, content: bytes) -> _File:
        _, manifest, data = container.decode(content, "head")
        return read_checked(lambda: cls(container.text_of(manifest), _pieces(manifest, data)))


def _pieces(manifest: dict[str, Any], data: memoryview) -> dict[str, tuple[Row, memoryview]]:
    pieces, place = {}, 0
    for row in _with_data(manifest):
        end = place + size_of(row)
        pieces[row["name"]] = row, data[place:end]
        place = end
    if place != len(data):
        raise ArtifactError(f"the file's tensors take {place:,} bytes, and it holds {len(data):,}")
    return pieces


def _with_data(manifest: dict[str, Any]) -> list[Row]:
    return [row for row in manifest["graph"]["tensors"] if "same" not in row]


def _known(text: bytes) -> bytes:
    """What deflate can make use of."""
    return text[-(1 << 15) :]


def _least(row: Row, piece: memoryview, before: _File) -> tuple[Any, bytes]:
    """The way to send a tensor that takes the fewest bytes, and what is sent."""
    old, held = before.pieces.get(row["name"], ({}, memoryview(b"")))
    if piece == held and old:
        return _HELD, b""
    if not ("steps" in row and "steps" in old and row["shape"] == old["shape"]):
        return _ANEW, bytes(piece)
    median, steps, codes = code_difference(_channels(old, held), _channels(row, piece))
    if len(steps) + len(codes) >= len(piece):
        return _ANEW, bytes(piece)
    return [median, len(steps), len(codes)], steps + codes


def code_difference(known: ChannelTensor, new: ChannelTensor) -> tuple[int, bytes, bytes]:
    """What makes a tensor of a known one of its shape: the median of the differences of the exponents, these without
    it, coded, and the difference of the codes, coded; nothing of the exponents if all differ alike."""
    change = new.exponents.astype(np.int32) - known.exponents
    median = int(np.median(change)) if change.size else 0
    steps = entropy_coding.encode((change - median)[None]) if (change != median).any() else b""
    return median, steps, entropy_coding.encode(_rows(new.codes - _scaled(known, new.exponents, new.bits)))


def _applied(before: _File, how: dict[str, Any], data: memoryview) -> bytes:
    """The new file from the held one, how each tensor is sent, and what is sent."""
    place = _end(0, how["manifest"], data)
    manifest = container.manifest_of(container.inflate(bytes(data[:place]), _known(before.text)))
    pieces: list[bytes | memoryview] = []
    for row, way in zip(_with_data(manifest), how["tensors"], strict=True):
        if way == _HELD:
            pieces.append(before.pieces[row["name"]][1])
        elif way == _ANEW:
            end = _end(place, size_of(row), data)
            pieces.append(data[place:end])
            place = end
        else:
            median, of_steps, of_codes = way
            middle = _end(place, of_steps, data)
            end = _end(middle, of_codes, data)
            pieces.append(_changed(before.pieces[row["name"]], row, median, data[place:middle], data[middle:end]))
            place = end
    if place != len(data):
        raise ArtifactError(f"the update has {len(data) - place:,} bytes too many")
    return container.encode("head", manifest, b"".join(pieces))


def _end(place: int, size: Any, data: memoryview) -> int:
    if type(size) is not int or not 0 <= size <= len(data) - place:
        raise ArtifactError(f"the update claims {size!r} bytes of the {len(data) - place:,} that it has left")
    return place + size


def _changed(held: tuple[Row, memoryview], row: Row, median: Any, steps: memoryview, codes: memoryview) -> bytes:
    """The data of a tensor from the held one's, and the differences."""
    known = _channels(*held)
    if type(median) is not int or abs(median) > _MOST_EXPONENT_CHANGE or row["shape"] != list(known.shape):
        raise ArtifactError(f"the update of '{known.name}' does not fit the tensor that is held")
    channels = len(known.exponents)
    change = np.full(channels, median, dtype=np.int32)
    if len(steps):
        change += entropy_coding.decode(steps, 1, channels, _MOST_EXPONENT_CHANGE)[0]
    exponents = known.exponents + change
    difference = entropy_coding.decode(codes, channels, known.codes.size // max(channels, 1))
    _, data = code_channels(exponents, _rows(_scaled(known, exponents, row["bits"])) + difference)
    return data


def _channels(row: Row, piece: memoryview) -> ChannelTensor:
    found = read_tensor(row, piece)
    if not isinstance(found, ChannelTensor):
        raise ArtifactError(f"the update of '{found.name}' is one of codes, and those held are not coded")
    return found


def _rows(codes: NDArray[np.int32]) -> NDArray[np.int32]:
    return codes.reshape(len(codes), -1)


def _scaled(known: ChannelTensor, exponents: NDArray[np.integer[Any]], bits: int) -> NDArray[np.int32]:
    """The held codes as they would be with the steps 2**(exponent / 8), the nearest of ``bits`` bits: int32, shape of
    the codes.

    The product of a code and a float32 is exact in float64: it rounds alike everywhere.
    """
    limit = 8 * 16  # beyond 16 octaves every code but 0 is clipped, or is 0
    scale = steps_of(np.clip(known.exponents.astype(np.int32) - exponents, -2 * limit, limit)).astype(np.float64)
    most = 2 ** (bits - 1) - 1
    product = known.codes * scale.reshape(-1, *[1] * (known.codes.ndim - 1))
    return np.asarray(np.clip(np.rint(product), -most, most).astype(np.int32))
