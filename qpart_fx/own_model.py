"""The compiler's own copy of a caller's model, made ready to be captured, and kept as it is while it runs."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from .errors import CaptureError, ModelError


def own_copy(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in eval mode that shares nothing with it, its weights as they are computed now.

    Raises:
        CaptureError: it cannot be copied, or has no weights yet.
        ModelError: a parameter or buffer is NaN or infinite.
    """
    own = _copy(getattr(model, "_orig_mod", model))  # what torch.compile wraps
    _require_finite(own)
    own.eval()
    _bake_parametrizations(own)
    if isinstance(own, GraphModule):
        _switch_off_dropout(own)
    called_otherwise = type(own).__call__ is not nn.Module.__call__ and not isinstance(own, GraphModule)
    if own._forward_hooks or own._forward_pre_hooks or called_otherwise or isinstance(own, torch.jit.ScriptModule):
        return _within(own)
    return own


class State:
    """What a run or a trace may leave in a model: attributes of its modules, and what its buffers hold."""

    def __init__(self, model: nn.Module) -> None:
        self._attributes = [(vars(module), _attributes(module)) for module in model.modules()]
        self._buffers = [(buffer, buffer._version, buffer.clone()) for buffer in model.buffers()]

    def changed(self) -> bool:
        """Whether anything is not as it was."""
        return any(buffer._version != version for buffer, version, _ in self._buffers) or any(
            _identities(current) != _identities(before) for current, before in self._attributes
        )

    def restore(self) -> None:
        """Put everything back."""
        for current, before in self._attributes:
            current.clear()
            current.update(before)
        with torch.no_grad():
            for buffer, version, value in self._buffers:
                if buffer._version != version:
                    buffer.copy_(value)


@contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[State]:
    """Undo at the end what is left in ``model`` within."""
    state = State(model)
    try:
        yield state
    finally:
        state.restore()


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {name: copy.copy(value) if isinstance(value, dict) else value for name, value in vars(module).items()}


def _identities(attributes: dict[str, Any]) -> dict[str, Any]:
    """Which objects these are; of dictionaries, the objects in them."""
    return {
        name: {key: id(item) for key, item in value.items()} if isinstance(value, dict) else id(value)
        for name, value in attributes.items()
    }


def _copy(model: nn.Module) -> nn.Module:
    # Tensors that hooks compute before each call carry a gradient history, which deepcopy refuses.
    memo: dict[int, Any] = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise CaptureError(
            f"{type(model).__name__} cannot be copied ({error}); remove what copy.deepcopy refuses, "
            "for example a tensor attribute that carries a gradient history (use .detach())"
        ) from error


def _require_finite(model: nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise CaptureError(f"'{name}' has no shape yet: run the model once first, so that it is initialized")
        if tensor.is_meta:
            raise CaptureError(f"'{name}' is on the meta device and has no values: load the weights first")
        if tensor.is_floating_point() and tensor.numel() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise ModelError(f"'{name}' holds {bad} NaN or infinite values of {tensor.numel()}: train or load it again")


def _bake_parametrizations(model: nn.Module) -> None:
    """Weights that are computed from others (weight norm, spectral norm) become what they are now.

    Not by torch's own ``remove_parametrizations``: it edits the module's class, which the caller's module shares.
    """
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            names: Any = module.parametrizations
            values = {name: getattr(module, name).detach().clone() for name in names}
            module.__class__ = type(module).__bases__[0]
            del module.parametrizations
            for name, value in values.items():
                module.register_parameter(name, nn.Parameter(value))


_DROPOUTS: tuple[Callable[..., Any], ...] = (
    F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout,
    torch.dropout, torch.alpha_dropout, torch.feature_dropout, torch.feature_alpha_dropout,
    torch.ops.aten.dropout.default, torch.ops.aten.alpha_dropout.default, torch.ops.aten.feature_dropout.default,
    torch.ops.aten.feature_alpha_dropout.default, torch.ops.aten.native_dropout.default,
)  # fmt: skip
"""All are called as (input, p, training)."""


def _switch_off_dropout(model: GraphModule) -> None:
    """Dropout that was written into a graph in train mode; eval() does not reach it."""
    found = [node for node in model.graph.nodes if node.op == "call_function" and node.target in _DROPOUTS]
    for node in found:
        _set_argument(node, 2, "train" if "train" in node.kwargs else "training", False)
    attentions = [node for node in model.graph.nodes if node.target is F.scaled_dot_product_attention]
    for node in attentions:
        _set_argument(node, 4, "dropout_p", 0.0)
    if found or attentions:
        model.recompile()


def _set_argument(node: Node, place: int, name: str, value: Any) -> None:
    if len(node.args) > place:
        node.update_arg(place, value)
    else:
        node.update_kwarg(name, value)


def _within(model: nn.Module) -> nn.Module:
    """A module that only calls ``model``: its hooks, a call of its own or its script are captured too."""
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)

    forward.__signature__ = inspect.Signature([own, *_parameters(model)])  # type: ignore[attr-defined]
    outer: nn.Module = type(type(model).__name__, (nn.Module,), {"forward": forward})()
    outer.model = model
    return outer.eval()


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    if not isinstance(model, torch.jit.ScriptModule):
        return [*inspect.signature(model.forward).parameters.values()]
    script: Any = model.forward
    arguments = script.schema.arguments[1:]
    return [inspect.Parameter(each.name, inspect.Parameter.POSITIONAL_OR_KEYWORD,
                              default=each.default_value if each.has_default_value() else inspect.Parameter.empty)
            for each in arguments]  # fmt: skip
