"""Cycles of this machine for each kind of operator, measured: ``qpart calibrate-device``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ..message import write_message
from ..node_work import KINDS, NodeWork, OperatorCycles, Operators
from .arrays import Rounded, rounded
from .runtime import session_options
from .suite import INPUT, Case, cases, networks, total

Floats = NDArray[np.float64]

_TIMES = 2, 12
"""Blocks of two networks that are run in turns: what the further ones take is what a block takes."""

_SECONDS = 0.25
"""That a case is measured for, about."""

_LEAST = 7
"""Runs of each network, at least."""

_PAUSE_S = 0.03
"""Between runs of whole networks: they are then as cold as those of a device that waits for its answers meanwhile."""

_USUAL, _REWEIGHTED = 0.1, 10
"""The share by which a block is off as a rule, and how often those that are off by more are given less weight."""

_COUNTS = len(fields(OperatorCycles))


@dataclass(frozen=True)
class Measured:
    """A case: the ``seconds`` of a block, and those that its counts make of the rates that were ``fitted``."""

    name: str
    seconds: float
    fitted: float


@dataclass(frozen=True)
class Calibration:
    """``operators``: in seconds, cycles of a clock of 1 Hz. ``cases``: what they were fitted to."""

    operators: Operators
    cases: tuple[Measured, ...]

    def at(self, clock_hz: float) -> Operators:
        """In cycles of a clock."""
        return Operators(
            {
                kind: OperatorCycles(*(clock_hz * value for value in astuple(each)))
                for kind, each in self.operators.items()
            }
        )


def calibrate(
    integers: bool, threads: int | None = None, progress: Callable[[list[Case]], Iterable[Case]] = iter
) -> Calibration:
    """Measure this machine, as heads run on it: some twenty seconds.

    Args:
        integers: with 8-bit values inside. threads: that a head may use. progress: shows how far it has come.
    """
    kinds = [kind for kind in KINDS if kind not in ("packing", "call")]
    names, rows, seconds = [], [], []
    for case in progress(list(cases())):
        counts, spent = _measure(case, integers, threads)
        row = np.zeros((len(kinds), _COUNTS))
        for kind, of_kind in counts.items():
            row[kinds.index(kind)] = of_kind
        names.append(case.name)
        rows.append(row.ravel())
        seconds.append(spent)
    table, spent_s = np.array(rows), np.array(seconds)
    rates = _fit(table, spent_s)
    rates *= _in_networks(rates, kinds, integers, threads)
    found = {
        kind: OperatorCycles(*row) for kind, row in zip(kinds, rates.reshape(len(kinds), _COUNTS).tolist(), strict=True)
    }
    found["packing"] = _packing(threads)
    found["call"] = OperatorCycles(per_call=_call(threads))
    measured = [Measured(*each) for each in zip(names, spent_s.tolist(), (table @ rates).tolist(), strict=True)]
    return Calibration(Operators(found), tuple(measured))


def _in_networks(rates: Floats, kinds: list[str], integers: bool, threads: int | None) -> float:
    """By what factor layers take longer in whole networks, now and then, than in blocks of one kind, one after the
    other, which stay in the cache."""
    ratios = []
    for network in networks():
        counts, seconds = _measure(network, integers, threads, _PAUSE_S)
        fitted = sum(float(rates.reshape(len(kinds), _COUNTS)[kinds.index(kind)] @ row) for kind, row in counts.items())
        ratios.append(seconds / fitted)
    return float(np.exp(np.mean(np.log(ratios))))


def _measure(case: Case, integers: bool, threads: int | None, pause_s: float = 0.0) -> tuple[dict[str, Floats], float]:
    """What a block is made of, and the seconds that it takes."""
    times = _TIMES if case.repeats else (0, 1)
    nets = [case.net(count, integers) for count in times]
    options = [session_options(threads, exact=integers) for _ in nets]
    sessions = [
        onnxruntime.InferenceSession(model, option, ["CPUExecutionProvider"])
        for (model, _), option in zip(nets, options, strict=True)
    ]
    x = {INPUT: np.random.default_rng(0).standard_normal(case.shape).astype(np.float32)}
    few, many = _in_turns([partial(session.run, None, x) for session in sessions], pause_s)
    blocks = times[1] - times[0]
    sums = [total(work) for _, work in nets]
    counts = {kind: (row - sums[0].get(kind, np.zeros(_COUNTS))) / blocks for kind, row in sums[1].items()}
    return counts, max(many - few, 1e-9) / blocks


def _in_turns(runs: Sequence[Callable[[], object]], pause_s: float = 0.0) -> list[float]:
    """The seconds of each, when nothing else is in its way: of a tenth of the runs at most. With a pause before each
    run, those that it takes as a rule."""
    for run in (*runs, *runs):
        run()
    spent: list[list[float]] = [[] for _ in runs]
    start = time.perf_counter()
    while time.perf_counter() - start < _SECONDS or len(spent[0]) < (2 * _LEAST if pause_s else _LEAST):
        for place, run in enumerate(runs):
            time.sleep(pause_s)
            before = time.perf_counter()
            run()
            spent[place].append(time.perf_counter() - before)
    return [float(np.quantile(each, 0.5 if pause_s else 0.1)) for each in spent]


def _packing(threads: int | None) -> OperatorCycles:
    """Seconds to round what crosses, and to pack it at 6 bits."""
    grid = Rounded(6, 0.1, 0, "float32")
    sizes = (1_000, 30_000, 200_000, 600_000)
    spent = []
    for size in sizes:
        case = Case("packing", (1, size), lambda net, x: net.codes(x))
        options = session_options(threads, exact=False)
        session = onnxruntime.InferenceSession(case.net(1, integers=False)[0], options, ["CPUExecutionProvider"])
        x = {INPUT: np.random.default_rng(0).standard_normal((1, size)).astype(np.float32)}

        spent.append(_in_turns([partial(_pack, session, x, grid)], _PAUSE_S)[0])
    table = np.array([NodeWork("packing", 0, 4 * size, 0).counts for size in sizes], dtype=np.float64)
    return OperatorCycles(*_fit(table, np.array(spent)).tolist())


def _pack(session: Any, x: Mapping[str, Any], grid: Rounded) -> bytes:
    (codes,) = session.run(None, x)
    return write_message([rounded(np.minimum(codes, 2**grid.bits - 1), grid, None)])


def _call(threads: int | None) -> float:
    """Seconds of a network that does nothing."""
    model, _ = Case("nothing", (1, 4), lambda net, x: x).net(0, integers=False)
    session = onnxruntime.InferenceSession(model, session_options(threads, exact=False), ["CPUExecutionProvider"])
    x = {INPUT: np.zeros((1, 4), np.float32)}
    return _in_turns([lambda: session.run(None, x)])[0]


def _fit(table: Floats, seconds: Floats) -> Floats:
    """Rates, none below 0, whose sums are off by the least share of what was measured: squared, where they are off by
    little, and as it is beyond, where something else was in the way (Huber's loss, by reweighting)."""
    rows = table / seconds[:, None]
    scale = np.maximum(np.abs(rows).max(axis=0), 1e-300)
    rows = rows / scale
    weights, rates = np.ones(len(rows)), np.zeros(rows.shape[1])
    for _ in range(_REWEIGHTED):
        rates = _least_squares(rows * weights[:, None], weights, rates)
        weights = np.sqrt(_USUAL / np.maximum(np.abs(rows @ rates - 1), _USUAL))
    return np.asarray(rates / scale)


def _least_squares(rows: Floats, target: Floats, rates: Floats) -> Floats:
    """Those of no rate below 0, by coordinate descent from ``rates`` on: the problem is convex, and small."""
    gram, aim = rows.T @ rows, rows.T @ target
    rates = rates.copy()
    for _ in range(5_000):
        before = rates.copy()
        for place in np.flatnonzero(np.diag(gram) > 0):
            rates[place] = max(0.0, rates[place] + (aim[place] - gram[place] @ rates) / gram[place, place])
        if np.abs(rates - before).max() <= 1e-9 * rates.max(initial=0.0):
            break
    return rates
