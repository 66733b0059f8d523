"""A mapping that cannot change, and so can be a part of what is hashed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class FrozenMapping(Mapping[K, V]):
    """As hashable as its keys and values; equal to any mapping with the same."""

    def __init__(self, items: Mapping[K, V]) -> None:
        self._items = dict(items)
        self._hash = hash(tuple(self._items.items()))

    def __getitem__(self, key: K) -> V:
        return self._items[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return repr(self._items)
