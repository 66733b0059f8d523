"""The operations that a graph in a file may call, by name: a closed table, so that loading a file runs nothing else."""

from __future__ import annotations

import inspect
import operator
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverload
from torch.overrides import get_overridable_functions, resolve_name

from .errors import ArtifactError
from .quantizer import FakeQuantize

_OPERATORS = (
    "abs add and_ contains eq floordiv ge getitem gt iadd iand ifloordiv ilshift imatmul imod imul index inv invert "
    "ior ipow irshift isub itruediv ixor le lshift lt matmul mod mul ne neg not_ or_ pos pow rshift setitem sub "
    "truediv xor"
)
_PLAIN = "_assert arange empty eye full linspace logspace ones scalar_tensor tensor zeros"
_ATTRIBUTES = frozenset(
    "H T data device dtype imag is_cuda itemsize layout mH mT nbytes ndim real requires_grad shape".split()
)
_CALLERS = ("torch.nn.functional.triplet_margin_with_distance_loss",)
"""Functions that call what they are given: a file must not reach a call of something that it looked up."""

_UNSAFE_ATEN = frozenset("from_file set_ _print save load resize_ set_data".split())
_UNSAFE_METHODS = frozenset(
    "apply_ map_ map2_ module_load numpy register_hook requires_grad_ share_memory_ set_".split()
)


@cache
def _functions() -> dict[str, Callable[..., Any]]:
    """Every torch function that can occur in a traced graph (torch's own list of them), and plain arithmetic."""
    table: dict[str, Callable[..., Any]] = {}
    for namespace, functions in get_overridable_functions().items():
        if inspect.ismodule(namespace):
            for function in functions:
                table[str(resolve_name(function))] = function
    for name in _CALLERS:
        table.pop(name, None)
    table["getattr"] = getattr
    table |= {f"operator.{name}": getattr(operator, name) for name in _OPERATORS.split()}
    table |= {f"torch.{name}": getattr(torch, name) for name in _PLAIN.split()}
    return table


@cache
def _function_names() -> dict[Callable[..., Any], str]:
    return {function: name for name, function in _functions().items()}


@cache
def _methods() -> frozenset[str]:
    names = {name for name in dir(torch.Tensor) if not name.startswith("_") and callable(getattr(torch.Tensor, name))}
    return frozenset(names - _UNSAFE_METHODS)


@cache
def _modules() -> dict[str, type[nn.Module]]:
    found = {f"torch.nn.{name}": value for name, value in vars(nn).items() if isinstance(value, type)}
    table = {name: kind for name, kind in found.items() if issubclass(kind, nn.Module) and kind is not nn.Module}
    return {**table, "qpart_fx.FakeQuantize": FakeQuantize}


def function_name(function: Any) -> str:
    """The name of ``function`` in a file.

    Raises:
        ArtifactError: it is none of those that a file may call.
    """
    name = _function_names().get(function)
    if isinstance(function, OpOverload) and _aten(str(function)) is function:
        name = str(function)
    if name is None:
        called = f"{getattr(function, '__module__', '?')}.{getattr(function, '__name__', function)}"
        raise ArtifactError(f"the graph calls {called}, which no file may hold: use a torch function or method instead")
    return name


def function_named(name: str) -> Callable[..., Any]:
    """The function that :func:`function_name` named.

    Raises:
        ArtifactError: a file may not call it.
    """
    if (overload := _aten(name)) is not None:
        return overload
    if name not in _functions():
        raise ArtifactError(f"the graph calls '{name}', which is not among the operations that a file may call")
    return _functions()[name]


def _aten(name: str) -> OpOverload | None:
    """The operation ``aten.NAME.OVERLOAD``, as torch.export leaves it, if it computes and does nothing else."""
    match = re.fullmatch(r"aten\.(\w+)\.(\w+)", name)
    if match is None or match[1] in _UNSAFE_ATEN or not hasattr(torch.ops.aten, match[1]):
        return None
    found = getattr(getattr(torch.ops.aten, match[1]), match[2], None)
    return found if isinstance(found, OpOverload) else None


def check_method(name: str) -> str:
    """``name``, if it is a tensor's method that a file may call.

    Raises:
        ArtifactError: it is not.
    """
    if name not in _methods():
        raise ArtifactError(f"the graph calls the method '{name}', which is not among those that a file may call")
    return name


def check_attribute(name: Any) -> str:
    """``name``, if it is a tensor's attribute that a graph in a file may read.

    Raises:
        ArtifactError: it is not.
    """
    if not isinstance(name, str) or name not in _ATTRIBUTES:
        raise ArtifactError(f"the graph reads the attribute {name!r}, which is not among those that a file may read")
    return name


