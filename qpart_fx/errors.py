"""Every error that qpart_fx raises on purpose.

    QPartError
    ├── RequestError            ValueError    a field of a request, or a cut, that makes no sense
    ├── InfeasibleError         ValueError    a sensible request that nothing can meet; names the limit that binds
    ├── ModelError              ValueError    a model that cannot be compiled: no weights, NaN in them, ...
    │   └── CaptureError                      a model whose forward cannot be turned into a graph
    ├── CalibrationError        ValueError    calibration data that are missing, broken, or do not fit the model
    ├── ArtifactError           ValueError    a file that is damaged, of another version, or not ours
    ├── Unavailable             ConnectionError  no server answered in time, and there is nothing to fall back to
    │   └── RefusedError                      the server answered, and will not serve this caller or this model
    ├── MissingDependencyError  ImportError   an extra that is not installed; names the command that installs it
    └── InternalError           RuntimeError  a mistake of ours; please report it

The first six are the user's to mend, and say what was wrong, where, and what to do.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .plan import Plan


class QPartError(Exception):
    """Base of everything that qpart_fx raises on purpose."""


class RequestError(QPartError, ValueError):
    """A request, or an argument beside it, that makes no sense whatever the model."""


class InfeasibleError(QPartError, ValueError):
    """No plan meets the request.

    ``limit`` is the name of the request's field that binds: one that no plan meets by itself, or without which the
    others could be met. ``nearest`` is the plan that oversteps the limits by the least factor.
    """

    def __init__(self, message: str, *, limit: str, nearest: Plan | None = None) -> None:
        super().__init__(message)
        self.limit = limit
        self.nearest = nearest


class ModelError(QPartError, ValueError):
    """The model itself cannot be compiled."""


class CaptureError(ModelError):
    """The model's forward cannot be turned into a graph."""


class CalibrationError(QPartError, ValueError):
    """The calibration data are missing, empty, not finite, or do not fit the model."""


class ArtifactError(QPartError, ValueError):
    """A file is damaged, of a later version, or not one of ours."""


class Unavailable(QPartError, ConnectionError):  # noqa: N818  # the name that says it
    """No server answered within the time that was set, and there is no model on the device to answer in its place."""


class RefusedError(Unavailable):
    """The server refuses: who asks, the model that is asked for, or the request. Asking again changes nothing before
    that is mended."""


class MissingDependencyError(QPartError, ImportError):
    """Something needs a package that is not installed."""

    def __init__(self, what: str, *, extra: str) -> None:
        super().__init__(f'{what} needs packages that are not installed: pip install "qpart-fx[{extra}]"')
        self.extra = extra


def require_packages(names: str, what: str, *, extra: str) -> None:
    """Look for packages before anything is begun that needs all of them; imports none.

    Raises:
        MissingDependencyError: one of ``names``, set apart by spaces, is not installed; names the ``extra`` with all.
    """
    if any(find_spec(name) is None for name in names.split()):
        raise MissingDependencyError(what, extra=extra)


class InternalError(QPartError, RuntimeError):
    """A mistake in qpart_fx."""
