"""The container of every file: a header, a manifest (JSON), one block of data, and a hash of all of it at the end.

Layout, little-endian: ``QPRT``, the version (1 byte), the kind (1 byte), the bytes of the manifest (4) and of the data
(8); the manifest, deflated; the data; the SHA-256 of all before it. So a file can be read while it arrives.

Needs nothing but Python. Nothing in a file is ever executed, and no more is allocated than has arrived.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .errors import ArtifactError

T = TypeVar("T")

VERSION = 3
HASH_SIZE = 32

_KINDS = ("head", "tail", "split", "profile", "update")
"""By their number in the header: a new kind goes to the end."""

_MAGIC = b"QPRT"
_HEADER = struct.Struct("<4sBBIQ")
_UNTIL_VERSION_2 = b'{"data":{"'
"""How the first files went on after 8 bytes: they were safetensors."""

_MAX_MANIFEST = 1 << 28
_RAW = -15
"""Deflate without zlib's own header and checksum."""


def encode(kind: str, manifest: Mapping[str, Any], data: bytes) -> bytes:
    """A file of ``kind``: ``"head"``, ``"tail"``, ``"split"``, ``"profile"`` or ``"update"``."""
    packed = deflate(text_of(manifest))
    content = _HEADER.pack(_MAGIC, VERSION, _KINDS.index(kind), len(packed), len(data)) + packed + data
    return content + hashlib.sha256(content).digest()


def decode(content: bytes, *kinds: str) -> tuple[str, dict[str, Any], memoryview]:
    """The kind, the manifest and the data of a file, if it is of one of ``kinds`` and undamaged.

    Nothing is read before the hash agrees.

    Raises:
        ArtifactError: the file is cut short, damaged, not ours, of another kind, or of another version.
    """
    header = _Header.read(content, kinds)
    header.require_length(len(content))
    if hashlib.sha256(memoryview(content)[:-HASH_SIZE]).digest() != content[-HASH_SIZE:]:
        raise _damaged()
    start = _HEADER.size + header.manifest
    manifest = manifest_of(inflate(content[_HEADER.size : start]))
    return header.kind, manifest, memoryview(content)[start:-HASH_SIZE]


class Reader:
    """Reads a file of one of ``kinds`` while it arrives: ``feed`` it, ``take`` data, and ``close`` it at the end.

    The manifest and the data are given out before the hash can be looked at: what was made of them counts once
    ``close`` has returned.
    """

    def __init__(self, *kinds: str) -> None:
        self.manifest: dict[str, Any] | None = None
        """None until it has arrived."""
        self._kinds = kinds
        self._header: _Header | None = None
        self._waiting = bytearray()  # has arrived and is not given out yet
        self._arrived = 0
        self._data_left = 0
        self._hash = hashlib.sha256()

    def feed(self, chunk: bytes) -> None:
        """Take in the bytes that have arrived next.

        Raises:
            ArtifactError: they are more than the file has, or no file of ours, of these kinds, begins so.
        """
        self._waiting += chunk
        if self._header is None:
            if len(self._waiting) < _HEADER.size:
                return
            chunk = bytes(self._waiting)
            self._header = _Header.read(chunk, self._kinds)
            self._data_left = self._header.data
            del self._waiting[: _HEADER.size]
        self._hash.update(chunk[: max(self._header.length - HASH_SIZE - self._arrived, 0)])
        self._arrived += len(chunk)
        if self._arrived > self._header.length:
            self._header.require_length(self._arrived)
        if self.manifest is None and len(self._waiting) >= self._header.manifest:
            self.manifest = manifest_of(inflate(bytes(self._waiting[: self._header.manifest])))
            del self._waiting[: self._header.manifest]

    @property
    def left(self) -> int:
        """Bytes of data that are not taken yet, arrived or not; 0 before the header is there."""
        return self._data_left

    def take(self, size: int) -> bytes | None:
        """The next ``size`` bytes of data, ``left`` at most; None until all of them have arrived."""
        if self.manifest is None or size > min(self._data_left, len(self._waiting)):
            return None
        piece = bytes(self._waiting[:size])
        del self._waiting[:size]
        self._data_left -= size
        return piece

    def close(self) -> None:
        """The file has arrived.

        Raises:
            ArtifactError: it has not: it is cut short; or it is damaged.
        """
        if self._header is None:
            self._header = _Header.read(bytes(self._waiting), self._kinds)
        self._header.require_length(self._arrived)
        if self._hash.digest() != bytes(self._waiting[-HASH_SIZE:]):
            raise _damaged()


