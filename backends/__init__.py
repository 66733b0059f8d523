"""What becomes of a head and a tail: files for PyTorch, packed heads, and what other runtimes read."""

from __future__ import annotations

from qpart_fx.errors import RequestError

from .base import Backend as Backend
from .base import Halves as Halves
from .eager import EagerBackend
from .onnx import OnnxBackend

_BACKENDS: dict[str, type[Backend]] = {"eager": EagerBackend, "onnx": OnnxBackend}


def get_backend(name: str) -> Backend:
    """The backend called ``name``.

    Raises:
        RequestError: there is none; the message names those there are.
    """
    if name not in _BACKENDS:
        raise RequestError(f"there is no backend {name!r}: choose one of {', '.join(sorted(_BACKENDS))}")
    return _BACKENDS[name]()
