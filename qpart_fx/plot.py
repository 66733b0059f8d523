"""A plan as a picture: bits by layer, and the prices by cut in the manner of the paper's Fig. 5."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ArtifactError, MissingDependencyError
from .plan_table import percent, si

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .plan import CutPrice, Plan

_DEVICE, _SERVER, _CHOSEN = "#2a6f97", "#d9dee3", "#c1121f"
_WORDS = 24
"""More layers or cuts than this, and the axis is numbered instead of named."""


def plot_plan(plan: Plan, path: str | Path | None = None) -> Figure:
    """Draw ``plan``; write it to ``path`` (png, svg, pdf) if one is given.

    Raises:
        MissingDependencyError: matplotlib is not installed (the extra ``plot``).
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingDependencyError("plotting", extra="plot") from error
    width = min(18.0, max(9.0, 0.45 * len(plan.layers) + 4))
    figure = Figure(figsize=(width, 9.5), layout="constrained")
    bits, *prices = figure.subplots(5, 1, height_ratios=[2, 1, 1, 1, 1])
    _draw_bits(bits, plan)
    terms = (
        ("time_s", "time", "s"),
        ("energy_j", "energy", "J"),
        ("cost", "server cost", ""),
        ("objective", "objective", ""),
    )
    for axes, term in zip(prices, terms, strict=True):
        _draw_price(axes, plan, *term)
    _name_cuts(prices[-1], plan)
    on_device = sum(layer.bits is not None for layer in plan.layers)
    drop = plan.measured_drop if plan.measured_drop is not None else plan.predicted_drop
    known = "measured" if plan.measured_drop is not None else "predicted"
    figure.suptitle(
        f"{plan.model}: {on_device} of {len(plan.layers)} layers on the device, "
        f"download {si(plan.download_bytes, 'B')}, upload {si(plan.upload_bytes, 'B')}, "
        f"{known} drop {percent(drop)} of {percent(plan.max_accuracy_drop)}",
        fontsize=11,
    )
    if path is not None:
        try:
            figure.savefig(path, dpi=120)
        except (OSError, ValueError) as error:
            raise ArtifactError(f"cannot write {path}: {error}") from error
    return figure


def _draw_bits(axes: Axes, plan: Plan) -> None:
    highest = max([16, *plan.weight_bits.values()]) if plan.weight_bits else 16
    for place, layer in enumerate(plan.layers):
        axes.bar(place, layer.bits or highest, color=_SERVER if layer.bits is None else _DEVICE, width=0.8)
        if layer.bits is not None:
            axes.text(place, layer.bits + 0.2, str(layer.bits), ha="center", fontsize=8)
    on_device = sum(layer.bits is not None for layer in plan.layers)
    axes.axvline(on_device - 0.5, color=_CHOSEN, linestyle="--", linewidth=1.5)
    sent = ", ".join(f"{name} at {bits} bits" for name, bits in plan.activation_bits.items()) or "as it is"
    left = on_device <= len(plan.layers) / 2
    axes.annotate(
        f" the cut: {sent} ",
        (on_device - 0.5, highest * 1.08),
        ha="left" if left else "right",
        color=_CHOSEN,
        fontsize=9,
    )
    axes.set(ylabel="bits a weight", ylim=(0, highest * 1.2), xlim=(-0.7, len(plan.layers) - 0.3))
    axes.set_yticks(range(0, highest + 1, 4))
    axes.set_title("bits by layer (grey: on the server, in float)", fontsize=10, loc="left")
    if len(plan.layers) <= _WORDS:
        names = [layer.name for layer in plan.layers]
        axes.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8)
    else:
        axes.set_xlabel("layer")
    _clean(axes)


def _draw_price(axes: Axes, plan: Plan, field: str, name: str, unit: str) -> None:
    values = [getattr(price, field) for price in plan.by_cut]
    scale, prefix = _scale(values)
    axes.plot([value / scale for value in values], color=_DEVICE, marker="o", markersize=3.5, linewidth=1.2)
    for place, price in enumerate(plan.by_cut):
        if not price.feasible:
            axes.plot(place, values[place] / scale, marker="x", color="#888888", markersize=8)
        if price.cut == plan.cut:
            axes.plot(place, values[place] / scale, marker="o", color=_CHOSEN, markersize=8)
    axes.set_ylabel(f"{name}\n{prefix}{unit}" if unit else f"{name}\nx {scale:g}", fontsize=9)
    axes.set_ylim(bottom=0)
    axes.tick_params(labelbottom=False)
    _clean(axes)


def _name_cuts(axes: Axes, plan: Plan) -> None:
    axes.tick_params(labelbottom=True)
    axes.set_xlabel("layers on the device (red: chosen; x: breaks a limit of the request)", fontsize=9)
    if len(plan.by_cut) <= _WORDS:
        axes.set_xticks(range(len(plan.by_cut)), [_label(price) for price in plan.by_cut], fontsize=8)


def _label(price: CutPrice) -> str:
    return str(price.layers)


def _scale(values: list[float]) -> tuple[float, str]:
    largest = max(values, default=0.0)
    for factor, prefix in ((1.0, ""), (1e-3, "m"), (1e-6, "µ")):
        if largest >= factor:
            return factor, prefix
    return (1e-9, "n") if largest > 0 else (1.0, "")


def _clean(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)
