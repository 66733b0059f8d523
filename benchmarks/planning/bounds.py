"""Our plans beside what is proven that none is below, over a grid of devices, links, uses and budgets.

What other policies make of such requests, ``benchmarks.grid`` shows.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import qpart_fx as qpart

from .report import print_table
from .runs import plan_noise
from .subjects import BRANCHING, SERVER, branching_profile, profiled, request

SPEEDS = (0.05e9, 0.5e9, 5e9, 50e9)
RATES = (0.5e6, 5e6, 50e6, 1000e6)
INFERENCES = (1, 100, 10_000)
DROPS = (0.001, 0.01, 0.05)
SERVERS = (SERVER, qpart.Server(clock_hz=100e9, cycles_per_mac=1.0, price_per_s=1.0))
"""The paper's, and one that is 40 times as fast."""

SAME = 1 + 1e-9
MOST_GAP = 0.01
"""How far above its proven bound a plan may be."""


def bounds(directory: Path, networks: tuple[str, ...] = ("resnet20", "mobilenet_v1", *BRANCHING)) -> dict[str, Any]:
    """The gaps at every point of the grid; a plan that is not proven to be near the best raises."""
    rows, result = [], {}
    for name in networks:
        found = gaps(branching_profile(name) if name in BRANCHING else profiled(directory, name).profile)
        result[name] = found
        rows.append(
            [name, f"{found['cuts']:,}" + " and more" * (not found["all_cuts"]), str(found["requests"]),
             f"{found['interior']:.0%}", f"{found['largest_gap']:.1e}", f"{found['mean_gap']:.1e}",
             f"{found['paper_breaks_budget']:.0%}"]
        )  # fmt: skip
    print_table(
        "Our plans against their proven bound (objective / bound - 1)",
        (
            "network",
            "cuts",
            "requests",
            "our cut is inside",
            "largest gap",
            "mean gap",
            "method='paper' breaks the budget",
        ),
        rows,
    )
    return result


def gaps(profile: qpart.Profile) -> dict[str, Any]:
    """How far plans are above their bounds over the grid.

    Raises:
        AssertionError: one of our plans is not proven to be near the best.
    """
    interior, found, broken = [], [], []
    for drop, speed, rate, inferences, server in product(DROPS, SPEEDS, RATES, INFERENCES, SERVERS):
        asked = request(drop, speed, rate, inferences, server=server)
        plan = profile.plan(asked)
        layers = sum(layer.bits is not None for layer in plan.layers)
        interior.append(0 < layers < len(plan.layers))
        assert plan.lower_bound is not None
        found.append(plan.objective / plan.lower_bound - 1)
        assert found[-1] < MOST_GAP, f"{plan.objective} is proven to be above {plan.lower_bound} only, for {asked}"
        broken.append(_breaks(profile, asked))
    return {
        "cuts": len(profile.closed_cuts),
        "all_cuts": profile.complete,
        "requests": len(found),
        "interior": float(np.mean(interior)),
        "largest_gap": float(max(found)),
        "mean_gap": float(np.mean(found)),
        "paper_breaks_budget": float(np.mean(broken)),
    }


def _breaks(profile: qpart.Profile, asked: qpart.Request) -> bool:
    """Whether the plan of ``method="paper"``, with a Delta of its own, oversteps the noise budget of our plans."""
    try:
        plan = profile.plan(asked, method="paper")
    except qpart.InfeasibleError:
        return True
    return plan_noise(profile, plan) > profile.noise_curve.noise_at(asked.max_accuracy_drop) * SAME
