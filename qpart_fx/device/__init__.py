"""What runs on a device: heads without torch, on numpy and onnxruntime.

    from qpart_fx.device import HeadRuntime

    head = HeadRuntime.load("head.qpart")
    message = head.message(image)  # bytes for the server

``pip install "qpart-fx[device]"`` brings all it needs.
"""

from __future__ import annotations

from .arrays import pack_arrays, unpack_arrays
from .runtime import HeadRuntime, Input

__all__ = ["HeadRuntime", "Input", "pack_arrays", "unpack_arrays"]
