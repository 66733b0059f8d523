"""The time to an answer: a profile once, and then plans for requests that no one has seen before."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

import qpart_fx as qpart
from benchmarks.planning.subjects import batches, request, subject

_REQUESTS = 500


def answer(directory: Path, names: tuple[str, ...] = ("resnet20", "mnist")) -> dict[str, dict[str, float]]:
    """Of each network the seconds of its profile, with as many samples as other tools are given, of the first plan, and
    of a further one: the mean over some hundred devices and links, at one of the budgets."""
    return {name: _answered(directory, name) for name in names}


def _answered(directory: Path, name: str) -> dict[str, float]:
    chosen = subject(directory, name)
    start = process_time()
    profile = qpart.profile(chosen.model, batches(chosen.calibration_data)[:4], progress=False)
    profiled = process_time() - start
    start = process_time()
    profile.plan(request(0.01, 1e9, 10e6, 100))
    first = process_time() - start
    generator = np.random.default_rng(0)
    asked: list[Any] = [
        request(0.01, float(speed), float(rate), int(uses))
        for speed, rate, uses in zip(
            10 ** generator.uniform(8, 10.5, _REQUESTS),
            10 ** generator.uniform(6, 9, _REQUESTS),
            10 ** generator.uniform(0, 4, _REQUESTS),
            strict=True,
        )
    ]
    wall = perf_counter()
    for each in asked:
        profile.plan(each)
    return {"profile_s": profiled, "first_plan_s": first, "further_plan_s": (perf_counter() - wall) / _REQUESTS}
