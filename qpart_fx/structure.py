"""Taking any value apart into its tensors, and putting it together again: what lets a model return what it likes."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree


class Part(ABC):
    """A value without its tensors."""

    @abstractmethod
    def build(self, tensors: Sequence[Any]) -> Any:
        """The value with ``tensors`` in it."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Part:
        return self  # it never changes


@dataclass(frozen=True, slots=True)
class Leaf(Part):
    """A tensor."""

    index: int

    def build(self, tensors: Sequence[Any]) -> Any:
        return tensors[self.index]


@dataclass(frozen=True, slots=True)
class Constant(Part):
    """A value that holds no tensor."""

    value: Any = field(compare=False)

    def build(self, tensors: Sequence[Any]) -> Any:
        return self.value


@dataclass(frozen=True, slots=True)
class Tree(Part):
    """A container that torch knows how to flatten: tuples, lists, dictionaries, registered dataclasses."""

    spec: pytree.TreeSpec
    parts: tuple[Part, ...]

    def build(self, tensors: Sequence[Any]) -> Any:
        return pytree.tree_unflatten([part.build(tensors) for part in self.parts], self.spec)


@dataclass(frozen=True, slots=True)
class Object(Part):
    """Any other object with tensors in its attributes, a cache for example; ``empty`` is one without them."""

    empty: Any = field(compare=False)
    attributes: dict[str, Part]

    def build(self, tensors: Sequence[Any]) -> Any:
        made = copy.copy(self.empty)
        for name, part in self.attributes.items():
            object.__setattr__(made, name, part.build(tensors))
        return made


def take_apart(value: Any, tensors: list[Any], leaves_are: type | tuple[type, ...] = Tensor) -> Part:
    """Append the tensors within ``value`` (or what else ``leaves_are``) to ``tensors``, and return what is left."""
    if isinstance(value, leaves_are):
        tensors.append(value)
        return Leaf(len(tensors) - 1)
    leaves, spec = pytree.tree_flatten(value)
    if not spec.is_leaf():
        return Tree(spec, tuple(take_apart(leaf, tensors, leaves_are) for leaf in leaves))
    attributes: dict[str, Part] = {}
    if not isinstance(value, type | nn.Module):
        for name, attribute in getattr(value, "__dict__", {}).items():
            count = len(tensors)
            part = take_apart(attribute, tensors, leaves_are)
            if len(tensors) > count:
                attributes[name] = part
    if not attributes:
        return Constant(value)
    empty = copy.copy(value)
    for name in attributes:
        object.__setattr__(empty, name, None)
    return Object(empty, attributes)


class Build(nn.Module):
    """Puts tensors into a structure: the model's own output around what a graph computed."""

    def __init__(self, structure: Part) -> None:
        super().__init__()
        self.structure = structure

    def forward(self, *tensors: Any) -> Any:
        return self.structure.build(tensors)


class TakeApart(nn.Module):
    """The tensors of a structured argument, in the order of ``structure``, which it must have."""

    def __init__(self, structure: Part) -> None:
        super().__init__()
        self.structure = structure

    def forward(self, value: Any) -> list[Any]:
        tensors: list[Any] = []
        if take_apart(value, tensors) != self.structure:
            raise ValueError("the argument is not of the structure that the graph was captured with")
        return tensors
