"""What runs on a device: heads without torch, on numpy and onnxruntime, and the client that asks a server.

    from qpart_fx.device import Client

    with Client("server:8001", "mobilenet", request, cache="heads", fallback=lesser_model) as client:
        logits = client(image)

or, where the messages go another way:

    from qpart_fx.device import HeadRuntime

    head = HeadRuntime.load("head.qpart")
    message = head.message(image)  # bytes for the server

``pip install "qpart-fx[device]"`` brings all it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import RefusedError, Unavailable
from .arrays import pack_arrays, unpack_arrays
from .head_cache import HeadCache
from .runtime import HeadRuntime, Input

if TYPE_CHECKING:
    from .client import Answer, Client
    from .replanning import Replanning
    from .transport import Tls

__all__ = [
    "Answer",
    "Client",
    "HeadCache",
    "HeadRuntime",
    "Input",
    "RefusedError",
    "Replanning",
    "Tls",
    "Unavailable",
    "pack_arrays",
    "unpack_arrays",
]

_HOME = {"Answer": "client", "Client": "client", "Replanning": "replanning", "Tls": "transport"}


def __getattr__(name: str) -> Any:
    """The client, when it is first used: a device that sends its messages another way needs no grpc."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
