"""What becomes of a head and a tail: files for PyTorch, packed heads, and what other runtimes read.

A backend's module is imported when the backend is asked for, and its packages when it exports.
"""

from __future__ import annotations

from qpart_fx.errors import RequestError
from qpart_fx.runtimes import Carries as Carries
from qpart_fx.runtimes import described, load_backend

from .base import Backend as Backend
from .base import Halves as Halves


def get_backend(name: str) -> Backend:
    """The backend called ``name``: one of ours, or of another package that adds it under the entry-point group
    ``qpart_fx.backends``.

    Raises:
        RequestError: there is none, and the message names those there are; or that of another package is broken.
    """
    found = load_backend(name)
    if not issubclass(found, Backend):
        raise RequestError(f"{described(name)} is {found!r}: it has to derive from qpart_fx.backends.Backend")
    try:
        backend: Backend = found()
    except TypeError as error:  # it does not export, or asks for arguments
        raise RequestError(f"{described(name)} cannot be made: {error}") from error
    return backend