def module_to_record(name: str, module: nn.Module) -> dict[str, Any]:
    """The type and the constructor's arguments of ``module``, from which :func:`module_from_record` makes its like.

    Raises:
        ArtifactError: it is no module of torch.nn, or its attributes do not say how it was made.
    """
    kind = next((name for name, kind in _modules().items() if kind is type(module)), None)
    if kind is None:
        raise ArtifactError(f"'{name}' is a {type(module).__name__}; a file holds modules of torch.nn only")
    if module._forward_hooks or module._forward_pre_hooks:
        raise ArtifactError(f"'{name}' has forward hooks, which no file can hold: remove them before compiling")
    record = {"type": kind, "arguments": _arguments(module)}
    try:
        again = module_from_record(name, record)
        same = _plain(again) == _plain(module) and _shapes(again) == _shapes(module)
    except Exception as error:
        raise ArtifactError(f"'{name}' ({kind}) does not say how to make it again: {error}") from error
    if not same:
        raise ArtifactError(f"'{name}' ({kind}) would come back as another module: {again} instead of {module}")
    return record


def module_from_record(name: str, record: Any) -> nn.Module:
    """A module in eval mode, its parameters without storage.

    Raises:
        ArtifactError: the record names no module that a file may hold, or does not fit it.
    """
    kind = record.get("type") if isinstance(record, dict) else None
    if not isinstance(kind, str) or kind not in _modules() or not isinstance(record.get("arguments"), dict):
        raise ArtifactError(f"module '{name}' is of type {kind!r}, which is not among those that a file may hold")
    if kind == "qpart_fx.FakeQuantize":
        bits = record["arguments"].get("bits")
        if type(bits) is not int or not 2 <= bits <= 16 or len(record["arguments"]) != 1:
            raise ArtifactError(f"module '{name}' ({kind}) cannot be made from {record['arguments']}: bits are 2 to 16")
        return FakeQuantize.like(bits)
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in record["arguments"].items()}
    try:
        with torch.device("meta"):
            return _modules()[kind](**arguments).eval()
    except Exception as error:
        raise ArtifactError(f"module '{name}' ({kind}) cannot be made from {arguments}: {error}") from error


def _arguments(module: nn.Module) -> dict[str, Any]:
    if isinstance(module, FakeQuantize):
        return {"bits": module.bits}
    arguments = _transformer_arguments(module)
    for key, default in _constructor_parameters(type(module)).items():
        if key in ("device", "dtype", "args", "kwargs", "self") or key.startswith("_"):
            continue
        if key in arguments:
            continue
        if key == "add_bias_kv" and isinstance(module, nn.MultiheadAttention):
            value: Any = module.bias_k is not None
        elif key == "bias" and isinstance(module, nn.MultiheadAttention):
            value = module.in_proj_bias is not None
        else:
            value = getattr(module, key, None)
        if key == "bias" and (value is None or isinstance(value, torch.Tensor)):
            value = value is not None
        if value is not None or (hasattr(module, key) and default not in (None, inspect.Parameter.empty)):
            arguments[key] = list(value) if isinstance(value, tuple) else value
    return arguments


def _transformer_arguments(module: nn.Module) -> dict[str, Any]:
    """What a Transformer layer keeps in its parts alone."""
    if not isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        return {}
    attention: Any = module.self_attn
    return {
        "d_model": attention.embed_dim,
        "nhead": attention.num_heads,
        "dim_feedforward": module.linear1.out_features,
        "dropout": module.dropout.p,
        "activation": getattr(module.activation, "__name__", ""),
        "layer_norm_eps": module.norm1.eps,
        "batch_first": attention.batch_first,
        "bias": module.linear1.bias is not None,
    }


def _constructor_parameters(kind: type[nn.Module]) -> dict[str, Any]:
    """Its constructor's arguments with their defaults; the recurrent layers hide theirs in a base class."""
    recurrent = issubclass(kind, nn.RNNBase)
    owner: Any = nn.RNNBase if recurrent else kind
    defaults = {name: each.default for name, each in inspect.signature(owner.__init__).parameters.items()}
    if recurrent:
        del defaults["mode"]
        if kind is not nn.LSTM:
            del defaults["proj_size"]
    return {**defaults, "nonlinearity": "tanh"} if kind is nn.RNN else defaults


def _plain(module: nn.Module) -> dict[str, Any]:
    """The settings of a module: every attribute that is a plain value."""
    plain = {key: value for key, value in vars(module).items() if isinstance(value, int | float | str | tuple | None)}
    plain.pop("training")  # a file's modules are in eval mode
    return plain


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
