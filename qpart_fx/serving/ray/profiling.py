"""Profiles of many models at once, each a task of Ray, into a catalog."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import container
from ...errors import ArtifactError, QPartError, RequestError, require_packages
from ..catalog import NAME, SUFFIX

if TYPE_CHECKING:
    from torch import nn

_LOG = logging.getLogger("qpart_fx.serving")

_TRIES = 2
"""Of a task whose process or machine is lost."""


@dataclass(frozen=True)
class Job:
    """``name``: of the model in the catalog. ``make``: gives the model and its calibration batches; it is called where
    the profile is made, so nothing large has to be sent there. ``options``: of :func:`qpart_fx.profile`."""

    name: str
    make: Callable[[], tuple[nn.Module, Iterable[Any]]]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """``path``: of the profile, None where there is none and ``error`` says why. ``seconds``: that it took, 0.0 where
    it was there before."""

    name: str
    path: Path | None
    error: str | None
    seconds: float


def profile_many(jobs: Iterable[Job], folder: Path | str, *, cpus: float = 1.0, progress: bool = True) -> list[Outcome]:
    """Profile models, as many at once as the cluster has CPUs for; what came of each, in the order of ``jobs``.

    A profile appears in ``folder`` once it is whole, as ``NAME.qpart``; one that is whole already is left as it is, so
    that the same call goes on where it was stopped. A model that cannot be profiled, or takes its process down, stops
    no other. Ray has to be running, or is started here.

    Args:
        cpus: of Ray's, that each takes.
        progress: show how many are done, where there is a terminal; failures are logged in any case.

    Raises:
        MissingDependencyError: a package is not installed.
        RequestError: two jobs have the same name, or one is none that a catalog takes.
        ArtifactError: the folder cannot be written to.
    """
    require_packages("ray torch scipy onnx tqdm", "profiling on Ray", extra="ray")
    import ray

    jobs, folder = list(jobs), Path(folder)
    _require_names(jobs)
    container.make_directory(folder)
    outcomes = {job.name: Outcome(job.name, path, None, 0.0) for job in jobs if (path := _finished(folder, job.name))}
    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False)
    try:
        task = ray.remote(num_cpus=cpus, max_retries=_TRIES - 1)(_profiled)
        waiting = {}
        for job in jobs:
            if job.name not in outcomes:
                try:
                    waiting[task.remote(job)] = job
                except TypeError as error:  # which comes with pages of advice
                    outcomes[job.name] = Outcome(job.name, None, f"it cannot be sent: {str(error)[:300]}", 0.0)
        with _bar(len(jobs), len(outcomes), progress) as bar:
            for reference in _as_they_end(list(waiting)):
                job = waiting.pop(reference)
                outcome = outcomes[job.name] = _outcome(job, folder, reference)
                if outcome.error is not None:
                    _LOG.warning("no profile of %s: %s", job.name, outcome.error)
                bar.set_postfix_str(job.name)
                bar.update()
    finally:
        if started:
            ray.shutdown()
    return [outcomes[job.name] for job in jobs]


def _profiled(job: Job) -> tuple[bytes | None, str | None, float]:
    """The profile's file, or why there is none; and the seconds that it took. It runs in a process of Ray's."""
    import torch

    from ...compiler import profile

    start = time.perf_counter()
    torch.manual_seed(0)  # what a job makes by chance does not depend on the process that it comes to
    try:
        model, calibration = job.make()
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "profile"
            profile(model, calibration, **{"progress": False, **job.options}).save(path)
            return path.read_bytes(), None, time.perf_counter() - start
    except QPartError as error:
        return None, str(error), time.perf_counter() - start
    except Exception as error:  # of whatever kind: the others go on
        return None, f"{type(error).__name__}: {error}", time.perf_counter() - start


def _outcome(job: Job, folder: Path, reference: Any) -> Outcome:
    import ray
    from ray.exceptions import RayError

    try:
        content, error, seconds = ray.get(reference)
    except RayError as lost:
        return Outcome(job.name, None, f"its process was lost: {type(lost).__name__}", 0.0)
    if content is None:
        return Outcome(job.name, None, error, seconds)
    path = folder / f"{job.name}{SUFFIX}"
    container.write_file(path, content)
    return Outcome(job.name, path, None, seconds)


def _as_they_end(references: list[Any]) -> Iterator[Any]:
    import ray

    while references:
        ended, references = ray.wait(references)
        yield from ended


def _finished(folder: Path, name: str) -> Path | None:
    """The profile of a model, if there is one and it is whole."""
    path = folder / f"{name}{SUFFIX}"
    try:
        container.decode(path.read_bytes(), "profile")
    except (OSError, ArtifactError):
        return None
    return path


def _require_names(jobs: Sequence[Job]) -> None:
    seen: set[str] = set()
    for job in jobs:
        if not NAME.fullmatch(job.name):
            raise RequestError(f"Job.name = {job.name!r}: a name is made of letters, digits, '.', '_' and '-'")
        if job.name in seen:
            raise RequestError(f"Job.name = {job.name!r}: two jobs are called so")
        seen.add(job.name)


def _bar(total: int, done: int, enabled: bool) -> Any:
    from tqdm import tqdm

    return tqdm(
        total=total, initial=done, desc="profiles", unit="model", leave=False, disable=None if enabled else True
    )
