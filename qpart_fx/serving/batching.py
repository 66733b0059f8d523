"""A bounded queue before the thread that runs tails, from which calls that can run together are taken together.

Whenever the thread is free, it takes the calls that can run with the one that has waited longest. A call waits for
others, ``max_delay_s`` at most, only while these come so often that one is to be expected in that time: alone it is run
at once. Many small batches would cost more than their calls, since the thread and the event loop take turns.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from grpc import StatusCode

from .load import Load
from .log import log
from .refusal import Refused, expired, overloaded
from .tails import Payload, Row, ServedTail
from .worker import Worker

_BRIEF_S = 0.001
"""The event loop lets go of the interpreter for so long at most when a batch starts that is likely done by then: else
it and the thread would take it from each other at every operation."""

_GAP_WEIGHT = 0.1
"""Weight of the newest in the mean time between calls."""


@dataclass(slots=True)
class _Call:
    """``since``, ``deadline``: by the clock of the loop; no deadline is None."""

    tail: ServedTail
    payload: Payload
    since: float
    deadline: float | None
    answer: asyncio.Future[list[Row]]


@dataclass(slots=True)
class _Lane:
    """Calls that can run together, in their order."""

    calls: deque[_Call] = field(default_factory=deque)
    samples: int = 0


class Batcher:
    """Takes calls, and runs them as batches.

    Args:
        max_batch: samples of a batch; one call may have more.
        max_delay_s: how long a call may wait for others, though the thread is free.
        max_calls, max_bytes: that may wait; calls beyond are refused.
        ran: told of each batch: its samples and seconds.
    """

    def __init__(
        self,
        load: Load,
        *,
        max_batch: int,
        max_delay_s: float,
        max_calls: int,
        max_bytes: int,
        ran: Callable[[int, float], None] = lambda samples, seconds: None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._worker = Worker()
        self._load, self._ran = load, ran
        self._max_batch, self._max_delay_s = max_batch, max_delay_s
        self._max_calls, self._max_bytes = max_calls, max_bytes
        self._lanes: dict[Any, _Lane] = {}  # none is empty
        self._calls = self._bytes = 0
        self._running = False
        self._seconds_a_call = self._seconds_a_batch = 0.0  # moving means
        self._gap_s, self._last = 2 * max_delay_s, 0.0  # between calls: a moving mean, and when the last one came
        self._timer: asyncio.TimerHandle | None = None
        self._due = False

    @property
    def waiting(self) -> int:
        """Calls that do not run yet."""
        return self._calls

    async def run(self, tail: ServedTail, payload: Payload, deadline: float | None) -> list[Row]:
        """The values of the model's output for one call.

        Args:
            deadline: by the clock of the loop; the call does not run after it.

        Raises:
            Refused: there is no room, the deadline has passed, or the tail does not take the values.
        """
        if self._calls >= self._max_calls or self._bytes + payload.size > self._max_bytes:
            raise overloaded(f"{self._calls} calls wait", max(self._calls * self._seconds_a_call, 0.001))
        answer: asyncio.Future[list[Row]] = self._loop.create_future()
        key = (id(tail), payload.key) if payload.key is not None else object()
        lane = self._lanes.setdefault(key, _Lane())
        now = self._loop.time()
        self._gap_s += _GAP_WEIGHT * (min(now - self._last, 2 * self._max_delay_s) - self._gap_s)
        self._last = now
        lane.calls.append(_Call(tail, payload, now, deadline, answer))
        lane.samples += payload.samples
        self._count(1, payload.size)
        if self._timer is None or lane.samples >= self._max_batch or payload.key is None:
            self._kick()
        return await answer

    def hurry(self) -> None:
        """No call waits for others any more."""
        self._max_delay_s = 0.0
        self._kick()

    def stop(self) -> None:
        """Let the thread end; calls that still wait are refused."""
        for lane in self._lanes.values():
            for call in lane.calls:
                _refuse(call, Refused(StatusCode.UNAVAILABLE, "the server stops"))
        self._lanes.clear()
        self._worker.stop()

    def _kick(self) -> None:
        """Look for work once the loop has read what has arrived: calls that arrive together then run together."""
        if not self._due and not self._running:
            self._due = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._due = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while not self._running and self._lanes:
            key, lane = min(self._lanes.items(), key=lambda item: item[1].calls[0].since)
            wait = self._wait(lane)
            if wait > 0:
                full = next((item for item in self._lanes.items() if item[1].samples >= self._max_batch), None)
                if full is None:
                    self._timer = self._loop.call_later(wait, self._kick)
                    return
                key, lane = full
            batch = self._taken(lane)
            if not lane.calls:
                del self._lanes[key]
            if batch:
                self._start(batch)

    def _wait(self, lane: _Lane) -> float:
        """How long the first call of a lane should wait for others, in seconds."""
        first = lane.calls[0]
        if self._gap_s >= self._max_delay_s or first.payload.key is None or lane.samples >= self._max_batch:
            return 0.0
        return first.since + self._max_delay_s - self._loop.time()

    def _taken(self, lane: _Lane) -> list[_Call]:
        """The first calls of a lane that are still waited for."""
        batch: list[_Call] = []
        samples, now = 0, self._loop.time()
        while lane.calls:
            call = lane.calls[0]
            if batch and samples + call.payload.samples > self._max_batch:
                break
            lane.calls.popleft()
            lane.samples -= call.payload.samples
            self._count(-1, -call.payload.size)
            if call.answer.done():  # nobody waits any more
                continue
            if call.deadline is not None and call.deadline <= now:
                _refuse(call, expired())
                continue
            batch.append(call)
            samples += call.payload.samples
        return batch

    def _count(self, calls: int, size: int) -> None:
        self._calls += calls
        self._bytes += size
        self._load.waiting(self._calls / self._max_calls)

    def _start(self, batch: list[_Call]) -> None:
        self._running = True
        tail, payloads = batch[0].tail, [call.payload for call in batch]
        ended = threading.Event()

        def job() -> tuple[Sequence[list[Row] | Refused], float]:
            start = time.perf_counter()
            try:
                found: Sequence[list[Row] | Refused] = tail.run(payloads)
            except Exception:
                log("error", "tail failed", trace=True)
                found = [Refused(StatusCode.INTERNAL, "the tail failed: see the server's log")] * len(payloads)
            ended.set()
            return found, time.perf_counter() - start

        self._worker.submit(job, lambda done: self._finish(batch, *done))
        if self._seconds_a_batch < _BRIEF_S:
            ended.wait(_BRIEF_S)

    def _finish(self, batch: list[_Call], found: Sequence[list[Row] | Refused], seconds: float) -> None:
        self._running = False
        self._load.ran(seconds)
        self._seconds_a_batch += 0.1 * (seconds - self._seconds_a_batch)
        self._seconds_a_call += 0.1 * (seconds / len(batch) - self._seconds_a_call)
        self._ran(sum(call.payload.samples for call in batch), seconds)
        for call, rows in zip(batch, found, strict=True):
            if isinstance(rows, Refused):
                _refuse(call, rows)
            elif not call.answer.done():
                call.answer.set_result(rows)
        self._kick()


def _refuse(call: _Call, why: Refused) -> None:
    if not call.answer.done():
        call.answer.set_exception(why)
