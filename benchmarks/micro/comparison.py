"""Runs of the micro-benchmarks: as pytest-benchmark writes them, as they are saved, and one beside the other."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

NOISE = 1.3
"""A ratio that has grown by more is marked; what is less is no news on a shared machine."""


class SavedRunError(Exception):
    """A saved run that cannot be read; the message says what to do."""


@dataclass(frozen=True)
class Timed:
    """``seconds``: the median. ``ratio``: to the workload beside it."""

    seconds: float
    ratio: float


@dataclass(frozen=True)
class Row:
    """``change``: of the ratio since the saved run, None where there is none; ``now`` None for what was not run."""

    name: str
    now: Timed | None
    change: float | None

    @property
    def verdict(self) -> str:
        if self.now is None:
            return "not run"
        if self.change is None:
            return "new"
        return "slower" if self.change > NOISE else "faster" if self.change < 1 / NOISE else ""


def read_pytest(path: Path) -> dict[str, Timed]:
    """What ``--benchmark-json`` wrote, by name; those without a workload beside them are left out."""
    content = json.loads(path.read_text()) if path.exists() and path.stat().st_size else {}
    found = {}
    for each in content.get("benchmarks", []):
        beside = each.get("extra_info", {}).get("workload_s")
        if beside:
            median = float(each["stats"]["median"])
            file = Path(each["fullname"].split("::")[0]).stem.removeprefix("bench_")
            found[f"{file}: {each['name'].removeprefix('test_')}"] = Timed(median, median / beside)
    return found


def read_saved(path: Path) -> dict[str, Timed]:
    """The run that was saved last; empty where there is none.

    Raises:
        SavedRunError: the file is damaged.
    """
    if not path.exists():
        return {}
    try:
        known: dict[str, dict[str, Any]] = json.loads(path.read_text())["benchmarks"]
        found = {name: Timed(float(each["seconds"]), float(each["ratio"])) for name, each in known.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SavedRunError(f"{path} is no saved run ({error!r}): restore it from git, or delete it") from None
    if not all(math.isfinite(each.ratio) and each.ratio > 0 for each in found.values()):
        raise SavedRunError(f"{path} has a ratio that is no positive number: restore it from git, or delete it")
    return found


def save(path: Path, run: Mapping[str, Timed], saved: Mapping[str, Timed], machine: str) -> None:
    """``run``, and of ``saved`` what was not run; whole or not at all."""
    records = {name: asdict(each) for name, each in sorted({**saved, **run}.items())}
    written = path.with_suffix(".new")
    written.write_text(json.dumps({"machine": machine, "benchmarks": records}, indent=1) + "\n")
    written.replace(path)


def compare(run: Mapping[str, Timed], saved: Mapping[str, Timed]) -> Iterator[Row]:
    """Each of both, by name."""
    for name in sorted({**saved, **run}):
        now, before = run.get(name), saved.get(name)
        yield Row(name, now, now.ratio / before.ratio if now and before else None)
