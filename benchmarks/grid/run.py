"""One network through all policies; in a process of its own."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

import torch

from .cells import grid
from .networks import network
from .outcome import outcomes, save_outcomes
from .policies import POLICIES

KEPT = Path("results/grid")
"""Where outcomes lie until they are made again."""


def run_network(name: str, directory: Path | None, most: int) -> None:
    """Write the outcomes of every policy; ``most``: plans of each that are measured."""
    torch.set_num_threads(1)  # operators are small: several threads wait for each other, on busy machines for long
    start = perf_counter()
    print(f"{name}: profiling", flush=True)
    chosen, cells, found = network(name, directory), grid(), {}
    for policy, outcome in outcomes(chosen, cells, POLICIES, most):
        found[policy] = outcome
        took = f"{perf_counter() - start:.0f} s"
        print(f"{name:<16}{policy:<28}{outcome.served.mean():>5.0%} served{took:>8}", flush=True)
    save_outcomes(path_of(name), found)


def path_of(name: str) -> Path:
    """The file of a network's outcomes."""
    return KEPT / f"{name}.npz"
