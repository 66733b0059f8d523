"""What all traps share: whatever a forward does, head then tail is the model in eval mode.

Bit for bit, at every legal cut and at other batch sizes too; and the caller's model stays as it was.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpart_fx as qpart
from qpart_fx.compiler import analyse
from qpart_fx.cut import Cut
from qpart_fx.passes.capture import capture, capture_report
from qpart_fx.passes.find_cuts import find_cuts, resolve_cut
from qpart_fx.passes.split_at_cut import split_at_cut

Call = tuple[tuple[Any, ...], dict[str, Any]]
Inputs = Callable[[int], Call]
Forward = Callable[..., Any]

CAPTURED, *OTHERS = 3, 1, 5
"""Batch sizes: the one that is captured, and others."""


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def rows(*shape: int) -> Inputs:
    """One tensor of ``shape`` per sample."""
    return lambda size: ((numbers(size, *shape),), {})


def tokens(length: int = 6) -> Inputs:
    return lambda size: ((torch.arange(size * length).reshape(size, length) % 11,), {})


def pairs(size: int) -> Call:
    return (numbers(size, 4), numbers(size, 4) * 2), {}


def called(*args: Any, **kwargs: Any) -> Inputs:
    """A call whose tensors are those of ``args`` and ``kwargs``, repeated to the batch size."""

    def grown(value: Any, size: int) -> Any:
        if isinstance(value, Tensor):
            return value.repeat(size, *[1] * (value.dim() - 1)) + torch.arange(size)[:, None]
        if isinstance(value, tuple | list):
            return type(value)(grown(item, size) for item in value)
        return {key: grown(item, size) for key, item in value.items()} if isinstance(value, dict) else value

    return lambda size: (grown(args, size), grown(kwargs, size))


ROWS_OF_FOUR = rows(4)
X, Y = numbers(1, 4), numbers(1, 4) + 1


def linear(inputs: int = 4, outputs: int = 4) -> nn.Linear:
    return nn.Linear(inputs, outputs)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(numbers(*shape))


def with_buffers(model: nn.Module, *, persistent: bool = True, **buffers: Tensor) -> nn.Module:
    for name, value in buffers.items():
        model.register_buffer(name, value, persistent)
    return model


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = linear(), nn.BatchNorm1d(4), linear()

    def forward(self, x: Tensor) -> Any:
        return self.second(self.norm(self.first(x)).relu())


def net(forward: Forward, **parts: Any) -> nn.Module:
    """A module with ``parts`` and this ``forward``."""
    model: nn.Module = type(forward.__name__, (nn.Module,), {"forward": forward})()
    for name, part in parts.items():
        setattr(model, name, part)
    return model.eval()


class Trap(NamedTuple):
    """A model; its inputs by batch size; whether its forward makes the batch size a constant."""

    model: nn.Module
    inputs: Inputs
    frozen: bool = False


class Traps(dict[str, Trap]):
    """The traps of a file, by name. Called, it makes a decorator that turns a forward into one more."""

    def __call__(
        self, inputs: Inputs = ROWS_OF_FOUR, *, frozen: bool = False, **parts: Any
    ) -> Callable[[Forward], Forward]:
        def register(forward: Forward) -> Forward:
            self[forward.__name__] = Trap(net(forward, **parts), inputs, frozen)
            return forward

        return register


def same(left: Any, right: Any) -> bool:
    """One structure of one type, and the same bits."""
    if type(left) is not type(right):
        return isinstance(left, nn.Parameter) and same(left.detach(), right)
    match left:
        case Tensor():
            return (left.dtype, left.shape) == (right.dtype, right.shape) and (
                left.is_meta or bits(left) == bits(right)
            )
        case np.ndarray():
            return (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())
        case Mapping():
            return [*left] == [*right] and all(map(same, left.values(), right.values()))
        case tuple() | list() | deque():
            return len(left) == len(right) and all(map(same, left, right))
    if hasattr(left, "__dict__") and not callable(left):
        return same(vars(left), vars(right))
    return bool(left == right)


def bits(tensor: Tensor) -> bytes:
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    plain = torch.empty(tensor.numel(), dtype=tensor.dtype)
    plain.copy_(tensor.detach().resolve_neg().reshape(-1))
    return plain.view(torch.uint8).numpy().tobytes()


def copied(model: nn.Module) -> nn.Module:
    """A copy, also of what computes its weights before each call."""
    computed = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(model, computed)


def run(model: nn.Module, call: Call) -> Any:
    args, kwargs = copy.deepcopy(call)  # a model may write to its inputs
    with torch.no_grad():
        return model(*args, **kwargs)


def state_of(model: nn.Module) -> dict[str, Any]:
    """All of a model that capturing could change."""
    modules, tensors = [*model.modules()], [*model.parameters(), *model.buffers()]
    return {
        "names": [name for name, _ in (*model.named_parameters(), *model.named_buffers())],
        "values": [tensor if tensor.is_meta else tensor.detach().clone() for tensor in tensors],
        "identities": [id(each) for each in (*modules, *tensors)],
        "gradients": [(tensor.requires_grad, id(tensor.grad)) for tensor in tensors],
        "modules": [(type(module), module.training) for module in modules],
        "attributes": [{name: id(value) for name, value in vars(module).items()} for module in modules],
        "forwards": [getattr(module.forward, "__func__", module.forward) for module in modules],
        "hooks": [[*module._forward_hooks, *module._forward_pre_hooks] for module in modules],
    }


def handed_over(split: qpart.SplitModel, payload: tuple[Any, ...]) -> tuple[Any, ...]:
    return payload


def cloned(split: qpart.SplitModel, payload: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.clone() if isinstance(value, Tensor) else value for value in payload)


def sent(split: qpart.SplitModel, payload: tuple[Any, ...]) -> tuple[Any, ...]:
    return split.unpack_activation(split.pack_activation(payload))


DELIVERIES = handed_over, cloned, sent


def assert_exact_at_every_cut(
    model: nn.Module, inputs: Inputs, frozen: bool = False, *, reference: nn.Module | None = None
) -> None:
    """At other batch sizes too, and neither the caller's model nor anything else has changed.

    With ``frozen``, other batch sizes are refused. ``reference``: what to compare with, unless it is the model itself.
    """
    calls, expected = calls_of(copied(reference or model).eval(), inputs)
    given, generator, before = copy.deepcopy(calls[0]), torch.get_rng_state(), state_of(model)
    graph = capture(model, *calls[0])
    default = qpart.split(model, *calls[0])
    after = state_of(model)
    for key in before:
        assert same(after[key], before[key]), f"the caller's model has changed: {key}"
    assert same(calls[0], given), "the caller's inputs have changed"
    assert torch.equal(torch.get_rng_state(), generator), "the global random state has changed"

    assert capture_report(graph).frozen == frozen, capture_report(graph)
    if frozen:
        with pytest.raises(AssertionError, match="froze the shape of its input"):
            run(default, calls[1])
        calls, expected = calls[:1], expected[:1]
    analyse(graph, *calls[0])
    cuts = find_cuts(graph)
    assert cuts
    assert len({cut.crossing for cut in cuts}) == len(cuts), "two cuts of the same crossing values"
    for cut in cuts:
        assert set(resolve_cut(graph, cut.crossing).crossing) == set(cut.crossing)
    for split in (default, *(split_of(graph, cut) for cut in cuts)):
        crossing = [node.name for node in split.tail.graph.nodes if node.op == "placeholder"]
        for (call, output), deliver in itertools.product(zip(calls, expected, strict=True), DELIVERIES):
            result = run_split(split, call, deliver)
            assert same(result, output), f"{deliver.__name__} at {crossing} of {graph.code}"


def calls_of(model: nn.Module, inputs: Inputs) -> tuple[list[Call], list[Any]]:
    """Calls of all batch sizes, first the captured one, and what ``model`` gives for them."""
    calls = [inputs(size) for size in (CAPTURED, *OTHERS)]
    expected = [run(copied(model), call) for call in calls]
    with contextlib.suppress(RuntimeError, IndexError, ValueError):  # what the model refuses, its split may refuse
        expected.append(run(copied(model), inputs(0)))
        calls.append(inputs(0))
    return calls, expected


def split_of(graph: GraphModule, cut: Cut) -> qpart.SplitModel:
    return qpart.SplitModel(*split_at_cut(graph, cut.crossing, cut.device_nodes))


def run_split(split: qpart.SplitModel, call: Call, deliver: Callable[..., tuple[Any, ...]] = sent) -> Any:
    payload = run(split.head, call)
    with torch.no_grad():
        return split.tail(*deliver(split, payload))
