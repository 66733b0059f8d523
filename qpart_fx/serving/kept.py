"""What is kept while there is room, and what is made once though several wait for it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Recent(Generic[K, T]):
    """The values used last, of ``most_bytes`` together."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._items: OrderedDict[K, tuple[T, int]] = OrderedDict()
        self._bytes = 0

    def get(self, key: K) -> T | None:
        """None if it is not there."""
        found = self._items.get(key)
        if found is None:
            return None
        self._items.move_to_end(key)
        return found[0]

    def put(self, key: K, value: T, size: int) -> None:
        """``size``: about its bytes."""
        _, before = self._items.pop(key, (None, 0))
        self._items[key] = value, size
        self._bytes += size - before
        while self._bytes > self._most_bytes and len(self._items) > 1:
            _, (_, gone) = self._items.popitem(last=False)
            self._bytes -= gone


class Kept:
    """Heads, updates and tails, those used last, within a limit of memory. What several hold is counted once."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._items: OrderedDict[Hashable, tuple[Any, Mapping[int, int]]] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: Hashable) -> Any:
        """None if it is not there."""
        if (found := self._items.get(key)) is None:
            return None
        self._items.move_to_end(key)
        return found[0]

    def put(self, key: Hashable, value: Any, parts: Mapping[int, int]) -> None:
        """``parts``: bytes of what it holds, by something that tells them apart."""
        self._items[key] = value, parts
        self._items.move_to_end(key)
        self._measure()
        while self.bytes > self._most_bytes and len(self._items) > 1:
            self._items.popitem(last=False)
            self._measure()

    @property
    def parts(self) -> set[int]:
        """All that is held."""
        return {part for _, parts in self._items.values() for part in parts}

    def _measure(self) -> None:
        together: dict[int, int] = {}
        for _, parts in self._items.values():
            together.update(parts)
        self.bytes = sum(together.values())


class Once(Generic[T]):
    """What is made at the moment, by key: who asks for the same waits for the same."""

    def __init__(self) -> None:
        self._tasks: dict[Hashable, asyncio.Task[T]] = {}

    async def get(self, key: Hashable, make: Callable[[], Awaitable[T]]) -> T:
        """What ``make`` returns. It goes on if the caller does not wait any longer: others may."""
        task = self._tasks.get(key)
        if task is None:

            async def made() -> T:
                return await make()

            task = self._tasks[key] = asyncio.create_task(made())
            task.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(task)

    def _forget(self, key: Hashable, done: asyncio.Task[T]) -> None:
        del self._tasks[key]
        if not done.cancelled():
            done.exception()  # whoever asked has it, or has gone
