"""The container of every file: a manifest (JSON) and one block of data, under a hash of both, in safetensors.

Needs numpy and safetensors only. Nothing in it is ever executed, and nothing is read before its hash agrees.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from .errors import ArtifactError

VERSION = 2
_MAX_MANIFEST = 1 << 28


def encode(kind: str, manifest: Mapping[str, Any], data: bytes) -> bytes:
    """A file of ``kind`` (``"head"``, ``"split"``, ``"profile"``, ``"activation"``)."""
    full = {"format": f"qpart.{kind}", "version": VERSION, **manifest}
    packed = zlib.compress(json.dumps(full, separators=(",", ":"), allow_nan=False).encode(), 9)
    digest = hashlib.sha256(packed + data).digest()
    parts = {"manifest": packed, "data": data, "sha256": digest}
    return save({name: np.frombuffer(part, dtype=np.uint8) for name, part in parts.items()})


def decode(content: bytes, *kinds: str) -> tuple[str, dict[str, Any], memoryview]:
    """The kind, the manifest and the data of a file, if it is of one of ``kinds`` and undamaged.

    Raises:
        ArtifactError: the file is cut short, damaged, not ours, of another kind, or of a later version.
    """
    try:
        parts = load(content)
        packed, data, digest = (parts[name].tobytes() for name in ("manifest", "data", "sha256"))
    except (SafetensorError, KeyError, ValueError, MemoryError, OverflowError) as error:
        raise ArtifactError(f"the file is cut short, damaged, or not one of qpart_fx: {error}") from None
    if hashlib.sha256(packed + data).digest() != digest:
        raise ArtifactError("the file is damaged: its contents do not match their hash; fetch or write it again")
    try:
        unzip = zlib.decompressobj()
        manifest = json.loads(unzip.decompress(packed, _MAX_MANIFEST))
        kind = str(manifest["format"]).removeprefix("qpart.")
        version = manifest["version"]
    except (zlib.error, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"the file's manifest is malformed: {error}") from None
    if version != VERSION:
        remedy = "make it again" if isinstance(version, int) and version < VERSION else "upgrade it"
        raise ArtifactError(f"the file is of version {version!r}; this qpart_fx reads version {VERSION}: {remedy}")
    if kind not in kinds:
        raise ArtifactError(f"the file is a {kind}, where a {' or '.join(kinds)} is needed")
    return kind, manifest, memoryview(data)


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
