"""The paper's figures of the six-layer network, drawn from what was found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

import qpart_fx as qpart

from .mnist import AUTO_ENCODER, NONE, OURS, PAPER, PRUNING, Row, Threshold
from .outcome import Outcome

COLOURS = {NONE: "#6b7280", AUTO_ENCODER: "#e08e0b", PRUNING: "#2f9e44", PAPER: "#7048e8", OURS: "#c1121f"}
_MARKERS = {NONE: "o", AUTO_ENCODER: "^", PRUNING: "s", PAPER: "D", OURS: "v"}

_OBJECTIVE: tuple[str, Callable[[Outcome], float]] = ("objective (eq. 17)", lambda each: each.objective)
_TIME: tuple[str, Callable[[Outcome], float]] = ("time, ms", lambda each: 1e3 * each.prices.time_s)
_ENERGY: tuple[str, Callable[[Outcome], float]] = ("energy, mJ", lambda each: 1e3 * each.prices.energy_j)
_COST: tuple[str, Callable[[Outcome], float]] = ("server cost, thousandths", lambda each: 1e3 * each.prices.server_cost)
_PAYLOAD: tuple[str, Callable[[Outcome], float]] = ("payload, kB", lambda each: each.payload_bytes / 1e3)


def layerwise_reduction(plans: Mapping[str, qpart.Plan]) -> Figure:
    """Fig. 3: by how much the weights of each layer shrink."""
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    axes = figure.subplots()
    for place, (method, plan) in enumerate(plans.items()):
        shares = reductions(plan)
        left = [layer + (place - (len(plans) - 1) / 2) * 0.38 for layer in range(1, len(shares) + 1)]
        bars = axes.bar(left, [100 * each for each in shares], 0.36, color=COLOURS[method], label=method)
        axes.bar_label(bars, fmt="%.0f", fontsize=8)
    axes.axhspan(62, 84, color="#d9dee3", alpha=0.6, zorder=0, label="the paper's range")
    axes.set(xlabel="layer", ylabel="smaller than float, %", ylim=(0, 108))
    figure.legend(loc="outside upper center", ncols=3, fontsize=9)
    return figure


def reductions(plan: qpart.Plan) -> list[float]:
    """Of each layer on the device, the part of its float weights that is saved."""
    return [1 - each.weight_bytes / (4 * each.parameters) for each in plan.layers]


def quantized_and_not(rows: Sequence[Row]) -> Figure:
    """Fig. 5: time, energy and server cost over the cut."""
    return _over_cuts(rows, (NONE, PAPER, OURS), (_TIME, _ENERGY, _COST), columns=3)


def all_methods(rows: Sequence[Row]) -> Figure:
    """Figs. 7 to 10: objective, time, energy and payload over the cut."""
    methods = (NONE, AUTO_ENCODER, PRUNING, PAPER, OURS)
    return _over_cuts(rows, methods, (_OBJECTIVE, _TIME, _ENERGY, _PAYLOAD), columns=2, log=True)


def sizes_over_thresholds(thresholds: Mapping[str, Sequence[Threshold]], float_bytes: int) -> Figure:
    """Fig. 6: bytes of the whole network over the drop that is allowed, and over what was really lost."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    allowed, lost = figure.subplots(1, 2, sharey=True)
    for method, found in thresholds.items():
        style = {"color": COLOURS[method], "marker": _MARKERS[method], "label": method}
        size = [each.bytes / 1e3 for each in found]
        allowed.plot([100 * each.allowed for each in found], size, **style)
        lost.errorbar(
            [100 * each.lost for each in found], size, xerr=[100 * each.error for each in found], capsize=2, **style
        )
    for axes in (allowed, lost):
        axes.axhline(float_bytes / 1e3, color=COLOURS[NONE], label="float")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.grid(alpha=0.25, which="both")
    allowed.set_xscale("log")
    allowed.xaxis.set_major_formatter("{x:g}")
    allowed.set(xlabel="accuracy drop allowed, points", ylabel="file of the whole network, kB")
    lost.set(xlabel="accuracy lost on test digits, points (± standard error)")
    allowed.legend(fontsize=8, loc="center right", bbox_to_anchor=(1, 0.75))
    return figure


def _over_cuts(
    rows: Sequence[Row],
    methods: Sequence[str],
    terms: Sequence[tuple[str, Callable[[Outcome], float]]],
    *,
    columns: int,
    log: bool = False,
) -> Figure:
    lines = len(terms) // columns
    figure = Figure(figsize=(10, 3.1 * lines + 0.4), layout="constrained")
    every: list[Axes] = figure.subplots(lines, columns, squeeze=False).ravel().tolist()
    for axes, (name, value) in zip(every, terms, strict=True):
        for method in methods:
            found = [row[method] for row in rows]
            axes.plot(
                [each.layers for each in found], [value(each) for each in found], color=COLOURS[method],
                marker=_MARKERS[method], markersize=5, linewidth=1.5, label=method,
                linestyle="--" if method == AUTO_ENCODER else "-",
            )  # fmt: skip
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:,g}")
        axes.set(xlabel="layers on the device, p", ylabel=name)
        axes.grid(alpha=0.25)
    figure.legend(*every[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(methods), fontsize=9)
    return figure
