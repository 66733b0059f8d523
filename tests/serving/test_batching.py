"""The queue before the tails: what runs together, what never runs, and what is refused."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, cast

import pytest

from qpart_fx.memory_layout import MemoryLayout
from qpart_fx.message import Header
from qpart_fx.serving.batching import Batcher
from qpart_fx.serving.load import Load
from qpart_fx.serving.refusal import Refused, invalid
from qpart_fx.serving.tails import Payload, Row, ServedTail


class FakeTail:
    """Answers a call with its number, once it may; remembers what it ran together."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()
        self.go.set()

    def run(self, payloads: Sequence[Payload]) -> list[list[Row] | Refused]:
        self.go.wait(60)
        numbers = [payload.size for payload in payloads]
        self.batches.append(numbers)
        if 13 in numbers:
            raise ZeroDivisionError
        return [invalid("seven") if number == 7 else [row(number)] for number in numbers]


ROW = Header(0, MemoryLayout.contiguous((1,)))


def row(number: int) -> Row:
    return ROW, bytes(number)


def payload(number: int, *, key: tuple[Any, ...] | None = (1,), samples: int = 1) -> Payload:
    return Payload((), (), samples, number, key)


def batching(work: Callable[[Batcher], Coroutine[Any, Any, None]], **changes: Any) -> None:
    """Runs ``work`` with a batcher."""
    settings = {"max_batch": 4, "max_delay_s": 0.0, "max_calls": 100, "max_bytes": 10_000, **changes}

    async def run() -> None:
        batcher = Batcher(Load(), **settings)
        try:
            await work(batcher)
        finally:
            batcher.stop()

    asyncio.run(run())


def call(batcher: Batcher, tail: FakeTail, *given: Payload, deadline: float | None = None) -> list[asyncio.Task[Any]]:
    served = cast(ServedTail, tail)
    return [asyncio.create_task(batcher.run(served, each, deadline)) for each in given]


async def blocked(batcher: Batcher, tail: FakeTail) -> asyncio.Task[Any]:
    """A call that runs until ``tail.go`` is set; what comes now has to wait."""
    tail.go.clear()
    (first,) = call(batcher, tail, payload(99))
    while batcher.waiting or not first_started(batcher):
        await asyncio.sleep(0.001)
    return first


def first_started(batcher: Batcher) -> bool:
    return batcher._running


def test_calls_that_wait_run_together_in_their_order_and_each_gets_its_answer() -> None:
    async def work(batcher: Batcher) -> None:
        tail = FakeTail()
        first = await blocked(batcher, tail)
        calls = call(batcher, tail, *map(payload, range(1, 7)))
        await asyncio.sleep(0)
        tail.go.set()
        assert await first == [row(99)]
        assert await asyncio.gather(*calls) == [[row(number)] for number in range(1, 7)]
        assert tail.batches == [[99], [1, 2, 3, 4], [5, 6]]

    batching(work)


def test_only_what_is_alike_runs_together() -> None:
    async def work(batcher: Batcher) -> None:
        tail, other = FakeTail(), FakeTail()
        await blocked(batcher, tail)
        calls = call(batcher, tail, payload(1), payload(2, key=(2,)), payload(3), payload(4, key=None),
                     payload(5, key=None))  # fmt: skip
        calls += call(batcher, other, payload(6))
        await asyncio.sleep(0)
        tail.go.set()
        await asyncio.gather(*calls)
        assert tail.batches == [[99], [1, 3], [2], [4], [5]]
        assert other.batches == [[6]]

    batching(work)


def test_samples_count_and_a_large_call_runs_alone() -> None:
    async def work(batcher: Batcher) -> None:
        tail = FakeTail()
        await blocked(batcher, tail)
        calls = call(batcher, tail, payload(1, samples=3), payload(2, samples=2), payload(3, samples=9), payload(4))
        await asyncio.sleep(0)
        tail.go.set()
        await asyncio.gather(*calls)
        assert tail.batches == [[99], [1], [2], [3], [4]]

    batching(work)


