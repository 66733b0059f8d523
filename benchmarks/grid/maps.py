"""Heat maps over the speed of the device and the rate of the link."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.reporting.section import Figure, save_figure

from .cells import BUDGETS, INFERENCES, RATES, SPEEDS, Cells
from .outcome import Outcome
from .policies import OURS

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

Outcomes = Mapping[str, Mapping[str, Outcome]]

RIVALS = ("DADS", "uniform 8 bits", "QPART, as in the paper")
_BUDGET, _INFERENCES = BUDGETS[2], 100


def gain_map(found: Outcomes, cells: Cells, report: Path) -> Figure:
    """How much cheaper our plans are than three others."""
    from matplotlib.colors import LogNorm

    at = _slice(cells, inferences=_INFERENCES)

    def panel(rival: str, each: Mapping[str, Outcome]) -> Panel:
        ratio = _map(each[rival].objective / each[OURS].objective, cells, at)
        return Panel(ratio, ratio, dark=ratio < 5)

    title = (
        f"Objective of three policies over ours: budget {100 * _BUDGET:g} %, {_INFERENCES} inferences a download, the "
        "slower server; blank where the policy refuses"
    )
    rows = {f"over {rival}": [panel(rival, each) for each in found.values()] for rival in RIVALS}
    look = {"cmap": "viridis", "norm": LogNorm(1, 20)}
    return _draw("grid-gains", title, "objective / ours", rows, [*found], look, report)


def cut_map(found: Outcomes, cells: Cells, report: Path) -> Figure:
    """Where our cut lies, and which other policy comes nearest within the budget."""

    def panel(inferences: int, each: Mapping[str, Outcome]) -> Panel:
        at = _slice(cells, inferences=inferences)
        share = _map(each[OURS].device_share, cells, at)
        return Panel(share, _map(_nearest(each, cells), cells, at), dark=share <= 0.5)

    title = (
        "Where our plans cut, and the objective of the nearest other policy over ours: budget "
        f"{100 * _BUDGET:g} %, the slower server"
    )
    rows = {f"{count:,} inferences": [panel(count, each) for each in found.values()] for count in INFERENCES}
    look = {"cmap": "cividis", "vmin": 0, "vmax": 1}
    return _draw("grid-cuts", title, "share of the MACs on the device", rows, [*found], look, report)


@dataclass(frozen=True)
class Panel:
    """A map: what its colours say, the numbers written in it, and where the colours are dark; shape (speeds, rates)."""

    colours: Floats
    numbers: Floats
    dark: NDArray[np.bool_]


def _draw(
    name: str,
    title: str,
    scale: str,
    rows: Mapping[str, Sequence[Panel]],
    networks: Sequence[str],
    look: Mapping[str, Any],
    report: Path,
) -> Figure:
    """Rows of panels, a column a network."""
    from matplotlib import pyplot as plt

    size = 2.3 * len(networks) + 1, 2.2 * len(rows)
    drawing, axes = plt.subplots(len(rows), len(networks), figsize=size, squeeze=False, layout="constrained")
    for y, (label, panels) in enumerate(rows.items()):
        for x, panel in enumerate(panels):
            axis = axes[y, x]
            image = axis.imshow(panel.colours, origin="lower", aspect="auto", **look)
            for place, number in np.ndenumerate(panel.numbers):
                if np.isfinite(number):
                    words = f"{number:.3g}" if number < 99.5 else ">99"
                    colour = "white" if panel.dark[place] else "black"
                    axis.text(*place[::-1], words, ha="center", va="center", fontsize=5.5, color=colour)
            _label(axis, first=x == 0, last=y == len(rows) - 1)
            if y == 0:
                axis.set_title(networks[x], fontsize=9)
        axes[y, 0].set_ylabel(f"{label}\n\ndevice, GMAC/s", fontsize=8)
    drawing.colorbar(image, ax=axes, label=scale, shrink=0.6)
    figure = save_figure(name, title, drawing, report)
    plt.close(drawing)
    return figure


def _nearest(each: Mapping[str, Outcome], cells: Cells) -> Floats:
    """Of each cell, the least objective over ours of all others that keep the budget; inf where none does."""
    ratios = [
        np.where(other.meets(cells.budget), other.objective / each[OURS].objective, np.inf)
        for name, other in each.items()
        if name != OURS
    ]
    found: Floats = np.min(ratios, axis=0)
    return found


def _slice(cells: Cells, inferences: int) -> Integers:
    """The cells of one map, by speed and then rate."""
    chosen = (cells.budget == _BUDGET) & (cells.inferences == inferences) & (cells.server == 0)
    return np.flatnonzero(chosen)


def _map(values: Floats, cells: Cells, at: Integers) -> Floats:
    assert (np.diff(cells.speed[at]) >= 0).all()
    found: Floats = values[at].reshape(len(SPEEDS), len(RATES))
    return found


def _label(axis: Any, *, first: bool, last: bool) -> None:
    rates, speeds = [f"{rate / 1e6:g}" for rate in RATES], [f"{speed / 1e9:.2g}" for speed in SPEEDS]
    axis.set_xticks(range(len(rates)), rates if last else [], fontsize=6)
    axis.set_yticks(range(len(speeds)), speeds if first else [], fontsize=6)
    if last:
        axis.set_xlabel("link, Mbit/s", fontsize=8)
