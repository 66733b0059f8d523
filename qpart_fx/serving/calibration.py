"""This machine as the :class:`~qpart_fx.Server` of requests: ``qpart calibrate-server``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ..errors import RequestError
from ..inputs import example_inputs
from ..message import write_message
from ..model_profile import Profile
from ..request import Device, Link, Request, Server
from .probing import probed
from .tails import ServedTail, SharedWeights

_TAILS = 7
"""That are measured, from the whole model on, each of fewer MACs."""

_SECONDS, _LEAST = 1.0, 15
"""That each is measured for, and at least how often."""

_PAUSE_S = 0.03
"""Between runs."""


@dataclass(frozen=True)
class Measured:
    """The tail behind ``cut``: its MACs, and the ``seconds`` from a message to its answer."""

    cut: tuple[str, ...]
    macs: int
    seconds: float


@dataclass(frozen=True)
class ServerReport:
    """The ``server``, and what it was measured by."""

    server: Server
    tails: tuple[Measured, ...]

    def __str__(self) -> str:
        """A table: tails, their MACs, and the milliseconds measured and made by the fit."""
        each_s = self.server.cycles_per_mac / self.server.clock_hz
        lines = [f"{'tail behind':32}{'MMACs':>10}{'ms':>10}{'as fitted':>12}"]
        lines += [
            f"  {', '.join(tail.cut)[:28]:30}{tail.macs / 1e6:10.1f}{tail.seconds * 1e3:10.3f}"
            f"{tail.macs * each_s * 1e3:12.3f}"
            for tail in self.tails
        ]
        return "\n".join([*lines, f"\n{each_s * 1e9:.4g} nanoseconds for a MAC"])


def calibrate_server(
    profile: Profile, *, threads: int | None = None, clock_hz: float = 1e9, price_per_s: float = 0.0
) -> ServerReport:
    """Measure this machine as it runs tails of a model, alone and one call at a time: some seconds, during which
    nothing else should run. What a MAC takes differs from model to model.

    Args:
        threads: that a tail may use; by default as many as there are cores.
        clock_hz: cycles are those of this clock.
        price_per_s: of the server, for its price in plans.

    Raises:
        RequestError: a number is impossible, or the model has no MACs to measure by.
        ModelError: the model does not run.
    """
    if threads is not None and threads < 1:
        raise RequestError(f"threads = {threads}: give a number above 0, or None for as many as there are cores")
    Server(clock_hz, 1.0, price_per_s)  # refused before anything is measured
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        tails = tuple(_measured(profile, cut) for cut in _chosen(profile))
    finally:
        torch.set_num_threads(before)
    macs = sum(tail.macs for tail in tails)
    if not macs:
        raise RequestError("the model does no multiply-adds that are counted: there is nothing to measure by")
    seconds_a_mac = sum(tail.seconds for tail in tails) / macs
    return ServerReport(Server(clock_hz, seconds_a_mac * clock_hz, price_per_s), tails)


def _chosen(profile: Profile) -> list[tuple[str, ...]]:
    """Cuts of some tails, from the largest to the smallest, about evenly by their MACs."""
    cuts = sorted(profile.closed_cuts, key=lambda cut: -cut.server_macs)
    aims = [cuts[0].server_macs * (1 - place / _TAILS) for place in range(_TAILS)]
    chosen = [min(cuts, key=lambda cut: abs(cut.server_macs - aim)).crossing for aim in aims]
    return list(dict.fromkeys(chosen))


def _measured(profile: Profile, cut: tuple[str, ...]) -> Measured:
    """Behind one cut, from a message of the head to that of the answer."""
    # what is rounded how far changes no time of the tail
    request = Request(1.0, Device(1e9, 1.0), Server(1e9, 1.0), Link(1e9, 1e9))
    split = profile.compile(replace(profile.plan(request, cut=cut), by_cut=()), progress=False)
    tail = ServedTail(probed(split.head, split.tail))
    SharedWeights().share(tail.module)  # which lets them lie in memory as they do in the server
    with torch.inference_mode():
        message = split.pack_activation(split.head(*_inputs(profile, one=tail.batches)))

    def answer() -> bytes:
        (rows,) = tail.run([tail.read(message)])
        if isinstance(rows, Exception):
            raise rows
        return write_message(rows)

    macs = next(each.server_macs for each in profile.closed_cuts if each.crossing == cut)
    return Measured(cut, macs, _seconds(answer))


def _inputs(profile: Profile, one: bool) -> list[Any]:
    """What the model was captured with, random where it takes floats; only ``one`` sample of it, as calls have, where
    samples do not know of each other."""
    draw = torch.Generator().manual_seed(0)

    def varied(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        of_call = value[:1] if one and value.dim() else value
        return torch.randn(of_call.shape, generator=draw).to(value.dtype) if value.is_floating_point() else of_call

    return [varied(value) for value in example_inputs(profile.graph)]


def _seconds(run: Callable[[], object]) -> float:
    """The median of many runs, with pauses between them: calls come now and then, and find the caches cold."""
    run()
    spent: list[float] = []
    start = time.perf_counter()
    while time.perf_counter() - start < _SECONDS or len(spent) < _LEAST:
        time.sleep(_PAUSE_S)
        before = time.perf_counter()
        run()
        spent.append(time.perf_counter() - before)
    return median(spent)
