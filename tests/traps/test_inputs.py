"""Inputs: used late or never, written to, nested, by keyword, and of every kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qpart_fx as qpart
from tests.traps.harness import (
    CAPTURED,
    Plain,
    Traps,
    X,
    Y,
    assert_exact_at_every_cut,
    called,
    linear,
    net,
    numbers,
    pairs,
    same,
    weight,
)

trap = Traps()


# Used late, never, or twice.


@trap(a=linear(), b=linear())
def an_input_that_is_used_again(self: Any, x: Tensor) -> Any:
    return self.b(self.a(x).relu()) + x


@trap(pairs, a=linear(), b=linear())
def an_input_that_is_used_late(self: Any, x: Tensor, late: Tensor) -> Any:
    return self.b(self.a(x).relu()) + late


@trap(pairs, a=linear(), b=linear())
def an_input_that_is_never_used(self: Any, x: Tensor, unused: Tensor) -> Any:
    return self.b(self.a(x).relu())


@trap(a=linear())
def an_input_that_is_the_output(self: Any, x: Tensor) -> Any:
    return x, self.a(x), x


@trap(lambda size: ((numbers(size, 4),) * 2, {}), a=linear(), b=linear())
def one_tensor_given_twice(self: Any, x: Tensor, y: Tensor) -> Any:
    return self.a(x).relu() - self.b(y)


@trap()
def nothing_at_all(self: Any, x: Tensor) -> Any:
    return x


# Written to.


@trap(a=linear(), b=linear())
def the_input_is_written_to(self: Any, x: Tensor) -> Any:
    x.add_(1)
    y = self.a(x)
    x[:, 0] = 3
    x *= 2
    z = self.b(y + x)
    x.relu_()
    return z * x


@trap(called([X, Y]), a=linear())
def a_list_that_is_written_to(self: Any, many: list[Tensor]) -> Any:
    many.append(self.a(many[0]))
    many[1] = many[1].relu()
    return torch.cat(many, dim=1)


@trap(fc=linear())
def an_input_is_written_to_before_one_that_is_not_given(self: Any, x: Tensor, mask: Tensor | None = None) -> Any:
    x.add_(1)
    return self.fc(x if mask is None else x * mask)


# Arguments.


@trap(called(x=X, scale=Y), a=linear(), b=linear())
def keywords_only(self: Any, x: Tensor, *, scale: Tensor) -> Any:
    return self.b(self.a(x) * scale)


@trap(called(X, scale=Y), a=linear())
def keywords_in_another_order(self: Any, x: Tensor, shift: Tensor | None = None, scale: Tensor | None = None) -> Any:
    y = self.a(x) if scale is None else self.a(x) * scale
    return y.relu() if shift is None else y + shift


@trap(called(X), a=linear())
def defaults(self: Any, x: Tensor, mask: Tensor | None = None, scale: float = 0.5, flip: bool = False) -> Any:
    y = self.a(x) * scale
    return -y if flip else y.relu() if mask is None else y * mask


@trap(called(X, None, Y), a=linear())
def none_given(self: Any, x: Tensor, mask: Tensor | None, bias: Tensor) -> Any:
    y = self.a(x)
    return y + bias if mask is None else y * mask


@trap(
    called(X, 2, True, mode="up"),
    a=linear(),
)
def flags_and_numbers(self: Any, x: Tensor, times: int, flip: bool = False, *, mode: str = "down") -> Any:
    for _ in range(times):
        x = self.a(x).relu()
    return (-x if flip else x) + (mode == "up")


@trap(called(X, Y, Y), a=linear())
def star_args(self: Any, x: Tensor, *others: Tensor) -> Any:
    for other in others:
        x = self.a(x) + other
    return x


@trap(called(X, Y, shift=Y, scale=X), a=linear())
def star_args_and_keywords(self: Any, *tensors: Tensor, **named: Tensor) -> Any:
    return self.a(tensors[0]).relu() * named["scale"] + named["shift"] + tensors[1]


@trap(called({"b": X, "a": Y}), a=linear())
def a_dictionary_of_no_sorted_order(self: Any, batch: dict[str, Tensor]) -> Any:
    return {name: self.a(value).relu() for name, value in batch.items()}


@trap(
    called([X, Y], {"a": Y, "b": [X, (Y,)]}),
    a=linear(),
)
def lists_and_dictionaries_of_tensors(self: Any, many: list[Tensor], named: dict[str, Any]) -> Any:
    y = sum(self.a(each) for each in many)
    return y.relu() + named["a"] * named["b"][1][0]


@trap(
    called(X, X),
    fc=linear(),
    x=linear(),
    output=linear(),
    input=linear(),
    head=linear(),
    tail=linear(),
    training_=weight(4, 4),
)
def names_that_mean_something_else(self: Any, input: Tensor, output: Tensor) -> Any:
    return self.tail(self.head(self.output(self.input(input)) + self.x(output)) @ self.training_)


@pytest.mark.parametrize("name", trap)
def test_exact_at_every_cut(name: str) -> None:
    assert_exact_at_every_cut(*trap[name])


def test_a_model_without_inputs() -> None:
    def forward(self: Any) -> Any:
        return self.fc(torch.ones(2, 4)).relu()

    assert_exact_at_every_cut(net(forward, fc=linear()), lambda size: ((), {}))


INPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "requires a gradient": lambda x: x.requires_grad_(),
    "carries a history": lambda x: x.requires_grad_() * 2,
    "transposed": lambda x: x.t().contiguous().t(),
    "strided": lambda x: x.repeat(1, 2)[:, ::2],
    "expanded": lambda x: x[:1].expand(len(x), -1),
    "parameter": lambda x: nn.Parameter(x),
    "made for inference": torch.inference_mode()(lambda x: x + 1),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_inputs_of_other_kinds(kind: str) -> None:
    model, x = Plain().eval(), INPUTS[kind](numbers(CAPTURED, 4))
    split = qpart.split(model, x)
    with torch.no_grad():
        assert same(split(x), model(x))
