"""The folder of profiles that a server offers: ``NAME.qpart``, one a model.

A name is looked up among the files that were found there; it never becomes a path. A new file, and one put in another's
place, is seen at the next :meth:`Catalog.refresh`, once it is whole.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from .. import container
from ..errors import ArtifactError, RequestError
from .log import log
from .refusal import not_found

SUFFIX = ".qpart"
"""Of files in it."""

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
"""Of a model."""


@dataclass(frozen=True, slots=True)
class Model:
    """``hash``: SHA-256 of the profile's file, in hexadecimal; ``size``: its bytes."""

    name: str
    path: Path
    hash: str
    size: int


class Catalog:
    """The profiles in ``folder``.

    Raises:
        RequestError: there is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise RequestError(f"CATALOG: there is no folder {folder}")
        self._folder = folder.resolve()
        self._models: dict[str, Model] = {}
        self._seen: dict[str, tuple[int, ...]] = {}

    @property
    def models(self) -> dict[str, Model]:
        """By name."""
        return dict(self._models)

    def model(self, name: str) -> Model:
        """The model called ``name``.

        Raises:
            Refused: there is none.
        """
        found = self._models.get(name)
        if found is None:
            raise not_found(f"there is no model {name[:128]!r}")
        return found

    def is_current(self, name: str, hash_: str) -> bool:
        """Whether the model called ``name`` is the one of this hash."""
        found = self._models.get(name)
        return found is not None and found.hash == hash_

    def refresh(self) -> bool:
        """Look again, and read what is new; returns whether anything is. A file that is broken is left out, or, where
        it took another's place, that one stays known until it is whole."""
        found: dict[str, Model] = {}
        seen: dict[str, tuple[int, ...]] = {}
        for path in sorted(self._folder.iterdir()):
            name = path.name.removesuffix(SUFFIX)
            if name == path.name or path.name.startswith("."):
                continue
            try:
                real, state = self._examined(path)
            except OSError as error:
                self._complain(name, f"it cannot be read: {error.strerror}", seen)
                continue
            except ArtifactError as error:
                self._complain(name, str(error), seen)
                continue
            seen[name] = state
            known = self._models.get(name)
            if self._seen.get(name) == state:
                if known is not None:
                    found[name] = known
                continue
            try:
                found[name] = Model(name, real, *_identity(real))
            except (ArtifactError, OSError) as error:
                log("warning", "model left out", model=name, reason=str(error))
                if known is not None:
                    found[name] = known
        changed = found != self._models
        for name in found.keys() | self._models.keys():
            self._tell(name, self._models.get(name), found.get(name))
        self._models, self._seen = found, seen
        return changed

    def _examined(self, path: Path) -> tuple[Path, tuple[int, ...]]:
        """Where a file really lies, and what changes when it does.

        Raises:
            ArtifactError: it is none that may be read.
        """
        if not NAME.fullmatch(path.name.removesuffix(SUFFIX)):
            raise ArtifactError("a name is made of letters, digits, '.', '_' and '-'")
        try:
            real = path.resolve(strict=True)
        except RuntimeError:  # until Python 3.13
            raise ArtifactError("the link goes round in circles") from None
        if not real.is_relative_to(self._folder):
            raise ArtifactError("the link leaves the catalog")
        found = os.stat(real)
        if not stat.S_ISREG(found.st_mode):
            raise ArtifactError("it is no file")
        return real, (found.st_ino, found.st_size, found.st_mtime_ns)

    def _complain(self, name: str, reason: str, seen: dict[str, tuple[int, ...]]) -> None:
        seen[name] = ()
        if self._seen.get(name) != ():  # not again and again
            log("warning", "model left out", model=name, reason=reason)

    @staticmethod
    def _tell(name: str, before: Model | None, after: Model | None) -> None:
        if after is None:
            log("info", "model removed", model=name)
        elif before is None or before.hash != after.hash:
            log("info", "model replaced" if before else "model found", model=name, hash=after.hash, bytes=after.size)


def _identity(path: Path) -> tuple[str, int]:
    """The hash and the size of a profile's file.

    Raises:
        ArtifactError: it is damaged, or no profile.
    """
    content = path.read_bytes()
    container.decode(content, "profile")
    return hashlib.sha256(content).hexdigest(), len(content)
