"""Who calls: as fast as answers come, or at a rate of one's own."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

import grpc

from qpart_fx.serving_protocol import CALL, INFER_METHOD, PLAN


@dataclass(frozen=True)
class Target:
    """A server: its process, port, and the plan that it knows."""

    pid: int
    port: int
    plan: str

    @property
    def processor_s(self) -> float:
        """That its process has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100


@dataclass(frozen=True)
class Closed:
    """``per_s``: calls answered; ``processor_s``: of the server, for each."""

    per_s: float
    processor_s: float


async def closed_loop(target: Target, message: bytes, *, callers: int, seconds: float) -> Closed:
    """So many callers, each of which calls again when it has its answer."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{target.port}") as channel:
        infer = channel.unary_unary(INFER_METHOD)
        end = time.perf_counter() + 0.5
        count = 0

        async def call_again() -> None:
            nonlocal count
            while time.perf_counter() < end:
                await infer(message, metadata=((PLAN, target.plan), (CALL, "0123456789abcdef")))
                count += 1

        await asyncio.gather(*(call_again() for _ in range(callers)))  # warm
        used, start, count = target.processor_s, time.perf_counter(), 0
        end = start + seconds
        await asyncio.gather(*(call_again() for _ in range(callers)))
        took = time.perf_counter() - start
        return Closed(count / took, (target.processor_s - used) / count)


async def open_loop(target: Target, message: bytes, *, per_s: float, seconds: float, seed: int) -> list[float]:
    """Calls at random times, ``per_s`` of them a second, whether others are answered or not: how long each took, from
    when it was due, in seconds; infinite for one that was refused."""
    random, took = Random(seed), []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{target.port}") as channel:
        infer = channel.unary_unary(INFER_METHOD)

        async def call(due: float) -> None:
            try:
                await infer(message, metadata=((PLAN, target.plan), (CALL, "0123456789abcdef")))
            except grpc.aio.AioRpcError:
                took.append(math.inf)
            else:
                took.append(time.perf_counter() - due)

        start = due = time.perf_counter()
        calls = []
        while due < start + seconds:
            due += random.expovariate(per_s)
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            calls.append(asyncio.create_task(call(due)))
        await asyncio.gather(*calls)
    return took
