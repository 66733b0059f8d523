"""The front end: any ``nn.Module`` in, an FX graph of its inference out, the caller's module untouched."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Tracer

from qpart_fx.errors import CaptureError, ModelError


class _Tracer(Tracer):
    """Plain symbolic tracing that remembers the line of the model's source of every node."""

    record_stack_traces = True


def capture(model: nn.Module) -> GraphModule:
    """The graph of ``model`` in eval mode, over a copy of it: nothing of the caller's module is changed or shared.

    Args:
        model: any module that ``torch.fx`` can trace; a :class:`~torch.fx.GraphModule` is taken as it is.

    Raises:
        CaptureError: the module cannot be copied or traced; the message says at which line of its source.
        ModelError: a parameter or buffer is NaN or infinite.
    """
    if not isinstance(model, nn.Module):
        raise CaptureError(f"expected a torch.nn.Module, got {type(model).__name__}")
    own = _copy(model).eval()
    _require_finite(own)
    if isinstance(own, GraphModule):
        return own
    return GraphModule(own, _trace(own), class_name=type(model).__name__)


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise CaptureError(
            f"{type(model).__name__} cannot be copied ({error}); remove what copy.deepcopy refuses, "
            "for example a tensor attribute that carries a gradient history (use .detach())"
        ) from error


def _trace(model: nn.Module) -> Graph:
    try:
        return _Tracer().trace(model)
    except Exception as error:
        raise CaptureError(
            f"{type(model).__name__} cannot be traced at {_line_in_model(error, model)}: {error}"
        ) from error


def _line_in_model(error: BaseException, model: nn.Module) -> str:
    """The innermost line of the traceback that lies in the forward of ``model`` or of a module within it."""
    forwards = {_code(type(module).forward) for module in model.modules()}
    place = "an unknown line"
    frame = error.__traceback__
    while frame is not None:
        code = frame.tb_frame.f_code
        if code in forwards:
            place = f"{code.co_filename}:{frame.tb_lineno}"
        frame = frame.tb_next
    return place


def _code(function: Callable[..., Any]) -> Any:
    return getattr(function, "__code__", None)


def _require_finite(model: nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and tensor.numel() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise ModelError(f"'{name}' holds {bad} NaN or infinite values of {tensor.numel()}: train or load it again")
