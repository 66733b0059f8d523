"""How a model is called: positional and keyword arguments, described, bound to a graph's placeholders, and checked."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from .errors import CalibrationError, RequestError
from .meta import TensorInfo, describe, info


def positional(graph_module: GraphModule, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    """The values of the placeholders of ``graph_module``, in order, when it is called with ``args`` and ``kwargs``.

    Tensors are copies: a model that writes to its inputs in place does not write to the caller's.

    Raises:
        CalibrationError: an argument is missing, given twice, or unknown.
    """
    placeholders = [node for node in graph_module.graph.nodes if node.op == "placeholder"]
    names = [str(node.target) for node in placeholders]
    called = f"the model is called as ({', '.join(names)}), and was given {describe_inputs(args, kwargs)}"
    if len(args) > len(names):
        raise CalibrationError(f"{len(args)} inputs are too many: {called}")
    values = dict(zip(names, args, strict=False))
    for name, value in kwargs.items():
        if name not in names or name in values:
            raise CalibrationError(f"input '{name}' is {'unknown' if name not in names else 'given twice'}: {called}")
        values[name] = value
    for node, name in zip(placeholders, names, strict=True):
        if name not in values:
            if not node.args:
                raise CalibrationError(f"input '{name}' is missing: {called}")
            values[name] = node.args[0]
    return [copied(values[name]) for name in names]


def named_arguments(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Names and values of a call of ``model``: those of ``args``, then those of ``kwargs``."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [each.name for each in inspect.signature(model.forward).parameters.values() if each.kind in kinds]
    names += [f"input_{place}" for place in range(len(names), len(args))]
    return [*zip(names, args, strict=False), *kwargs.items()]


def in_order(model: nn.Module, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """``kwargs`` in the order in which the forward of ``model`` names them."""
    names = [*inspect.signature(model.forward).parameters]
    return dict(sorted(kwargs.items(), key=lambda item: names.index(item[0]) if item[0] in names else len(names)))


def copied(value: Any) -> Any:
    """``value`` with every tensor in it in memory of its own."""
    return pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, value)


def device_of(module: nn.Module) -> torch.device:
    """Where the parameters and buffers of ``module`` are; the CPU if it has none."""
    return next((tensor.device for tensor in (*module.parameters(), *module.buffers())), torch.device("cpu"))


def example_inputs(graph_module: GraphModule) -> tuple[Any, ...]:
    """Zeros of the shapes and dtypes that the placeholders were captured with, defaults of what is no tensor; two
    samples, where it takes any number: one would be taken for a constant.

    Raises:
        RequestError: the shapes are not known, as of a split from a file of an earlier version.
    """
    found: list[Any] = []
    for node in graph_module.graph.nodes:
        if node.op == "placeholder":
            known = info(node).output
            if isinstance(known, TensorInfo):
                found.append(torch.zeros(known.shape, dtype=known.dtype))
            elif node.args:
                found.append(node.args[0])
            else:
                raise RequestError(
                    f"it is not known what the input '{node.target}' looks like: pass example_inputs=(...), the "
                    "tensors that the model is called with"
                )
    if all(value.dim() and len(value) == 1 for value in found if isinstance(value, Tensor)):
        two = tuple(value.repeat_interleave(2, dim=0) if isinstance(value, Tensor) else value for value in found)
        with suppress(Exception), torch.no_grad():  # its batch size may be frozen
            graph_module(*copied(two))
            return two
    return tuple(found)


def placeholder_names(graph_module: GraphModule) -> list[str]:
    """The names of its inputs."""
    return [str(node.target).lstrip("*") for node in graph_module.graph.nodes if node.op == "placeholder"]


def require_tensors(graph_module: GraphModule, args: Sequence[Any], target: str) -> None:
    """Raise the error for an input that is no tensor.

    Raises:
        RequestError: there is one; names it.
    """
    for name, value in zip(placeholder_names(graph_module), args, strict=True):
        if not isinstance(value, Tensor):
            raise RequestError(
                f"{target} passes tensors, and '{name}' is of type {type(value).__name__}: choose another cut or input"
            )


def describe_inputs(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """The inputs in words, for messages: a tensor by its dtype and shape."""
    words = [_describe(value) for value in args]
    words += [f"{name}={_describe(value)}" for name, value in kwargs.items()]
    return ", ".join(words) or "nothing"


def _describe(value: Any) -> str:
    known = describe(value)
    if hasattr(known, "dtype"):
        return f"{str(known.dtype).removeprefix('torch.')}{list(known.shape)}"
    return repr(known) if not hasattr(value, "__array__") else f"{type(value).__name__}{list(value.shape)}"
