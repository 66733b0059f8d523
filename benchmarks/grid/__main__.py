"""See the package."""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

import torch

import benchmarks.grid

from .cells import grid
from .networks import NAMES, REAL, SMALL
from .outcome import load_outcomes
from .report import section
from .run import KEPT, path_of, run_network


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.grid",
        description=benchmarks.grid.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", type=Path, nargs="?", help=f"holds zoo.py and the data, for {', '.join(REAL)}")
    parser.add_argument(
        "--networks", nargs="+", choices=NAMES, metavar="NAME", help=f"only these of {', '.join(NAMES)}"
    )
    parser.add_argument("--judged", type=int, default=4, help="plans of a policy to measure (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="networks at a time, on a core each (default: %(default)s)")
    parser.add_argument("--reuse", action="store_true", help=f"of networks that were run before what lies in {KEPT}")
    options = parser.parse_args()
    names = options.networks or (SMALL if options.directory is None else NAMES)
    if options.directory is None and set(names) & set(REAL):
        parser.error(f"{', '.join(REAL)} need DIRECTORY; {', '.join(SMALL)} run without")
    if options.directory is not None and not (options.directory / "zoo.py").is_file():
        parser.error(f"{options.directory} holds no zoo.py: name the folder of the networks and data, or none at all")
    if options.jobs < 1 or options.judged < 1:
        parser.error("--jobs and --judged: one at least")
    start = perf_counter()
    left = [name for name in reversed(names) if not (options.reuse and path_of(name).exists())]  # the longest first
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        for done in [pool.submit(run_network, name, options.directory, options.judged) for name in left]:
            done.result()
    command = "python -m benchmarks.grid" + (" DIRECTORY" if set(names) & set(REAL) else "")
    if len(left) < len(names):
        command += " --reuse"
    found = {name: load_outcomes(path_of(name)) for name in names}
    torch.set_num_threads(1)  # as the section is to say
    section(found, grid(), command, perf_counter() - start).publish()


if __name__ == "__main__":
    main()
