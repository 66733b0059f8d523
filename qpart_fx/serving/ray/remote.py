"""Planners and tails that are replicas of Ray Serve: whoever is lost, another one is asked in its place."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from grpc import StatusCode

from ..kept import Recent
from ..log import log
from ..planner import RETRY_S, Planner, Signature
from ..records import Record
from ..refusal import Refused, expired, overloaded
from ..runner import Given, Runner
from ..tails import Row

_TRIES = 5
"""Replicas that may be lost over one call."""

_BUSY_RETRY_S = 0.1

_MOST_SIGNATURES = 10_000
"""Kept by a front."""


async def asked(method: Any, *arguments: Any, left_s: float | None = None) -> Any:
    """What a replica returns. If it is lost another one is asked: nothing that is asked here changes anything.

    Args:
        method: of a handle.
        left_s: seconds that it may take; None for any time.

    Raises:
        Refused: there is none, it refused, or it took too long.
    """
    from ray.exceptions import RayError, RayTaskError
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

    async def once() -> Any:
        return await method.remote(*arguments)

    try:
        async with asyncio.timeout(left_s):
            for _ in range(_TRIES):
                try:
                    found = await once()
                except RayTaskError:  # a mistake of ours, which another one would make too
                    raise
                except BackPressureError:
                    raise overloaded("all replicas have calls enough", _BUSY_RETRY_S) from None
                except DeploymentUnavailableError as error:
                    raise Refused(StatusCode.UNAVAILABLE, str(error)[:300], retry_after_s=RETRY_S) from None
                except RayError as error:
                    log("warning", "replica lost", reason=f"{type(error).__name__}: {error}")
                    continue
                if isinstance(found, Refused):
                    raise found
                return found
    except TimeoutError:
        raise expired() from None
    raise Refused(StatusCode.UNAVAILABLE, f"{_TRIES} replicas were lost over it", retry_after_s=RETRY_S)


class RemotePlanner(Planner):
    """Replicas that plan.

    Args:
        handle: of their deployment.
        most_waiting: jobs that may wait for them, of those that are given here.
    """

    def __init__(self, handle: Any, most_waiting: int) -> None:
        super().__init__(most_waiting)
        self._handle = handle

    def stop(self) -> None:
        """They are others' as well."""

    async def _done(self, work: str, arguments: tuple[Any, ...]) -> Any:
        return await asked(self._handle.do, work, arguments)


class RemoteRunner(Runner):
    """Replicas that run tails.

    Args:
        handle: of their deployment.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._waiting = 0
        self._signatures: Recent[tuple[str, str], Signature] = Recent(_MOST_SIGNATURES)

    async def signature(self, record: Record) -> Signature:
        key = record.plan_id, record.model.hash
        found = self._signatures.get(key)
        if found is None:
            found = await asked(self._handle.signature, record)
            self._signatures.put(key, found, 1)
        return found

    async def run(self, record: Record, given: Given, deadline: float | None) -> Sequence[Row]:
        left_s = None if deadline is None else deadline - asyncio.get_running_loop().time()
        self._waiting += 1
        try:
            rows: Sequence[Row] = await asked(self._handle.run, record, given, left_s, left_s=left_s)
        finally:
            self._waiting -= 1
        return rows

    @property
    def waiting(self) -> int:
        return self._waiting

    def hurry(self) -> None:
        """They do not wait for this front's calls alone."""

    def stop(self) -> None:
        """They are others' as well."""
