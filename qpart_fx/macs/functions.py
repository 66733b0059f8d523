"""Functions of Python that a graph calls whole: counted by what they call, on tensors without storage."""

from __future__ import annotations

from collections.abc import Mapping
from types import FunctionType
from typing import Any

import torch
from torch.fx.node import map_aggregate
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from qpart_fx.interpreter import thawed
from qpart_fx.macs.aten import function_of
from qpart_fx.macs.table import Call, count, handler_of
from qpart_fx.meta import TensorInfo, describe


def function_macs(function: Any, call: Call) -> int | None:
    """Multiply-adds of a Python ``function`` that is not torch's own; None if it calls anything that nobody knows."""
    if not isinstance(function, FunctionType) or function.__module__.split(".")[0] == "torch":
        return None
    args, kwargs = map_aggregate((call.args, dict(call.kwargs)), _empty)
    counter = _Counter()
    try:
        with counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            function(*(thawed(value) for value in args), **{name: thawed(value) for name, value in kwargs.items()})
    except Exception:  # whatever it is that stops it without real data: then nobody knows
        return None
    return counter.macs


def _empty(value: Any) -> Any:
    if isinstance(value, TensorInfo):
        return torch.empty(value.shape, dtype=value.dtype, device="meta")
    return value


class _Counter(TorchDispatchMode):
    """Adds up what the table of handlers knows of each operation; None once there is one that it does not know."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs: int | None = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        operation = func if handler_of(func) else function_of(func) or func
        macs = count(operation, Call(describe(args), describe(dict(kwargs or {})), describe(output), None))
        self.macs = None if self.macs is None or macs is None else self.macs + macs
        return output
