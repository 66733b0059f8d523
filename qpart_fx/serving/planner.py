"""What is made of profiles: plans, heads and tails as bytes, in a process of its own.

Making a head takes torch.onnx and seconds; it traces, which replaces functions of torch for all threads. So none of it
happens where tails run, and a model that takes the process down with it takes no inference along.

What goes between the two processes, made by ourselves at both ends, are numbers, texts and bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from grpc import StatusCode

from ..errors import ArtifactError, InfeasibleError, InternalError, QPartError
from .log import log
from .refusal import Refused, overloaded

if TYPE_CHECKING:
    from ..model_profile import Profile
    from .catalog import Model

T = TypeVar("T")

_RETRY_S = 1.0

_PATIENCE_S = 2.0


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
class Tail:
    """The float half of a plan. ``content``: its file; ``takes``, ``gives``: the values that go in and come out, in
    their order; ``outputs``: how the model's output is made of these
    (:func:`qpart_fx.serving_protocol.build_outputs`). ``batches``: whether samples along the first dimension do not
    know of each other, as it was seen."""

    content: bytes
    takes: tuple[Value, ...]
    gives: tuple[Value, ...]
    outputs: dict[str, Any]
    batches: bool
    alone: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class _Failure:
    """What is raised on the other side: exceptions do not all survive the way."""

    words: str
    limit: str | None = None
    ours: bool = False


class Planner:
    """The other process, and the bounded queue before it.

    Args:
        memory_bytes: of the files of the profiles that it keeps.
        most_waiting: jobs that may wait for it.
    """

    def __init__(self, memory_bytes: int, most_waiting: int) -> None:
        self._memory_bytes, self._most_waiting = memory_bytes, most_waiting
        self._waiting = 0
        self._pool = self._started()

    @property
    def waiting(self) -> int:
        """Jobs that are not done."""
        return self._waiting

    async def warm_up(self) -> None:
        """Returns when the process can plan."""
        await self._run(_nothing)

    async def plan(self, model: Model, request: str, held: str | None) -> str:
        """The best plan, as JSON without ``by_cut``, for a request as JSON.

        Args:
            held: the plan of the head that the device has, as JSON.
        """
        return await self._run(_plan, str(model.path), model.hash, request, held)

    async def head(self, model: Model, plan: str) -> bytes:
        """The head's file of a plan, for a device without torch."""
        return await self._run(_head, str(model.path), model.hash, plan)

    async def tail(self, model: Model, plan: str | None) -> Tail:
        """The tail of a plan; of None, the whole float model."""
        return await self._run(_tail, str(model.path), model.hash, plan)

    async def update(self, held: bytes, head: bytes) -> bytes:
        """What makes ``head`` of ``held``."""
        return await self._run(_update, held, head)

    def stop(self) -> None:
        """End the process, after :data:`_PATIENCE_S` whatever it is at."""
        processes = list((getattr(self._pool, "_processes", None) or {}).values())
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.join(_PATIENCE_S)
            process.kill()
        self._pool.shutdown()

    async def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Raises:
        Refused: it cannot be done, or not now.
        """
        if self._waiting >= self._most_waiting:
            raise overloaded(f"{self._waiting} plans are waited for", _RETRY_S)
        self._waiting += 1
        try:
            found = await self._tried(work, arguments)
        finally:
            self._waiting -= 1
        if isinstance(found, _Failure):
            if found.ours:
                raise Refused(StatusCode.INTERNAL, found.words)
            if found.limit is not None:
                raise Refused(StatusCode.FAILED_PRECONDITION, found.words, limit=found.limit)
            raise Refused(StatusCode.INVALID_ARGUMENT, found.words)
        return found

    async def _tried(self, work: Callable[..., T], arguments: tuple[Any, ...]) -> T | _Failure:
        for _ in range(2):
            pool = self._pool
            try:
                return await asyncio.get_running_loop().run_in_executor(pool, _guarded, work, arguments)
            except (BrokenProcessPool, OSError) as error:
                log("error", "planner died", reason=str(error))
                if pool is self._pool:
                    self._pool = self._started()
        raise Refused(StatusCode.UNAVAILABLE, "the planner died over it, twice", retry_after_s=_RETRY_S)

    def _started(self) -> ProcessPoolExecutor:
        fresh = multiprocessing.get_context("spawn")  # threads of gRPC and torch do not survive a fork
        return ProcessPoolExecutor(1, fresh, initializer=_begin, initargs=(self._memory_bytes,))


# From here on: in the other process.

_profiles: OrderedDict[str, tuple[int, Profile]] = OrderedDict()
_memory_bytes = 0


def _begin(memory_bytes: int) -> None:
    global _memory_bytes
    _memory_bytes = memory_bytes
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the server decides when to stop
    threading.Thread(target=_end_with_the_server, daemon=True).start()
    os.nice(5)  # tails come first
    import torch

    torch.set_num_threads(1)
    import qpart_fx.backends.onnx_head
    import qpart_fx.files
    import qpart_fx.onnx_quantizers  # noqa: F401


def _end_with_the_server() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _guarded(work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return work(*arguments)
    except InfeasibleError as error:
        return _Failure(str(error), limit=error.limit)
    except QPartError as error:
        return _Failure(str(error), ours=isinstance(error, InternalError | ArtifactError))
    except MemoryError:
        return _Failure("there is not memory enough for it", ours=True)
    except Exception as error:
        return _Failure(f"{type(error).__name__}: {error}"[:500], ours=True)


def _nothing() -> None:
    pass


def _profile(path: str, hash_: str) -> Profile:
    """That of a file, kept while there is room; the last one in any case."""
    from ..files import load_bytes
    from ..model_profile import Profile

    if hash_ not in _profiles:
        content = Path(path).read_bytes()
        if hashlib.sha256(content).hexdigest() != hash_:
            raise ArtifactError("the model's file is being replaced: try again")
        profile = load_bytes(content)
        if not isinstance(profile, Profile):
            raise ArtifactError("the model's file is no profile")
        _profiles[hash_] = len(content), profile
        while len(_profiles) > 1 and sum(size for size, _ in _profiles.values()) > _memory_bytes:
            _profiles.popitem(last=False)
    _profiles.move_to_end(hash_)
    return _profiles[hash_][1]


def _plan(path: str, hash_: str, request: str, held: str | None) -> str:
    from ..plan import Plan
    from ..request import Request

    asked = Request.from_json(request)
    if held is not None:
        asked = replace(asked, device_holds=Plan.from_json(held))
    return json.dumps(json.loads(replace(_profile(path, hash_).plan(asked), by_cut=()).to_json()))


def _head(path: str, hash_: str, plan: str) -> bytes:
    from ..plan import Plan

    return _profile(path, hash_).compile(Plan.from_json(plan), progress=False).packed_head("onnx")


def _tail(path: str, hash_: str, plan: str | None) -> Tail:
    from ..plan import Plan
    from .probing import probed

    profile = _profile(path, hash_)
    if plan is None:
        return probed(None, profile.graph)
    split = profile.compile(Plan.from_json(plan), progress=False)
    return probed(split.head, split.tail)


def _update(held: bytes, head: bytes) -> bytes:
    from ..head_update import make_update

    return make_update(held, head)
