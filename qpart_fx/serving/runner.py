"""Who runs tails: this process, or others that it asks (:mod:`.ray`)."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from grpc import StatusCode

from ..errors import ArtifactError
from .batching import Batcher
from .kept import Kept, Once
from .load import Load
from .planner import Planner, Signature, Tail
from .records import Record
from .refusal import Refused
from .settings import Settings
from .tails import Row, ServedTail, SharedWeights

Given = bytes | Sequence[Row]
"""What a tail is called with: a message of the head, or its values one by one."""


class Runner(ABC):
    """Runs the tails of plans."""

    @abstractmethod
    async def signature(self, record: Record) -> Signature:
        """What the tail of a plan takes and gives. It can then run.

        Raises:
            Refused: it cannot be made.
        """

    @abstractmethod
    async def run(self, record: Record, given: Given, deadline: float | None) -> Sequence[Row]:
        """The values of the model's output.

        Args:
            deadline: by the clock of the loop; the call does not run after it.

        Raises:
            Refused: the tail cannot be made or does not take the values, there is no room, or it is too late.
        """

    @property
    @abstractmethod
    def waiting(self) -> int:
        """Calls that do not run yet."""

    @abstractmethod
    def hurry(self) -> None:
        """No call waits for others any more."""

    @abstractmethod
    def stop(self) -> None:
        """Calls that still wait are refused."""


def local_runner(
    settings: Settings, planner: Planner, kept: Kept, load: Load, ran: Callable[[int, float], None]
) -> LocalRunner:
    """One with a queue before it.

    Args:
        ran: told of each batch: its samples and seconds.
    """
    batcher = Batcher(
        load, max_batch=settings.max_batch, max_delay_s=settings.max_delay_ms / 1000, max_calls=settings.queue,
        max_bytes=settings.queue_bytes, ran=ran,
    )  # fmt: skip
    return LocalRunner(planner, kept, batcher)


class LocalRunner(Runner):
    """Tails that run here, made by ``planner`` when they are first asked for, and ``kept`` while there is room."""

    def __init__(self, planner: Planner, kept: Kept, batcher: Batcher) -> None:
        self._planner, self._kept, self._batcher = planner, kept, batcher
        self._weights = SharedWeights()
        self._once: Once[ServedTail] = Once()
        self._sharing = asyncio.Lock()

    async def signature(self, record: Record) -> Signature:
        return (self._ready(record) or await self._tail(record)).signature

    async def run(self, record: Record, given: Given, deadline: float | None) -> Sequence[Row]:
        tail = self._ready(record) or await self._tail(record)
        payload = tail.read(given) if isinstance(given, bytes) else tail.given(given)
        return await self._batcher.run(tail, payload, deadline)

    @property
    def waiting(self) -> int:
        return self._batcher.waiting

    def hurry(self) -> None:
        self._batcher.hurry()

    def stop(self) -> None:
        self._batcher.stop()

    def _ready(self, record: Record) -> ServedTail | None:
        """The tail of a plan, if it is in memory."""
        found: ServedTail | None = self._kept.get(("tail", record.plan_id, record.model.hash))
        return found

    async def _tail(self, record: Record) -> ServedTail:
        key = "tail", record.plan_id, record.model.hash
        return await self._once.get(key, lambda: self._made(key, record))

    async def _made(self, key: Any, record: Record) -> ServedTail:
        tail = await self._planner.tail(record.model, record.plan)
        async with self._sharing:
            made, sizes = await asyncio.to_thread(self._loaded, tail)
            self._kept.put(key, made, sizes)
            self._weights.keep(self._kept.parts)
        return made

    def _loaded(self, tail: Tail) -> tuple[ServedTail, dict[int, int]]:
        try:
            made = ServedTail(tail)
        except ArtifactError as error:
            raise Refused(StatusCode.INTERNAL, str(error)) from error
        return made, self._weights.share(made.module)
