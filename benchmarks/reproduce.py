"""The experiments of the paper and those beyond it, into benchmarks/report/.

    python -m benchmarks.reproduce [DIRECTORY]

DIRECTORY holds zoo.py, the real networks and the data; without it the experiments that need none are run, and the
others are named. Each is a command of its own, which can be run alone; here they run side by side, on two cores.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from benchmarks.reporting.render import render
from benchmarks.reporting.section import REPORT


@dataclass(frozen=True)
class Experiment:
    """``takes_data``: it makes use of DIRECTORY; ``runs_without``: and does something without it, too."""

    name: str
    about: str
    options: tuple[str, ...] = ()
    takes_data: bool = True
    runs_without: bool = True

    def command(self, directory: Path | None) -> list[str]:
        given = [str(directory)] if directory is not None and self.takes_data else []
        return ["-m", f"benchmarks.{self.name}", *given, *self.options]

    def run(self, directory: Path | None) -> int:
        """Its exit status; what it says stands behind its name, line by line."""
        process = subprocess.Popen(
            [sys.executable, "-u", *self.command(directory)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            print(f"{self.name:<10}| {line.rstrip()}", flush=True)
        return process.wait()


LANES = (
    (
        Experiment("paper", "Figs. 3 to 10 and Table III of the paper", ("--only", "mnist"), runs_without=False),
        Experiment("paper", "Table IV of the paper", ("--only", "networks"), runs_without=False),
        Experiment("simulator", "many devices on one server", takes_data=False),
    ),
    (Experiment("grid", "every system of Table I on one grid of requests", ("--jobs", "2")),),
)
"""Side by side; those of a lane one after the other. Three processes share two cores, so that neither is idle while the
largest network goes through the grid."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, nargs="?", help="holds zoo.py and the data")
    directory: Path | None = parser.parse_args().directory
    if directory is not None and not (directory / "zoo.py").is_file():
        parser.error(f"{directory} holds no zoo.py: name the folder of the real networks and data, or none at all")
    start = perf_counter()
    left_out = [each for lane in LANES for each in lane if directory is None and not each.runs_without]

    def run(lane: Sequence[Experiment]) -> list[Experiment]:
        """Those that failed."""
        return [each for each in lane if each not in left_out and each.run(directory)]

    with ThreadPoolExecutor(len(LANES)) as pool:
        failed = [each for lane in pool.map(run, LANES) for each in lane]
    render(REPORT)  # of two that end together, neither may have seen the other's section
    print(f"\n{perf_counter() - start:.0f} s; the report is benchmarks/report/README.md and index.html")
    for each in left_out:
        print(f"Left out for want of DIRECTORY: {each.about} (python -m benchmarks.{each.name} says what it needs)")
    if failed:
        alone = "; ".join(" ".join(["python", *each.command(directory)]) for each in failed)
        raise SystemExit(f"failed: {', '.join(each.name for each in failed)}; run it alone: {alone}")


if __name__ == "__main__":
    main()
