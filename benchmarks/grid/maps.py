"""Heat maps over the speed of the device and the rate of the link."""

from __future__ import annotations

from collections.abc import Mapping
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
    from matplotlib import pyplot as plt
    from matplotlib.colors import LogNorm

    drawing, axes = plt.subplots(
        len(RIVALS), len(found), figsize=(2.3 * len(found) + 1, 2.3 * len(RIVALS)), squeeze=False, layout="constrained"
    )
    at = _slice(cells, inferences=_INFERENCES)
    for row, rival in zip(axes, RIVALS, strict=True):
        for axis, (name, each) in zip(row, found.items(), strict=True):
            ratio = _map(each[rival].objective / each[OURS].objective, cells, at)
            image = axis.imshow(ratio, origin="lower", cmap="viridis", norm=LogNorm(1, 20), aspect="auto")
            for (y, x), value in np.ndenumerate(ratio):
                if np.isfinite(value):
                    colour = "white" if value < 5 else "black"
                    axis.text(
                        x,
                        y,
                        f"{value:.3g}" if value < 99.5 else ">99",
                        ha="center",
                        va="center",
                        fontsize=5.5,
                        color=colour,
                    )
            _label(axis, first=axis in row[:1], last=rival == RIVALS[-1])
            if rival == RIVALS[0]:
                axis.set_title(name, fontsize=9)
        row[0].set_ylabel(f"over {rival}\n\ndevice, GMAC/s", fontsize=8)
    drawing.colorbar(image, ax=axes, label="objective / ours", shrink=0.6)
    title = (
        f"Objective of three policies over ours: budget {100 * _BUDGET:g} %, {_INFERENCES} inferences a download, the "
        "slower server; blank where the policy refuses"
    )
    figure = save_figure("grid-gains", title, drawing, report)
    plt.close(drawing)
    return figure


def cut_map(found: Outcomes, cells: Cells, report: Path) -> Figure:
    """Where our cut lies, and which other policy comes nearest within the budget."""
    from matplotlib import pyplot as plt

    drawing, axes = plt.subplots(
        len(INFERENCES), len(found), figsize=(2.3 * len(found) + 1, 2.1 * len(INFERENCES)), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for row, inferences in zip(axes, INFERENCES, strict=True):
        at = _slice(cells, inferences=inferences)
        for axis, (name, each) in zip(row, found.items(), strict=True):
            share = _map(each[OURS].device_share, cells, at)
            image = axis.imshow(share, origin="lower", cmap="cividis", vmin=0, vmax=1, aspect="auto")
            nearest = _nearest(each, cells)[at].reshape(share.shape)
            for (y, x), (ratio, cuts) in np.ndenumerate(nearest):
                axis.text(
                    x,
                    y,
                    f"{ratio:.2f}" if cuts else "",
                    ha="center",
                    va="center",
                    fontsize=5.5,
                    color="black" if share[y, x] > 0.5 else "white",
                )
            _label(axis, first=axis in row[:1], last=inferences == INFERENCES[-1])
            if inferences == INFERENCES[0]:
                axis.set_title(name, fontsize=9)
        row[0].set_ylabel(f"{inferences:,} inferences\n\ndevice, GMAC/s", fontsize=8)
    drawing.colorbar(image, ax=axes, label="share of the MACs on the device", shrink=0.6)
    title = (
        "Where our plans cut, and the objective of the nearest other policy over ours: budget "
        f"{100 * _BUDGET:g} %, the slower server"
    )
    figure = save_figure("grid-cuts", title, drawing, report)
    plt.close(drawing)
    return figure


def _nearest(each: Mapping[str, Outcome], cells: Cells) -> np.ndarray[Any, Any]:
    """Of each cell, the least objective over ours of all others that keep the budget, and whether there is one."""
    ratios = [
        np.where(other.meets(cells.budget), other.objective / each[OURS].objective, np.inf)
        for name, other in each.items()
        if name != OURS
    ]
    least = np.min(ratios, axis=0)
    return np.array(list(zip(least, np.isfinite(least), strict=True)), dtype=[("ratio", "f8"), ("found", "?")])


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
