"""A planner as a process of its own beside the server."""

from __future__ import annotations

import asyncio
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from grpc import StatusCode

from . import planner_work
from .log import log
from .planner import RETRY_S, Planner
from .refusal import Refused

_PATIENCE_S = 2.0


class PlannerProcess(Planner):
    """One process, and a new one in its place when it dies.

    Args:
        memory_bytes: of the files of the profiles that it keeps.
        most_waiting: jobs that may wait for it.
    """

    def __init__(self, memory_bytes: int, most_waiting: int) -> None:
        super().__init__(most_waiting)
        self._memory_bytes = memory_bytes
        self._pool = self._started()

    def stop(self) -> None:
        """End the process, after :data:`_PATIENCE_S` whatever it is at."""
        processes = list((getattr(self._pool, "_processes", None) or {}).values())
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.join(_PATIENCE_S)
            process.kill()
        self._pool.shutdown()

    async def _done(self, work: str, arguments: tuple[Any, ...]) -> Any:
        for _ in range(2):
            pool = self._pool
            try:
                found = getattr(planner_work, work)
                return await asyncio.get_running_loop().run_in_executor(pool, planner_work.guarded, found, arguments)
            except (BrokenProcessPool, OSError) as error:
                log("error", "planner died", reason=str(error))
                if pool is self._pool:
                    self._pool = self._started()
        raise Refused(StatusCode.UNAVAILABLE, "the planner died over it, twice", retry_after_s=RETRY_S)

    def _started(self) -> ProcessPoolExecutor:
        fresh = multiprocessing.get_context("spawn")  # threads of gRPC and torch do not survive a fork
        return ProcessPoolExecutor(1, fresh, initializer=planner_work.begin, initargs=(self._memory_bytes,))
