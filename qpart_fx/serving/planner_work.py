"""What is done where plans, heads and tails are made; the functions are called by name, in a process of their own."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArtifactError, InfeasibleError, InternalError, QPartError
from .planner import Failure, Tail

if TYPE_CHECKING:
    from ..model_profile import Profile

_profiles: OrderedDict[str, tuple[int, Profile]] = OrderedDict()
_memory_bytes = 0


def begin(memory_bytes: int) -> None:
    """Make the process one that plans, and ends when the server does that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the server decides when to stop
    threading.Thread(target=_end_with_the_server, daemon=True).start()
    prepare(memory_bytes)


def prepare(memory_bytes: int) -> None:
    """Make the process one that plans, and keeps so many bytes of profiles."""
    global _memory_bytes
    _memory_bytes = memory_bytes
    os.nice(5)  # tails come first
    import torch

    torch.set_num_threads(1)
    import qpart_fx.backends.onnx_head
    import qpart_fx.files
    import qpart_fx.onnx_quantizers  # noqa: F401  # now, and not while the first device waits for its head


def _end_with_the_server() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def guarded(work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """What ``work`` returns, or the :class:`Failure` that it ended in."""
    try:
        return work(*arguments)
    except InfeasibleError as error:
        return Failure(str(error), limit=error.limit)
    except QPartError as error:
        return Failure(str(error), ours=isinstance(error, InternalError | ArtifactError))
    except MemoryError:
        return Failure("there is not memory enough for it", ours=True)
    except Exception as error:
        return Failure(f"{type(error).__name__}: {error}"[:500], ours=True)


def nothing() -> None:
    """To see whether there is someone who plans."""


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


def plan(path: str, hash_: str, request: str, held: str | None) -> str:
    """See :meth:`.planner.Planner.plan`."""
    from ..plan import Plan
    from ..request import Request

    asked = Request.from_json(request)
    if held is not None:
        asked = replace(asked, device_holds=Plan.from_json(held))
    return json.dumps(json.loads(replace(_profile(path, hash_).plan(asked), by_cut=()).to_json()))


def head(path: str, hash_: str, plan: str) -> bytes:
    """See :meth:`.planner.Planner.head`."""
    from ..plan import Plan

    return _profile(path, hash_).compile(Plan.from_json(plan), progress=False).packed_head("onnx")


def tail(path: str, hash_: str, plan: str | None) -> Tail:
    """See :meth:`.planner.Planner.tail`."""
    from ..plan import Plan
    from .probing import probed

    profile = _profile(path, hash_)
    if plan is None:
        return probed(None, profile.graph)
    split = profile.compile(Plan.from_json(plan), progress=False)
    return probed(split.head, split.tail)


def update(held: bytes, head: bytes) -> bytes:
    """See :meth:`.planner.Planner.update`."""
    from ..head_update import make_update

    return make_update(held, head)
