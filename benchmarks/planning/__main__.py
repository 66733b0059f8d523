"""See the package."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

import benchmarks.planning

from .bounds import bounds
from .disagreement import disagreement
from .evidence import evidence
from .latency import latency
from .report import write_results
from .sensitivity import sensitivity
from .subjects import BRANCHING

TOPICS: dict[str, Callable[..., dict[str, Any]]] = {
    "sensitivity": sensitivity,
    "disagreement": disagreement,
    "bounds": bounds,
    "latency": latency,
    "evidence": evidence,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.planning",
        description=benchmarks.planning.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", type=Path, help="holds zoo.py and the data")
    parser.add_argument("--only", action="append", choices=TOPICS, help="leave the other topics out; may be repeated")
    choices = ("mnist", "resnet20", "mobilenet_v1", *BRANCHING)
    parser.add_argument(
        "--networks", nargs="+", choices=choices, metavar="NAME",
        help=f"only these of {', '.join(choices)}; of the last {len(BRANCHING)} there are bounds only",
    )  # fmt: skip
    parser.add_argument("--cases", type=int, help="of evidence, for each network (default: as many as take an hour)")
    options = parser.parse_args()
    torch.set_num_threads(1)  # processor times are compared
    for name in options.only or TOPICS:
        chosen: dict[str, Any] = {"cases": options.cases} if name == "evidence" else {}
        if options.networks:
            chosen["networks"] = tuple(options.networks)
        print(f"\n{name}")
        start = perf_counter()
        found = TOPICS[name](options.directory, **chosen)
        write_results(Path("results/planning.json"), name, found)
        print(f"\n({name}: {perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    main()
