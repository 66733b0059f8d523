"""The objective of our plans beside that of other policies, over a grid of devices, links, uses and budgets."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import qpart_fx as qpart

from .report import print_table
from .rivals import Rivals
from .runs import plan_noise
from .subjects import BRANCHING, SERVER, branching_profile, profiled, request

SPEEDS = (0.05e9, 0.5e9, 5e9, 50e9)
RATES = (0.5e6, 5e6, 50e6, 1000e6)
INFERENCES = (1, 100, 10_000)
DROPS = (0.001, 0.01, 0.05)
SERVERS = (SERVER, qpart.Server(clock_hz=100e9, cycles_per_mac=1.0, price_per_s=1.0))
"""The paper's, and one that is 40 times as fast."""

OURS = "exact"
SAME = 1 + 1e-9
MOST_GAP = 0.01
"""How far above its proven bound a plan may be."""


def policies(directory: Path, networks: tuple[str, ...] = ("resnet20", "mobilenet_v1", *BRANCHING)) -> dict[str, Any]:
    """All policies at every point of the grid; ours must never be worse than any."""
    rows, gaps, result = [], [], {}
    for name in networks:
        found = compare(branching_profile(name) if name in BRANCHING else profiled(directory, name).profile)
        result[name] = found
        rows += [
            [name, policy, f"{each['best']:.0%}", f"{each['planned']:.0%}", f"{each['mean']:.3f}",
             f"{each['median']:.3f}", f"{each['worst']:.2f}", f"{each['mean_where_interior']:.3f}"]
            for policy, each in found["policies"].items()
        ]  # fmt: skip
        gaps.append(
            [name, f"{found['cuts']:,}" + " and more" * (not found["all_cuts"]), str(found["requests"]),
             f"{found['interior']:.0%}", f"{found['largest_gap']:.1e}", f"{found['mean_gap']:.1e}",
             f"{found['paper_breaks_budget']:.0%}"]
        )  # fmt: skip
    print_table(
        "Objective over ours, within one noise budget",
        ("network", "policy", "best", "has a plan", "mean", "median", "worst", "mean where our cut is inside"),
        rows,
    )
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
        gaps,
    )
    return result


def compare(profile: qpart.Profile) -> dict[str, Any]:
    """The ratios of every policy's objective to ours over the grid.

    Raises:
        AssertionError: a policy is better than ours, or one of our plans is not proven to be near the best.
    """
    rivals = Rivals(profile)
    names: list[str] = []
    ratios, interior, gaps, broken = [], [], [], []
    for drop, speed, rate, inferences, server in product(DROPS, SPEEDS, RATES, INFERENCES, SERVERS):
        asked = request(drop, speed, rate, inferences, server=server)
        plan = profile.plan(asked)
        found = {
            OURS: plan.objective,
            **rivals.objectives(asked),
            "all on the device, our widths": profile.plan(asked, cut="output").objective,
        }
        names = list(found)
        ratios.append([objective / plan.objective for objective in found.values()])
        assert min(ratios[-1]) * SAME >= 1, f"{names[int(np.argmin(ratios[-1]))]} is better than ours for {asked}"
        layers = sum(layer.bits is not None for layer in plan.layers)
        interior.append(0 < layers < len(plan.layers))
        assert plan.lower_bound is not None
        gaps.append(plan.objective / plan.lower_bound - 1)
        assert gaps[-1] < MOST_GAP, f"{plan.objective} is proven to be above {plan.lower_bound} only, for {asked}"
        broken.append(_breaks(profile, asked))
    table, inside = np.array(ratios), np.array(interior)
    best = table.min(axis=1)
    return {
        "cuts": len(profile.closed_cuts),
        "all_cuts": profile.complete,
        "requests": len(table),
        "interior": float(inside.mean()),
        "largest_gap": float(max(gaps)),
        "mean_gap": float(np.mean(gaps)),
        "paper_breaks_budget": float(np.mean(broken)),
        "policies": {
            name: {
                "best": float((column <= best * SAME).mean()),
                "planned": float(np.isfinite(column).mean()),
                "mean": _of_finite(column, np.mean),
                "median": _of_finite(column, np.median),
                "worst": _of_finite(column, np.max),
                "mean_where_interior": _of_finite(column[inside], np.mean),
            }
            for name, column in zip(names, table.T, strict=True)
        },
    }


def _breaks(profile: qpart.Profile, asked: qpart.Request) -> bool:
    """Whether the plan of ``method="paper"``, with a Delta of its own, oversteps the noise budget of our plans."""
    try:
        plan = profile.plan(asked, method="paper")
    except qpart.InfeasibleError:
        return True
    return plan_noise(profile, plan) > profile.noise_curve.noise_at(asked.max_accuracy_drop) * SAME


def _of_finite(values: Any, function: Any) -> float:
    kept = values[np.isfinite(values)]
    return float(function(kept)) if len(kept) else float("nan")
