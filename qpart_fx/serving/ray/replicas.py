"""What each replica is: a front, some tails, or a planner. They are ordinary classes, which Ray Serve makes and calls;
it awaits what they begin and end with."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from .. import planner_work
from ..kept import Kept
from ..load import Load
from ..log import start_logging
from ..planner import Signature
from ..records import Record
from ..refusal import Refused
from ..runner import Given, local_runner
from ..server import MOST_PLANS_WAITING, Server
from ..settings import Settings
from ..tails import Row
from .remote import RemotePlanner, RemoteRunner


class PlannerReplica:
    """Does one job after the other, in a thread: the replica is a process of its own, and answers meanwhile."""

    def __init__(self, settings: Settings) -> None:
        start_logging(settings.log_level)
        planner_work.prepare(settings.profile_bytes)
        self._thread = ThreadPoolExecutor(1)

    async def do(self, work: str, arguments: tuple[Any, ...]) -> Any:
        """What the function of this name returned, or a :class:`~qpart_fx.serving.planner.Failure`."""
        found = getattr(planner_work, work)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, planner_work.guarded, found, arguments)


class TailsReplica:
    """Runs tails, with a queue and batches of its own. What is refused is returned: exceptions do not survive the way.

    Args:
        planner: the handle of who makes them.
    """

    async def __init__(self, settings: Settings, planner: Any) -> None:  # type: ignore[misc]  # it is awaited
        start_logging(settings.log_level)
        torch.set_num_threads(settings.threads or 1)
        remote, kept = RemotePlanner(planner, MOST_PLANS_WAITING), Kept(settings.memory_bytes)
        self._runner = local_runner(settings, remote, kept, Load(), lambda samples, seconds: None)

    async def signature(self, record: Record) -> Signature | Refused:
        """As :meth:`qpart_fx.serving.runner.Runner.signature`."""
        try:
            return await self._runner.signature(record)
        except Refused as why:
            return why

    async def run(self, record: Record, given: Given, left_s: float | None) -> Sequence[Row] | Refused:
        """As :meth:`qpart_fx.serving.runner.Runner.run`, with seconds that are left: clocks differ."""
        deadline = None if left_s is None else asyncio.get_running_loop().time() + left_s
        try:
            rows = await self._runner.run(record, given, deadline)
        except Refused as why:
            return why
        return [(header, bytes(piece)) for header, piece in rows]

    async def __del__(self) -> None:
        """Ray Serve calls it when the replica is to end, and its calls have."""
        self._runner.stop()


class FrontReplica:
    """Listens while it lives; others of the machine may listen at the same port.

    Args:
        planner, tails: the handles of who plans, and who runs tails.
    """

    async def __init__(self, settings: Settings, planner: Any, tails: Any) -> None:  # type: ignore[misc]  # it is awaited
        start_logging(settings.log_level)
        remote = RemotePlanner(planner, MOST_PLANS_WAITING)
        self._server = Server(settings, planner=remote, runner=RemoteRunner(tails), shares_port=True)
        await self._server.start()

    async def port(self) -> int:
        """Where it listens."""
        return self._server.port

    async def __del__(self) -> None:
        """Ray Serve calls it when the replica is to end: what was taken is finished."""
        await self._server.stop()
