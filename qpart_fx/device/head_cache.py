"""Heads on a device's disk: a folder within a number of bytes, shared by processes.

A head's file is called after its SHA-256 and is looked at again each time it is read: one that was damaged is no head.
Beside heads the folder holds records, small texts by a name of the caller's, under the same bound.

Nothing here ever waits long, and no fault of the disk is an error: what cannot be stored is fetched again another time.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import RequestError

try:
    import fcntl
except ModuleNotFoundError:  # not on Windows: files are whole all the same, but two processes may evict at once
    fcntl = None  # type: ignore[assignment]

_LOG = logging.getLogger(__name__)

_HASH = re.compile(r"[0-9a-f]{64}")
_HEAD, _RECORD, _UNFINISHED = ".qpart", ".record", ".part"

_PATIENCE_S = 2.0
"""How long to wait for other processes that hold the lock. One that was stopped while it did must not stop this one."""

_ABANDONED_S = 3600.0
"""Age at which an unfinished file is one that a process left which was killed."""


def hash_of(content: bytes) -> str:
    """What a head's file is known by: its SHA-256, 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


class HeadCache:
    """Files in ``directory``, the ones that were used longest ago dropped when there are more than ``max_bytes``.

    Args:
        directory: made when something is stored. Other processes may use it at the same time, with bounds of their own.
        max_bytes: of all files together.

    Raises:
        RequestError: ``max_bytes`` is not above 0.
    """

    def __init__(self, directory: str | Path, *, max_bytes: int = 1 << 28) -> None:
        if max_bytes < 1:
            raise RequestError(f"max_bytes = {max_bytes}: give a number above 0, or no cache")
        self.directory = Path(directory)
        self.max_bytes = max_bytes

    def get(self, digest: str) -> bytes | None:
        """The head's file with the SHA-256 ``digest``; None if it is not here, or is damaged."""
        path = self._path(digest)
        content = self._read(path)
        if content is None:
            return None
        if hash_of(content) != digest:
            _LOG.warning("a head in the cache is damaged, and dropped: %s", path)
            with suppress(OSError):
                path.unlink()
            return None
        return content

    def put(self, content: bytes) -> str:
        """Store a head's file; returns its SHA-256. Files that take all of the bound by themselves are not stored."""
        digest = hash_of(content)
        self._write(self._path(digest), content)
        return digest

    def holds(self, digest: str) -> bool:
        """Whether a file of this name is here; :meth:`get` says whether it is the right one."""
        return self._path(digest).is_file()

    def recall(self, name: str) -> bytes | None:
        """The record that :meth:`remember` stored under ``name``; None if there is none, or it is damaged."""
        content = self._read(self._record(name))
        if content is None or hash_of(content[32:]) != content[:32].hex():
            return None
        return content[32:]

    def remember(self, name: str, record: bytes) -> None:
        """Store ``record`` under ``name``, in the place of the one before."""
        self._write(self._record(name), hashlib.sha256(record).digest() + record)

    def _path(self, digest: str) -> Path:
        if not _HASH.fullmatch(digest):
            raise RequestError(f"'{digest[:80]}' is no SHA-256 of a head's file")
        return self.directory / f"{digest}{_HEAD}"

    def _record(self, name: str) -> Path:
        return self.directory / f"{hash_of(name.encode())}{_RECORD}"

    def _read(self, path: Path) -> bytes | None:
        with suppress(OSError):
            if path.stat().st_size > self.max_bytes:  # none that was written here, and perhaps more than fits in memory
                return None
            content = path.read_bytes()
            with suppress(OSError):  # it may be another user's
                os.utime(path)
            return content
        return None

    def _write(self, path: Path, content: bytes) -> None:
        if len(content) > self.max_bytes:
            return
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._store(path, content)
            with self._locked() as ours:
                if ours:
                    self._evict(path)
        except OSError as error:
            _LOG.warning("cannot store %s: %s", path, error.strerror)

    def _store(self, path: Path, content: bytes) -> None:
        """Whole or not at all."""
        descriptor, unfinished = tempfile.mkstemp(_UNFINISHED, ".", self.directory)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            os.replace(unfinished, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(unfinished)
            raise

    def _evict(self, newest: Path) -> None:
        """Drop what was used longest ago, but never the ``newest``, and what killed processes left."""
        files = []
        for path in self.directory.iterdir():
            with suppress(OSError):  # another process has dropped it
                status = path.stat()
                if path.suffix == _UNFINISHED:
                    if time.time() - status.st_mtime > _ABANDONED_S:
                        path.unlink()
                elif path.suffix in (_HEAD, _RECORD) and path != newest:
                    files.append((status.st_mtime_ns, status.st_size, path))
        left = self.max_bytes - newest.stat().st_size - sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if left >= 0:
                break
            with suppress(OSError):
                path.unlink()
                left += size

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        """Whether no other process evicts now. Where one holds on to the lock, the bound is kept by who comes next."""
        if fcntl is None:
            yield True
            return
        with open(self.directory / ".lock", "ab") as file:
            until = time.monotonic() + _PATIENCE_S
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        yield False
                        return
                    time.sleep(0.01)
            yield True  # closing the file gives the lock back
