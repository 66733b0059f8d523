"""Code that tracing dislikes: contexts, closures, containers, odd names."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.traps.harness import Traps, X, assert_exact_at_every_cut, called, linear, net, rows, weight

trap = Traps()


# Contexts.


@trap(a=linear(), b=linear())
def a_context_without_gradients(self: Any, x: Tensor) -> Any:
    with torch.no_grad():
        y = self.a(x)
    with torch.enable_grad():
        return self.b(y.relu())


@trap(a=linear(), b=linear())
def inference_mode_inside(self: Any, x: Tensor) -> Any:
    with torch.inference_mode():
        y = self.a(x)
    return self.b(y.relu())


@trap(a=linear(), b=linear())
def autocast_inside(self: Any, x: Tensor) -> Any:
    y = self.a(x)
    with torch.autocast("cpu", torch.bfloat16):
        z = self.b(y.relu()) @ y.t()
    return z.float().sum(1), y


@trap(a=linear(), b=linear())
def autocast_as_a_decorator(self: Any, x: Tensor) -> Any:
    return torch.autocast("cpu", torch.bfloat16)(lambda: self.b(self.a(x).relu()))()


@trap(a=linear(), b=linear())
def checkpoints(self: Any, x: Tensor) -> Any:
    y = checkpoint(self.a, x, use_reentrant=False)
    return self.b(y.relu())


@trap(a=linear(), b=linear())
def reentrant_checkpoints(self: Any, x: Tensor) -> Any:
    y = checkpoint(self.a, x, use_reentrant=True)
    return self.b(y.relu())


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 2


@trap(a=linear(), b=linear())
def a_custom_gradient(self: Any, x: Tensor) -> Any:
    return self.b(Twice.apply(self.a(x)))  # type: ignore[no-untyped-call]


# Python.


@trap(a=linear(), b=linear())
def numpy_for_a_constant(self: Any, x: Tensor) -> Any:
    return self.b(self.a(x).relu() * float(np.sqrt(x.shape[1]))) + torch.from_numpy(np.arange(4.0, dtype=np.float32))


@trap(a=linear())
def a_lambda_and_a_closure(self: Any, x: Tensor) -> Any:
    def twice(f: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
        return f(f(value))

    return twice(lambda value: self.a(value).relu() + x, x)


@trap(a=linear())
def a_try_around_a_layer(self: Any, x: Tensor) -> Any:
    try:
        return self.a(x).view(-1, 2, 2).flatten(1)
    except RuntimeError:
        return x


@trap(rows(4), a=linear())
def recursion_and_a_generator(self: Any, x: Tensor) -> Any:
    def deeper(value: Tensor, depth: int) -> Tensor:
        return value if depth == 0 else deeper(self.a(value).relu(), depth - 1)

    return torch.cat([*(deeper(x, depth) for depth in range(3))], dim=1)


@trap(rows(4, 4), a=linear())
def a_mask_made_anew_each_call(self: Any, x: Tensor) -> Any:
    mask = torch.full((x.size(1), x.size(1)), float("-inf")).triu_(1)
    return self.a((x @ x.transpose(1, 2) + mask).softmax(-1) @ x)


@trap(rows(4, 8), a=nn.Linear(8, 24))
def scaled_dot_product_attention(self: Any, x: Tensor) -> Any:
    q, k, v = self.a(x).view(x.shape[0], x.shape[1], 3, 2, 4).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(x.shape)


# Containers and names.


@trap(
    layers=nn.ModuleList([linear(), nn.ReLU(), linear()]),
    heads=nn.ModuleDict({"b": linear(), "a": nn.Sequential(OrderedDict(first=linear(), act=nn.Tanh()))}),
)
def containers(self: Any, x: Tensor) -> Any:
    for layer in self.layers[::2]:
        x = layer(x)
    return {name: head(x) for name, head in self.heads.items()}


@trap(called(X), named=nn.ModuleDict({"1x1": linear(), "a-b": linear(), "class": linear(), "größe": linear()}))
def names_that_are_no_identifiers(self: Any, x: Tensor) -> Any:
    for each in self.named.values():
        x = each(x).relu()
    return x


@trap(a=linear())
def nothing_but_a_layer(self: Any, x: Tensor) -> Any:
    return self.a(x)


@pytest.mark.parametrize("name", trap)
def test_exact_at_every_cut(name: str) -> None:
    assert_exact_at_every_cut(*trap[name])


def test_vmap_leaves_torch_as_it_was() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        return torch.vmap(lambda row: self.a(row).relu())(x)

    assert_exact_at_every_cut(net(forward, a=linear()), rows(4, 4))
    assert torch._C._functorch.peek_interpreter_stack() is None


@pytest.mark.parametrize("name", ["code", "graph", "meta"])
def test_parts_named_as_those_of_a_graph_module(name: str) -> None:
    def forward(self: Any, x: Tensor) -> Any:
        return self.a(x).relu() @ getattr(self, name)

    assert_exact_at_every_cut(net(forward, a=linear(), **{name: weight(4, 4)}), rows(4))
