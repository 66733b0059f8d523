"""What becomes of a head and a tail: files for PyTorch, packed heads, and what other runtimes read."""

from __future__ import annotations

from qpart_fx.errors import RequestError

from .base import Backend
from .eager import EagerBackend

_BACKENDS: dict[str, type[Backend]] = {"eager": EagerBackend}


def get_backend(name: str) -> Backend:
    """The backend called ``name``.

    Raises:
        RequestError: there is none; the message names those there are.
    """
    if name not in _BACKENDS:
        raise RequestError(f"there is no backend {name!r}: choose one of {', '.join(sorted(_BACKENDS))}")
    return _BACKENDS[name]()
