"""Taking any value apart into its tensors, and putting it together again: what lets a model return what it likes."""

from __future__ import annotations

import copy
import gc
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import BuiltinFunctionType, FunctionType, MappingProxyType
from typing import Any

import torch
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


@dataclass(frozen=True, slots=True, eq=False)
class Constant(Part):
    """A value that holds no tensor; each build has its own, which whoever gets it may write to."""

    value: Any

    def build(self, tensors: Sequence[Any]) -> Any:
        return _own(self.value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Constant) or type(self.value) is not type(other.value):
            return False
        return not isinstance(self.value, PLAIN) or bool(self.value == other.value) or self.value != self.value

    def __hash__(self) -> int:
        return hash(type(self.value))


@dataclass(frozen=True, slots=True)
class Tree(Part):
    """A container that torch knows how to flatten: tuples, lists, dictionaries, registered dataclasses."""

    spec: pytree.TreeSpec
    parts: tuple[Part, ...]

    def build(self, tensors: Sequence[Any]) -> Any:
        return pytree.tree_unflatten([part.build(tensors) for part in self.parts], self.spec)


@dataclass(frozen=True, slots=True)
class Object(Part):
    """Any other object that holds tensors: in attributes, as a cache does, or as a container of a class of its own.

    ``empty`` is one without tensors; ``items`` are those of a dictionary, list or tuple.
    """

    empty: Any = field(compare=False)
    kind: type
    items: Mapping[Any, Part]
    attributes: Mapping[str, Part]

    def build(self, tensors: Sequence[Any]) -> Any:
        items = {key: part.build(tensors) for key, part in self.items.items()}
        made = _twin(self.empty, [*items.values()] if issubclass(self.kind, list | tuple) else items)
        for name, part in self.attributes.items():
            object.__setattr__(made, name, part.build(tensors))
        return made


@dataclass(frozen=True, slots=True)
class ReadOnly(Part):
    """A read-only view of a dictionary."""

    part: Part

    def build(self, tensors: Sequence[Any]) -> Any:
        return MappingProxyType(self.part.build(tensors))


PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.layout)
"""Values that a graph can hold as they are."""

_SHARED = (*PLAIN, type, nn.Module, FunctionType, BuiltinFunctionType)
"""Values that are not copied: they do not change, or are the model's."""

NUMBERS = (bool, int, float, torch.SymBool, torch.SymInt, torch.SymFloat)
"""Numbers, and what stands for them while torch exports."""


def take_apart(
    value: Any, tensors: list[Any], leaves_are: type | tuple[type, ...] = Tensor, _within: tuple[Any, ...] = ()
) -> Part:
    """Append the tensors within ``value`` (or what else ``leaves_are``) to ``tensors``, and return what is left.

    Raises:
        TypeError: a part may hold tensors where nobody can look: an iterator, an object of another language.
    """
    if isinstance(value, leaves_are):
        tensors.append(value)
        return Leaf(len(tensors) - 1)
    leaves, spec = pytree.tree_flatten(value)
    within = (*_within, value)
    if not spec.is_leaf():
        return Tree(spec, tuple(take_apart(leaf, tensors, leaves_are, within) for leaf in leaves))
    if isinstance(value, _SHARED) or any(value is outer for outer in _within):
        return Constant(value)
    if isinstance(value, MappingProxyType):
        return ReadOnly(take_apart(dict(value), tensors, leaves_are, within))
    if isinstance(value, Iterator):
        raise TypeError(f"a {type(value).__name__} cannot be looked into: make it a list or a tuple")
    count = len(tensors)
    items = {key: take_apart(item, tensors, leaves_are, within) for key, item in _items(value)}
    held = len(tensors) > count
    attributes: dict[str, Part] = {}
    for name in (*getattr(value, "__dict__", ()), *_slots(type(value))):
        count = len(tensors)
        part = take_apart(getattr(value, name), tensors, leaves_are, within) if hasattr(value, name) else None
        if part is not None and len(tensors) > count:
            attributes[name] = part
    if not held and not attributes:
        if any(isinstance(inner, Tensor) for inner in gc.get_referents(value)):
            raise TypeError(f"the tensors within a {type(value).__name__} cannot be reached: use a dictionary")
        return Constant(_own(value))
    empty = _twin(value, ())
    for name in attributes:
        object.__setattr__(empty, name, None)
    return Object(empty, type(value), items, attributes)


def _own(value: Any) -> Any:
    """A copy of a value that may change; the value itself where it has none."""
    if isinstance(value, _SHARED):
        return value
    try:
        return copy.deepcopy(value)
    except Exception:
        return value


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, dict):
        return dict.items(value)
    return enumerate(value) if isinstance(value, list | tuple) else ()


def _slots(kind: type) -> list[str]:
    """The attributes of the objects of ``kind`` that are not in their ``__dict__``."""
    names = [vars(each).get("__slots__", ()) for each in kind.__mro__ if each.__module__ != "builtins"]
    flat = [name for own in names for name in ((own,) if isinstance(own, str) else own)]
    return [name for name in flat if name not in ("__dict__", "__weakref__")]


def _twin(value: Any, items: Any) -> Any:
    """Another object with the attributes of ``value``, and with ``items`` if it is a container.

    Not by copy.copy: a class may have a copy of its own, that needs what has been taken out.
    """
    kind: Any = type(value)
    if isinstance(value, tuple):
        made: Any = tuple.__new__(kind, items)
    elif isinstance(value, dict):
        made = kind.__new__(kind)
        base = OrderedDict if isinstance(value, OrderedDict) else dict
        for key, item in dict(items).items():
            base.__setitem__(made, key, item)
    elif isinstance(value, list):
        made = kind.__new__(kind)
        list.extend(made, items)
    else:
        made = kind.__new__(kind)
    for name in (*getattr(value, "__dict__", ()), *_slots(kind)):
        if hasattr(value, name):
            object.__setattr__(made, name, getattr(value, name))
    return made


def fits_a_graph(part: Part) -> bool:
    """Whether a graph's output can hold the structure itself."""
    if isinstance(part, Tree):
        return part.spec.type in (tuple, list, dict) and all(fits_a_graph(each) for each in part.parts)
    return isinstance(part, Leaf) or (isinstance(part, Constant) and isinstance(part.value, PLAIN))


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


class Flatten(nn.Module):
    """Everything in a structured argument, as torch flattens it, whose structure must be that of the graph."""

    def __init__(self, spec: pytree.TreeSpec) -> None:
        super().__init__()
        self.spec = spec

    def __deepcopy__(self, memo: dict[int, Any]) -> Flatten:
        return Flatten(self.spec)

    def forward(self, value: Any) -> list[Any]:
        flat, spec = pytree.tree_flatten(value)
        if spec != self.spec:
            raise ValueError("the argument is not of the structure that the graph was captured with")
        return flat
