"""What is made of profiles: plans, heads and tails as bytes, elsewhere than where tails run.

Making a head takes torch.onnx and seconds; it traces, which replaces functions of torch for all threads. So none of it
happens where tails run, and a model that takes the process down with it takes no inference along.

What goes between the two processes, made by ourselves at both ends, are numbers, texts and bytes. The other end:
:mod:`.planner_work`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grpc import StatusCode

from .refusal import Refused, overloaded

if TYPE_CHECKING:
    from .catalog import Model

RETRY_S = 1.0
"""When it may be worth to ask a planner again that is busy, or has died."""


@dataclass(frozen=True, slots=True)
class Grid:
    """What a value that crosses is rounded to."""

    bits: int
    step: float
    zero_point: int


@dataclass(frozen=True, slots=True)
class Value:
    """One that a tail takes or gives: of one sample, where it is a tensor. ``number``: the one that it was, for one
    that is no tensor."""

    name: str
    dtype: str | None
    shape: tuple[int, ...]
    grid: Grid | None = None
    number: float | None = None


@dataclass(frozen=True, slots=True)
class Signature:
    """What a tail does with values. ``takes``, ``gives``: those that go in and come out, in their order; ``outputs``:
    how the model's output is made of these (:func:`qpart_fx.serving_protocol.build_outputs`). ``batches``: whether
    samples along the first dimension do not know of each other, as it was seen. ``alone``: where it does nothing, which
    of the values that it takes those are that it gives; else None."""

    takes: tuple[Value, ...]
    gives: tuple[Value, ...]
    outputs: dict[str, Any]
    batches: bool
    alone: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Tail:
    """The float half of a plan. ``content``: its file."""

    content: bytes
    signature: Signature


@dataclass(frozen=True, slots=True)
class Failure:
    """What is raised on the other side: exceptions do not all survive the way."""

    words: str
    limit: str | None = None
    ours: bool = False


class Planner(ABC):
    """Who plans, and the bounded queue before it.

    Args:
        most_waiting: jobs that may wait.
    """

    def __init__(self, most_waiting: int) -> None:
        self._most_waiting = most_waiting
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """Jobs that are not done."""
        return self._waiting

    async def warm_up(self) -> None:
        """Returns when there is someone who plans."""
        await self._run("nothing")

    async def plan(self, model: Model, request: str, held: str | None) -> str:
        """The best plan, as JSON without ``by_cut``, for a request as JSON.

        Args:
            held: the plan of the head that the device has, as JSON.
        """
        made: str = await self._run("plan", str(model.path), model.hash, request, held)
        return made

    async def head(self, model: Model, plan: str) -> bytes:
        """The head's file of a plan, for a device without torch."""
        made: bytes = await self._run("head", str(model.path), model.hash, plan)
        return made

    async def tail(self, model: Model, plan: str | None) -> Tail:
        """The tail of a plan; of None, the whole float model."""
        made: Tail = await self._run("tail", str(model.path), model.hash, plan)
        return made

    async def update(self, held: bytes, head: bytes) -> bytes:
        """What makes ``head`` of ``held``."""
        made: bytes = await self._run("update", held, head)
        return made

    @abstractmethod
    def stop(self) -> None:
        """Plan no more."""

    @abstractmethod
    async def _done(self, work: str, arguments: tuple[Any, ...]) -> Any:
        """What the function of this name of :mod:`.planner_work` returned, or a :class:`Failure`.

        Raises:
            Refused: it cannot be done now.
        """

    async def _run(self, work: str, *arguments: Any) -> Any:
        """Raises:
        Refused: it cannot be done, or not now.
        """
        if self._waiting >= self._most_waiting:
            raise overloaded(f"{self._waiting} plans are waited for", RETRY_S)
        self._waiting += 1
        try:
            found = await self._done(work, arguments)
        finally:
            self._waiting -= 1
        if isinstance(found, Failure):
            if found.ours:
                raise Refused(StatusCode.INTERNAL, found.words)
            if found.limit is not None:
                raise Refused(StatusCode.FAILED_PRECONDITION, found.words, limit=found.limit)
            raise Refused(StatusCode.INVALID_ARGUMENT, found.words)
        return found