@dataclass(frozen=True, slots=True)
class _Header:
    """The kind of a file, and the bytes of its manifest and its data."""

    kind: str
    manifest: int
    data: int

    @property
    def length(self) -> int:
        return _HEADER.size + self.manifest + self.data + HASH_SIZE

    @classmethod
    def read(cls, content: bytes, kinds: tuple[str, ...]) -> _Header:
        """That of a file which begins as ``content`` does, if it is one of ``kinds``."""
        if content[8:18] == _UNTIL_VERSION_2:
            raise ArtifactError(f"the file is of version 2 or before; {_READS}: make it again")
        if content[:4] != _MAGIC or len(content) < _HEADER.size:
            raise ArtifactError("the file is cut short, damaged, or not one of qpart_fx")
        _, version, number, manifest, data = _HEADER.unpack_from(content)
        if version != VERSION:
            remedy = "make it again" if version < VERSION else "upgrade it"
            raise ArtifactError(f"the file is of version {version}; {_READS}: {remedy}")
        if number >= len(_KINDS) or manifest > _MAX_MANIFEST:
            raise _damaged()
        if _KINDS[number] not in kinds:
            raise ArtifactError(f"the file is a {_KINDS[number]}, where a {' or '.join(kinds)} is needed")
        return cls(_KINDS[number], manifest, data)

    def require_length(self, length: int) -> None:
        if length != self.length:
            what = "is cut short" if length < self.length else "goes on behind its end"
            raise ArtifactError(f"the file {what}: {length:,} bytes of {self.length:,}; fetch or write it again")


_READS = f"this qpart_fx reads version {VERSION}"


def _damaged() -> ArtifactError:
    return ArtifactError("the file is damaged: its contents do not match their hash; fetch or write it again")


def text_of(manifest: Mapping[str, Any]) -> bytes:
    """A manifest as it is written; the same for what :func:`manifest_of` reads."""
    return json.dumps(manifest, separators=(",", ":"), allow_nan=False).encode()


def manifest_of(text: bytes) -> dict[str, Any]:
    """The manifest that :func:`text_of` wrote.

    Raises:
        ArtifactError: it is malformed.
    """
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"the file's manifest is malformed: {error}") from None
    if not isinstance(manifest, dict):
        raise ArtifactError(f"the file's manifest is malformed: it is a {type(manifest).__name__}")
    return manifest


def deflate(text: bytes, known: bytes = b"") -> bytes:
    """``text`` compressed, for a reader that has ``known`` already."""
    packer = zlib.compressobj(9, zlib.DEFLATED, _RAW, zdict=known)
    return packer.compress(text) + packer.flush()


def inflate(packed: bytes, known: bytes = b"", *, largest: int = _MAX_MANIFEST) -> bytes:
    """What :func:`deflate` compressed.

    Raises:
        ArtifactError: it is nothing that was compressed so, or more than the ``largest`` number of bytes.
    """
    unpacker = zlib.decompressobj(_RAW, zdict=known)
    try:
        text = unpacker.decompress(packed, largest)
    except zlib.error as error:
        raise ArtifactError(f"the file's manifest is malformed: {error}") from None
    if not unpacker.eof or unpacker.unused_data:
        raise ArtifactError("the file's manifest is malformed: it does not end where it should")
    return text


def read_checked(read: Callable[[], T]) -> T:
    """What ``read`` returns; a manifest that is not of the form it expects is an error of the file.

    Raises:
        ArtifactError: the manifest is malformed.
    """
    try:
        return read()
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"the file's manifest is malformed: {type(error).__name__}: {error}") from error


def write_file(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` whole or not at all.

    Raises:
        ArtifactError: it cannot be written there.
    """
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except (OSError, ValueError) as error:
        raise ArtifactError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error


def make_directory(path: Path) -> None:
    """Make the folder ``path``, and those above it, unless it is there.

    Raises:
        ArtifactError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"cannot make the folder {path}: {error.strerror}") from error