def test_the_call_that_has_waited_longest_is_next() -> None:
    async def work(batcher: Batcher) -> None:
        tail = FakeTail()
        await blocked(batcher, tail)
        calls = []
        for number, key in ((1, "a"), (2, "b"), (3, "a"), (4, "a"), (5, "a"), (6, "a"), (7, "c")):
            calls += call(batcher, tail, payload(number, key=(key,)))
            await asyncio.sleep(0.001)
        tail.go.set()
        await asyncio.gather(*calls, return_exceptions=True)
        assert tail.batches == [[99], [1, 3, 4, 5], [2], [6], [7]]

    batching(work)


def test_calls_that_nobody_waits_for_never_run() -> None:
    async def work(batcher: Batcher) -> None:
        tail = FakeTail()
        await blocked(batcher, tail)
        (cancelled,) = call(batcher, tail, payload(1))
        (expired,) = call(batcher, tail, payload(2), deadline=asyncio.get_running_loop().time() + 0.01)
        (wanted,) = call(batcher, tail, payload(3), deadline=asyncio.get_running_loop().time() + 60)
        await asyncio.sleep(0.05)
        cancelled.cancel()
        await asyncio.sleep(0)
        tail.go.set()
        assert await wanted == [row(3)]
        with pytest.raises(Refused, match="deadline"):
            await expired
        assert tail.batches == [[99], [3]]

    batching(work)


def test_a_full_queue_refuses_and_takes_again_when_there_is_room() -> None:
    async def work(batcher: Batcher) -> None:
        tail = FakeTail()
        await blocked(batcher, tail)
        calls = call(batcher, tail, *(payload(1) for _ in range(3)))
        (beyond,) = call(batcher, tail, payload(1))
        with pytest.raises(Refused, match="overloaded: 3 calls wait") as caught:
            await beyond
        assert caught.value.retry_after_s is not None
        tail.go.set()
        await asyncio.gather(*calls)
        assert await call(batcher, tail, payload(1))[0] == [row(1)]

    batching(work, max_calls=3)


def test_bytes_that_wait_are_bounded_too() -> None:
    async def work(batcher: Batcher) -> None:
        tail = FakeTail()
        await blocked(batcher, tail)
        calls = call(batcher, tail, payload(600), payload(600))
        with pytest.raises(Refused, match="overloaded"):
            await calls[1]
        tail.go.set()
        await calls[0]

    batching(work, max_bytes=1000)


def test_a_refused_or_failed_call_is_its_own_affair() -> None:
    async def work(batcher: Batcher) -> None:
        tail = FakeTail()
        found = await asyncio.gather(*call(batcher, tail, *map(payload, (6, 7, 8))), return_exceptions=True)
        assert [found[0], found[2]] == [[row(6)], [row(8)]]
        assert isinstance(found[1], Refused)
        with pytest.raises(Refused, match="failed"):
            await call(batcher, tail, payload(13))[0]
        assert await call(batcher, tail, payload(1))[0] == [row(1)]

    batching(work)


def test_a_call_alone_waits_for_nobody_and_many_wait_for_each_other() -> None:
    async def work(batcher: Batcher) -> None:
        tail = FakeTail()
        assert await call(batcher, tail, payload(1))[0] == [row(1)]  # or the test would last an hour
        for _ in range(100):  # calls that come at once
            calls = call(batcher, tail, *map(payload, range(1, 5)))
            await asyncio.sleep(0)
        batcher.hurry()
        await asyncio.gather(*calls)
        assert [1, 2, 3, 4] in tail.batches

    batching(work, max_delay_s=3600.0, max_calls=1000)


def test_a_stop_refuses_what_still_waits() -> None:
    async def work(batcher: Batcher) -> None:
        tail = FakeTail()
        await blocked(batcher, tail)
        (waiting,) = call(batcher, tail, payload(1))
        await asyncio.sleep(0)
        batcher.stop()
        with pytest.raises(Refused, match="stops"):
            await waiting
        tail.go.set()

    batching(work)
