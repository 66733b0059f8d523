"""The section of the report: who serves which requests best, by how much, and with what accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.reporting.section import REPORT, Part, Section, Table

from .cells import BUDGETS, INFERENCES, RATES, SERVERS, SPEEDS, Cells
from .maps import cut_map, gain_map
from .outcome import Outcome
from .policies import OURS, POLICIES

Floats = NDArray[np.float64]

SAME = 1 - 1e-6
"""Objectives nearer than this are equal: ours counts whole bytes."""

MIN_CUT, UNIFORM, CODED = "DADS", "uniform 8 bits", "uniform 8 bits, our coder"
MARKS = ("latency", "energy", "accuracy", "scaling", "offloading")

Outcomes = Mapping[str, Mapping[str, Outcome]]


@dataclass(frozen=True)
class Count:
    """How our plans stand against a policy: cells, of those the policy serves within the budget, and how many of them
    where it is cheaper, and by how much in the median."""

    cells: int
    cheaper: int
    gain: float

    @classmethod
    def of(cls, ours: Outcome, other: Outcome, counted: NDArray[np.bool_]) -> Count:
        ratio = other.objective[counted] / ours.objective[counted]
        below = ratio[ratio < SAME]
        return cls(int(counted.sum()), len(below), float(1 - np.median(below)) if len(below) else 0.0)


def section(found: Outcomes, cells: Cells, command: str, seconds: float, report: Path = REPORT) -> Section:
    """``found``: of each network, the outcome of each policy. Figures go to ``report``."""
    parts: list[Part] = [
        _words(found, cells),
        _overview(found, cells),
        _won(found, cells),
        gain_map(found, cells, report),
        cut_map(found, cells, report),
        _inside(found),
        _not_best(found, cells),
        _accuracies(found, cells),
        _marks(found, cells),
    ]
    return Section("grid", "Every policy on one grid", command, seconds, parts)


def _words(found: Outcomes, cells: Cells) -> str:
    known = _against_all(found, lambda other: other.known_budget <= cells.budget)
    alike = {
        name: {policy.name: each[policy.name] for policy in POLICIES if not policy.changes_network}
        for name, each in found.items()
    }
    known_alike = _against_all(alike, lambda other: other.known_budget <= cells.budget)
    changing = " and ".join(policy.name for policy in POLICIES if policy.changes_network)
    judged = _against_all(found, lambda other: other.meets(cells.budget))
    total = len(cells.requests) * len(found)
    kept = np.concatenate([each[OURS].meets(cells.budget)[each[OURS].judged] for each in found.values()])
    return (
        f"{total:,} requests: {len(found)} networks x {len(SPEEDS)} devices of {SPEEDS[0] / 1e9:g} to "
        f"{SPEEDS[-1] / 1e9:g} GMAC/s x {len(RATES)} links of {RATES[0] / 1e6:g} to {RATES[-1] / 1e6:,g} Mbit/s x "
        f"{', '.join(f'{count:,}' for count in INFERENCES)} inferences a download x budgets of "
        f"{', '.join(f'{100 * budget:g}' for budget in BUDGETS)} % x servers of {' and '.join(SERVERS)}. "
        "The slowest device has 512 kB of memory, a faster one as much more. Price weights are one, energy is 1 nJ a "
        "cycle of 1 GHz and 1 W on the link. A head is charged for what its file holds beside its weights, whoever's "
        "it is.\n\n"
        f"Of {len(POLICIES) - 1} other policies, none is cheaper than our plan in "
        f"**{1 - known.cheaper / known.cells:.2%}** of the cells that it serves within the budget as far as it can "
        f"know ({known.cheaper:,} of {known.cells:,} are cheaper; without {changing}, which change the network, "
        f"{known_alike.cheaper:,} of {known_alike.cells:,}), and in **{1 - judged.cheaper / judged.cells:.2%}** "
        "of those where what it does was measured on samples it has not seen and keeps the budget within one standard "
        f"error ({judged.cheaper:,} of {judged.cells:,}). Our own plans keep the budget, so measured, in "
        f"{kept.mean():.1%} of the cells whose plan was measured."
    )


def _against_all(found: Outcomes, serves: Callable[[Outcome], NDArray[np.bool_]]) -> Count:
    counts = [
        Count.of(each[OURS], other, other.served & serves(other) & each[OURS].served)
        for each in found.values()
        for name, other in each.items()
        if name != OURS
    ]
    return Count(sum(count.cells for count in counts), sum(count.cheaper for count in counts), 0.0)


def _overview(found: Outcomes, cells: Cells) -> Table:
    rows = []
    for policy in POLICIES:
        medians = [_number(_median_ratio(each[OURS], each[policy.name])) for each in found.values()]
        served = np.mean([each[policy.name].served.mean() for each in found.values()])
        judged = np.concatenate([each[policy.name].judged for each in found.values()])
        meets = np.concatenate([each[policy.name].meets(cells.budget) for each in found.values()])
        rows.append([policy.name, *medians, f"{served:.0%}", f"{meets[judged].mean():.0%}" if judged.any() else "-"])
    return Table(
        "Objective over ours, the median over the cells that a policy serves, whatever it loses",
        ("policy", *found, "served", "of these, budget kept"),
        rows,
    )


def _won(found: Outcomes, cells: Cells) -> Table:
    """Several may win a cell; ours counts where it has a plan, whether its drop was measured or not."""
    kept = {
        name: {
            policy: np.where(
                outcome.served if policy == OURS else outcome.meets(cells.budget), outcome.objective, np.inf
            )
            for policy, outcome in each.items()
        }
        for name, each in found.items()
    }
    best = {name: np.min([*each.values()], axis=0) for name, each in kept.items()}
    rows = []
    for policy in (policy.name for policy in POLICIES):
        wins = [np.mean((kept[name][policy] <= best[name] / SAME)[np.isfinite(best[name])]) for name in found]
        if any(wins):
            rows.append([policy, *(f"{share:.1%}" for share in wins)])
    return Table(
        "Cells won: the least objective of all that keep the budget as measured, or the same as the least",
        ("policy", *found),
        rows,
    )


def _inside(found: Outcomes) -> Table:
    rows = []
    for name, each in found.items():
        ours, inside = each[OURS], each[OURS].inside & each[OURS].served
        cells = [name, f"{inside.mean():.0%}"]
        for other in (MIN_CUT, UNIFORM, CODED):
            both = inside & each[other].served
            cells.append(
                f"{1 - np.median(ours.objective[both] / each[other].objective[both]):.0%}" if both.any() else "-"
            )
        rows.append(cells)
    return Table(
        "Where our cut lies inside the network: the median of what our plan saves of the objective",
        ("network", "cells", f"over float min-cut ({MIN_CUT})", f"over {UNIFORM}", f"over {CODED}"),
        rows,
    )


def _not_best(found: Outcomes, cells: Cells) -> Table:
    rows = []
    for name, each in found.items():
        for policy, other in _others(each):
            known = Count.of(each[OURS], other, other.served & (other.known_budget <= cells.budget))
            judged = Count.of(each[OURS], other, other.meets(cells.budget))
            if known.cheaper or judged.cheaper:
                rows.append(
                    [f"{policy} on {name}", f"{known.cheaper} of {known.cells:,}", f"{known.gain:.1%}",
                     f"{judged.cheaper} of {judged.cells:,}", f"{judged.gain:.1%}"]
                )  # fmt: skip
    names = ("who is cheaper than ours", "as far as it knows", "by", "budget kept as measured", "by")
    return Table("Where we are not the best: cells, and the median saving there", names, rows)


def _accuracies(found: Outcomes, cells: Cells) -> Table:
    rows = []
    for policy in POLICIES:
        row = [policy.name]
        for budget in BUDGETS:
            at = cells.budget == budget
            lost = np.concatenate([each[policy.name].drop[at] for each in found.values()])
            lost = lost[np.isfinite(lost)]
            row.append(f"{100 * lost.mean():.2f} / {100 * lost.max():.2f}" if len(lost) else "-")
        rows.append(row)
    return Table(
        "Points of accuracy lost on samples that no policy has seen: mean over cells / most, by budget",
        ("policy", *(f"{100 * budget:g} %" for budget in BUDGETS)),
        rows,
    )


def _marks(found: Outcomes, cells: Cells) -> Table:
    """The five check marks of Table I as numbers: medians over cells of all networks, beside ours."""
    rows = []
    for policy in POLICIES:
        several = [(each[OURS], each[policy.name]) for each in found.values()]
        time = np.concatenate([other.time_s / ours.time_s for ours, other in several])
        energy = np.concatenate([other.energy_j / ours.energy_j for ours, other in several])
        meets = np.concatenate([other.meets(cells.budget)[other.judged] for _, other in several])
        whole = [_float_bits(each) for each in found.values()]
        scaled = np.concatenate([
            (other.head_bits / bits)[other.device_share > 0] for (_, other), bits in zip(several, whole, strict=True)
        ])  # fmt: skip
        shared = np.concatenate([other.inside[other.served] for _, other in several])
        values = (
            _number(_median(time)), _number(_median(energy)), f"{meets.mean():.0%}" if len(meets) else "-",
            f"{_median(scaled):.1%}" if len(scaled) else "no head", f"{shared.mean():.0%}",
        )  # fmt: skip
        has = [mark in policy.marks.split() for mark in MARKS]
        marked = [f"{value} ✓" if mark else value for value, mark in zip(values, has, strict=True)]
        rows.append([policy.name, *marked])
    return Table(
        "Table I in numbers (✓ where the paper's table has one)",
        ("policy", "latency: time / ours", "energy / ours", "accuracy: budget kept", "scaling: head / float network",
         "offloading: cut inside"),
        rows,
    )  # fmt: skip


def _float_bits(each: Mapping[str, Outcome]) -> float:
    whole = each["all on the device, float"].head_bits
    return float(whole[np.isfinite(whole)][0])


def _others(each: Mapping[str, Outcome]) -> Iterator[tuple[str, Outcome]]:
    return ((name, other) for name, other in each.items() if name != OURS)


def _median_ratio(ours: Outcome, other: Outcome) -> float:
    return _median(other.objective / ours.objective)


def _median(values: Floats) -> float:
    kept = values[np.isfinite(values)]
    return float(np.median(kept)) if len(kept) else float("nan")


def _number(value: float) -> str:
    return "-" if not np.isfinite(value) else f"{value:.2f}" if value < 10 else f"{value:,.0f}"
