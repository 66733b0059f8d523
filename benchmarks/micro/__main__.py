"""See the package."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import benchmarks.micro
from benchmarks.planning.report import print_table
from benchmarks.reporting.section import Part, Section, Table, this_machine

from .comparison import NOISE, Row, SavedRunError, compare, read_pytest, read_saved, save

SAVED = Path(__file__).parent / "saved.json"
_NAMES = ("benchmark", "median", "of the workload", "of the saved run", "")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.micro",
        description=benchmarks.micro.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--no-save", action="store_true", help="leave the saved run and the report as they are")
    options, others = parser.parse_known_args()
    start = perf_counter()
    try:
        saved = read_saved(SAVED)
    except SavedRunError as error:
        raise SystemExit(str(error)) from None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.json"
        code = _run(path, others)
        run = read_pytest(path)
    if not run:
        raise SystemExit(f"nothing was measured: pytest ended with {code}")
    rows = [_cells(row) for row in compare(run, saved)]
    print_table("Medians, and ratios to the workload beside each", _NAMES, rows)
    if not options.no_save:
        save(SAVED, run, saved, this_machine())
        parts: list[Part] = [_WORDS, Table("Medians, and ratios to the workload beside each", _NAMES, rows)]
        Section("micro", "Micro-benchmarks", "make bench", perf_counter() - start, parts).publish()
    if code:
        raise SystemExit(f"some benchmarks failed, see above: pytest ended with {code}")


_WORDS = (
    "A fixed workload (a product of matrices, a pass over memory, a convolution, a loop of Python) is timed before and "
    "after each benchmark, on the same core: ratios to it are compared with those of the run that was saved last, so "
    f"that a slower machine is no regression. Beyond {NOISE} times either way a change is marked."
)


def _run(path: Path, arguments: Sequence[str]) -> int:
    files = sorted(map(str, Path(__file__).parents[1].glob("bench_*.py")))  # others import what is not installed here
    own = ["--benchmark-enable", "--benchmark-only", f"--benchmark-json={path}", "--benchmark-quiet", "-q", "-m", ""]
    return subprocess.run([sys.executable, "-m", "pytest", *files, *own, *arguments], check=False).returncode


def _cells(row: Row) -> list[str]:
    if row.now is None:
        return [row.name, "-", "-", "-", row.verdict]
    change = "-" if row.change is None else f"{row.change:.2f}"
    return [row.name, _seconds(row.now.seconds), f"{row.now.ratio:.3g}", change, row.verdict]


def _seconds(value: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


if __name__ == "__main__":
    main()
