"""Outputs come in the model's own structure, of whatever classes."""

from __future__ import annotations

from collections import OrderedDict, UserDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.traps.harness import Traps, assert_exact_at_every_cut, linear, net, rows, same

trap = Traps()

Point = namedtuple("Point", ["x", "y"])


@dataclass
class Scores:
    logits: Tensor
    extra: Any = None


class Cache:
    def __init__(self, keys: list[Any], length: int) -> None:
        self.keys, self.length = keys, length


@dataclass
class ModelOutput(OrderedDict[str, Any]):
    """As that of transformers: a dataclass and an ordered dictionary in one, without the fields that are None."""

    logits: Any = None
    loss: Any = None
    states: Any = None

    def __post_init__(self) -> None:
        for name in ("logits", "loss", "states"):
            if getattr(self, name) is not None:
                self[name] = getattr(self, name)


class Answer(dict[str, Any]):
    """As outputs of many libraries are."""


class Row(tuple[Any, ...]):
    """As torch.Size is."""


class Slots:
    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slots) and same(self.value, other.value)


STRUCTURES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda x, y: (x, y),
    "tuple of one": lambda x, y: (y,),
    "list": lambda x, y: [y, x],
    "dict": lambda x, y: {"b": y, "a": x},
    "ordered dict": lambda x, y: OrderedDict(b=y, a=x),
    "nested": lambda x, y: {"a": [(x, {"b": y}), []], "c": ((), {})},
    "namedtuple": lambda x, y: Point(x, y),
    "nested namedtuple": lambda x, y: [Point(y, Point(x, (y,)))],
    "dataclass": lambda x, y: Scores(x, {"b": y}),
    "object": lambda x, y: (x, Cache([x, y], 2)),
    "none among them": lambda x, y: (None, y, None),
    "a tensor twice": lambda x, y: (y, {"again": y}, y),
    "a number": lambda x, y: (y, 7, 0.5, True, "text"),
    "a dimension": lambda x, y: (y, y.shape[1]),
    "a size": lambda x, y: (y, x.shape[0]),
    "all sizes": lambda x, y: (y, y.shape),
    "max": lambda x, y: y.max(dim=1),
    "topk": lambda x, y: torch.topk(y, 2),
    "nested dataclass": lambda x, y: Scores(y, Scores(x, [y])),
    "integer keys": lambda x, y: {0: y, 1: x},
    "default dictionary": lambda x, y: defaultdict(list, a=[y]),
    "deque": lambda x, y: deque([y, x]),
    "namespace": lambda x, y: SimpleNamespace(a=y, b=[x]),
    "array": lambda x, y: y.numpy(),
    "object in an object": lambda x, y: Cache([SimpleNamespace(a=x, b=(y,))], 1),
    "mixed keys": lambda x, y: {"a": y, 1: x, (2, 3): y},
    "model output": lambda x, y: ModelOutput(logits=y, states=(x, y)),
    "dictionary of its own class": lambda x, y: Answer(a=y, b=x),
    "tuple of its own class": lambda x, y: Row((y, x)),
    "slots": lambda x, y: Slots(y),
    "mapping proxy": lambda x, y: MappingProxyType({"a": y}),
    "user dictionary": lambda x, y: UserDict(a=y, b=x),
}


def returning(structure: Callable[[Tensor, Tensor], Any]) -> nn.Module:
    def forward(self: Any, x: Tensor) -> Any:
        return structure(x, self.b(self.a(x).relu()))

    return net(forward, a=linear(), b=linear())


@pytest.mark.parametrize("name", STRUCTURES)
def test_outputs_come_in_the_model_s_own_structure(name: str) -> None:
    assert_exact_at_every_cut(returning(STRUCTURES[name]), rows(4))


@trap(a=linear())
def no_device_node_for_an_output(self: Any, x: Tensor) -> Any:
    return torch.zeros(2), self.a(x), self.a.bias


@trap(a=linear())
def a_size_within_an_object(self: Any, x: Tensor) -> Any:
    return Cache([self.a(x).relu()], x.shape[0])


@trap(a=linear())
def a_number_from_contents_within_an_object(self: Any, x: Tensor) -> Any:
    y = self.a(x)
    return Cache([y.relu()], y.sum().item())


@pytest.mark.parametrize("name", trap)
def test_exact_at_every_cut(name: str) -> None:
    assert_exact_at_every_cut(*trap[name])
