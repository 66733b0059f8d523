"""QPART: a trained PyTorch network in, a quantized head for a small device and a float tail for a server out.

    import qpart_fx as qpart

    split = qpart.compile(model, request)
    print(split.plan)

Names load when they are first used, so that what runs without torch does not import it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import (
    ArtifactError,
    CalibrationError,
    CaptureError,
    InfeasibleError,
    InternalError,
    MissingDependencyError,
    ModelError,
    QPartError,
    RequestError,
)

if TYPE_CHECKING:
    from .compiler import compile, profile, split
    from .files import load
    from .model_profile import Profile
    from .passes.count_macs import register_macs
    from .plan import Plan
    from .request import Device, Link, Objective, Request, Server
    from .split_model import SplitModel

__version__ = "0.1.0"

__all__ = [
    "ArtifactError",
    "CalibrationError",
    "CaptureError",
    "Device",
    "InfeasibleError",
    "InternalError",
    "Link",
    "MissingDependencyError",
    "ModelError",
    "Objective",
    "Plan",
    "Profile",
    "QPartError",
    "Request",
    "RequestError",
    "Server",
    "SplitModel",
    "compile",
    "load",
    "profile",
    "register_macs",
    "split",
]

_HOME = {
    "compile": "compiler",
    "profile": "compiler",
    "split": "compiler",
    "load": "files",
    "register_macs": "passes.count_macs",
    "Plan": "plan",
    "Profile": "model_profile",
    "Device": "request",
    "Link": "request",
    "Objective": "request",
    "Request": "request",
    "Server": "request",
    "SplitModel": "split_model",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'qpart_fx' has no attribute {name!r}")
    try:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("torch", "scipy", "tqdm"):
            raise MissingDependencyError(f"qpart_fx.{name}", extra="torch") from error
        raise
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
