"""How long the parts of a split take on this machine, and how many bytes they make: ``qpart bench``.

Here what a device can measure, without torch; :mod:`qpart_fx.bench_split` measures whole splits.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import RequestError

if TYPE_CHECKING:
    from .device import HeadRuntime

DEVICE = "onnxruntime"
"""What a device runs heads with."""

_WARM_UP = 3
"""Runs before those that count."""


@dataclass(frozen=True)
class Settings:
    """``batch``: samples of a call. ``repeats``: runs of which medians are taken. ``threads``: that a call may use,
    None for as many as there are cores."""

    batch: int = 1
    repeats: int = 50
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch", "repeats", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RequestError(f"{name} = {value}: give a number above 0")


@dataclass(frozen=True)
class Report:
    """What was measured. ``times_s``: the median of each step, in seconds. ``bytes``: of each file and message.
    ``whole``: the step that the others are compared with, if there is one. ``notes``: what could not be measured."""

    title: str
    settings: Settings
    times_s: Mapping[str, float]
    bytes: Mapping[str, int]
    whole: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def ratio(self, step: str) -> float | None:
        """The time of ``step`` over that of the whole model."""
        return None if self.whole is None else self.times_s[step] / self.times_s[self.whole]

    def to_json(self) -> str:
        record = {
            "title": self.title,
            "machine": platform.machine(),
            "versions": {"python": platform.python_version(), **self.versions},
            "settings": {
                "batch": self.settings.batch, "repeats": self.settings.repeats, "threads": self.settings.threads
            },
            "times_s": dict(self.times_s),
            "ratios": {step: self.ratio(step) for step in self.times_s} if self.whole else {},
            "bytes": dict(self.bytes),
            "notes": list(self.notes),
        }  # fmt: skip
        return json.dumps(record, indent=1)

    def __str__(self) -> str:
        threads = "all threads" if self.settings.threads is None else f"threads: {self.settings.threads}"
        about = f"batch: {self.settings.batch}, {threads}, medians of {self.settings.repeats} runs"
        width = max(map(len, (*self.times_s, *self.bytes)))
        lines = [f"{self.title}\n{about}\n", f"{'':{width}}  {'ms':>10}" + "  of the whole" * bool(self.whole)]
        for step, seconds in self.times_s.items():
            ratio = self.ratio(step)
            lines.append(f"{step:{width}}  {1e3 * seconds:10.3f}" + ("" if ratio is None else f"  {ratio:12.3f}"))
        lines.append(f"\n{'':{width}}  {'bytes':>10}")
        lines += [f"{name:{width}}  {size:10,}" for name, size in self.bytes.items()]
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)])


def measured(rounds: Callable[[], Mapping[str, float]], repeats: int) -> dict[str, float]:
    """The median of each step over many rounds, each of which times every step once: so noise hits all alike."""
    for _ in range(_WARM_UP):
        rounds()
    results = [rounds() for _ in range(repeats)]
    return {step: median(result[step] for result in results) for step in results[0]}


class Stopwatch:
    """Seconds of the steps of a round, in their order."""

    def __init__(self) -> None:
        self.times_s: dict[str, float] = {}

    def __call__(self, step: str, run: Callable[[], Any]) -> Any:
        """Run a step, and keep how long it took."""
        start = time.perf_counter()
        result = run()
        self.times_s[step] = time.perf_counter() - start
        return result


def bench_head(content: bytes, settings: Settings) -> Report:
    """Time a head in its file as a device runs it.

    Raises:
        MissingDependencyError: without the extra ``device``. ArtifactError: the file is damaged, or a head for PyTorch.
        RequestError: it takes no such batch.
    """
    from .device import HeadRuntime

    head = HeadRuntime(content, threads=settings.threads)
    arrays = _arrays(head, settings.batch)

    def rounds() -> Mapping[str, float]:
        watch = Stopwatch()
        watch("loading", lambda: HeadRuntime(content, threads=settings.threads))
        watch("head", lambda: head(*arrays))
        watch("head and packing", lambda: head.message(*arrays))
        return watch.times_s

    times, message = measured(rounds, settings.repeats), head.message(*arrays)
    model = "A head" if head.plan is None else f"The head of {head.plan.model}, cut at {', '.join(head.plan.cut)}"
    sizes = {"head's file": len(content), "message": len(message)}
    return Report(f"{model}, in {DEVICE}", settings, times, sizes, versions={DEVICE: version(DEVICE)})


def _arrays(head: HeadRuntime, batch: int) -> list[np.ndarray[Any, Any]]:
    """Inputs of ``batch`` samples: floats are random, other numbers 0."""
    generator, found = np.random.default_rng(0), []
    for each in head.inputs:
        if None in each.shape[1:]:
            raise RequestError(f"input '{each.name}' is of the open shape {each}: only the batch size may be open")
        shape = [batch if size is None else size for size in each.shape]
        values = generator.standard_normal(shape) if each.dtype.startswith("float") else np.zeros(shape)
        found.append(values.astype(each.dtype))
    return found
