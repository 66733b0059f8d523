"""The experiments of the paper and those beyond it, one after the other, into benchmarks/report/.

    python -m benchmarks.reproduce [DIRECTORY]

DIRECTORY holds zoo.py, the real networks and the data; without it the experiments that need none are run, and the
others are named. Each is a command of its own, which can be run alone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter


@dataclass(frozen=True)
class Experiment:
    """``takes_data``: it makes use of DIRECTORY; ``runs_without``: and does something without it, too."""

    module: str
    about: str
    takes_data: bool = True
    runs_without: bool = True


EXPERIMENTS = (
    Experiment("benchmarks.paper", "Figs. 3 to 10 and Tables III and IV of the paper", runs_without=False),
    Experiment("benchmarks.grid", "every system of Table I on one grid of requests"),
    Experiment("benchmarks.simulator", "many devices on one server", takes_data=False),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, nargs="?", help="holds zoo.py and the data")
    directory: Path | None = parser.parse_args().directory
    if directory is not None and not (directory / "zoo.py").is_file():
        parser.error(f"{directory} holds no zoo.py: name the folder of the real networks and data, or none at all")
    start = perf_counter()
    left_out = [each for each in EXPERIMENTS if directory is None and not each.runs_without]
    for each in EXPERIMENTS:
        if each in left_out:
            continue
        print(f"\n{each.module}: {each.about}", flush=True)
        given = [str(directory)] if directory is not None and each.takes_data else []
        code = subprocess.run([sys.executable, "-m", each.module, *given], check=False).returncode
        if code:
            raise SystemExit(
                f"{each.module} ended with {code}; run it alone: python -m {each.module} {' '.join(given)}"
            )
    print(f"\n{perf_counter() - start:.0f} s; the report is benchmarks/report/README.md and index.html")
    for each in left_out:
        print(f"Left out for want of DIRECTORY: {each.about} (python -m {each.module} says what it needs)")


if __name__ == "__main__":
    main()
