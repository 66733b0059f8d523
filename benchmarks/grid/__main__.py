"""See the package."""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter

import torch

import benchmarks.grid

from .cells import grid
from .networks import NAMES, REAL, SMALL, network
from .outcome import Outcome, load_outcomes, outcomes, save_outcomes
from .policies import POLICIES
from .report import section

KEPT = Path("results/grid")


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
    parser.add_argument("--judged", type=int, default=8, help="plans of a policy to measure (default: %(default)s)")
    parser.add_argument("--reuse", action="store_true", help=f"of networks that were run before what lies in {KEPT}")
    options = parser.parse_args()
    names = options.networks or (SMALL if options.directory is None else NAMES)
    if options.directory is None and set(names) & set(REAL):
        parser.error(f"{', '.join(REAL)} need DIRECTORY; {', '.join(SMALL)} run without")
    if options.directory is not None and not (options.directory / "zoo.py").is_file():
        parser.error(f"{options.directory} holds no zoo.py: name the folder of the networks and data, or none at all")
    torch.set_num_threads(1)  # operators are small: several threads wait for each other, on busy machines for long
    start, found = perf_counter(), {}
    for name in names:
        path = KEPT / f"{name}.npz"
        found[name] = load_outcomes(path) if options.reuse and path.exists() else _run(name, options)
        save_outcomes(path, found[name])
    command = "python -m benchmarks.grid" + (" DIRECTORY" if set(names) & set(REAL) else "")
    section(found, grid(), command, perf_counter() - start).publish()


def _run(name: str, options: argparse.Namespace) -> dict[str, Outcome]:
    start = perf_counter()
    print(f"{name}: profiling", flush=True)
    chosen, cells, found = network(name, options.directory), grid(), {}
    for policy, outcome in outcomes(chosen, cells, POLICIES, options.judged):
        found[policy] = outcome
        print(f"  {policy:<28}{outcome.served.mean():>5.0%} served {perf_counter() - start:>6.0f} s", flush=True)
    return found


if __name__ == "__main__":
    main()
