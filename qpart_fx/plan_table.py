"""A plan as a table that a person reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .plan import Plan

_SHOWN = 40
"""Rows of layers that are printed; of more, those in the middle are left out."""


def table(plan: Plan) -> str:
    """``plan`` in words and columns: the cut, the layers, the prices, the evidence."""
    on_device = sum(layer.bits is not None for layer in plan.layers)
    crossing = f"{', '.join(plan.cut)} {'crosses' if len(plan.cut) == 1 else 'cross'}"
    title = f"Plan for {plan.model}: {on_device} of {len(plan.layers)} layers on the device, {crossing}"
    sections = [title, _layers(plan), _uncounted(plan), _prices(plan), _payload(plan), _accuracy(plan)]
    return "\n\n".join(section for section in sections if section)


def si(value: float, unit: str) -> str:
    """``value`` with three significant digits and a prefix.

    >>> si(0.0213, "s"), si(41_000_000, "MAC"), si(0, "J")
    ('21.3 ms', '41 MMAC', '0 J')
    """
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n")):
        if abs(value) >= factor * 0.9995:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def percent(value: float | None) -> str:
    """A fraction as a percentage."""
    return "unknown" if value is None else f"{100 * value:.2f} %"


def _layers(plan: Plan) -> str:
    rows = [("layer", "operation", "MACs", "weights", "side", "resolution", "bits", "a weight", "bytes")]
    for layer in plan.layers:
        side = "server" if layer.bits is None else "device"
        resolution, bits, coded, size = "", "float", "", ""
        if layer.bits is not None:
            each = 8 * layer.weight_bytes / max(layer.parameters, 1)
            resolution, bits = f"{layer.resolution:g}", str(layer.bits)
            coded, size = f"{each:.2f}", f"{layer.weight_bytes:,.0f}"
        numbers = f"{layer.macs:,}", f"{layer.parameters:,}"
        rows.append((layer.name, layer.operation, *numbers, side, resolution, bits, coded, size))
    lines = _columns(rows, left=(0, 1, 4))
    if len(lines) > _SHOWN + 2:
        hidden = len(lines) - _SHOWN - 1
        half = _SHOWN // 2
        lines = [*lines[: half + 1], f"  ... {hidden} more layers ...", *lines[-half:]]
    return "\n".join(lines)


def _uncounted(plan: Plan) -> str:
    if not plan.uncounted:
        return ""
    return (
        f"NOT PRICED: nobody knows the MACs of {', '.join(plan.uncounted)}. Teach them with qpart.register_macs; "
        "profile.uncounted names the operations."
    )


def _prices(plan: Plan) -> str:
    prices = plan.prices
    share = "held" if not prices["download_time_s"] and plan.download_bytes else f"1/{plan.inferences_per_download:,}"
    rows = [
        ("per inference", "time", "energy", "cost"),
        ("head on the device", si(prices["device_time_s"], "s"), si(prices["device_energy_j"], "J"), ""),
        (f"download ({share})", si(prices["download_time_s"], "s"), si(prices["receive_energy_j"], "J"), ""),
        ("upload", si(prices["upload_time_s"], "s"), si(prices["transmit_energy_j"], "J"), ""),
        ("round trip", si(prices["round_trip_s"], "s"), "", ""),
        ("tail on the server", si(prices["server_time_s"], "s"), "", f"{prices['server_cost']:.3g}"),
        ("in all", si(plan.time_s, "s"), si(plan.energy_j, "J"), f"{plan.cost:.3g}"),
    ]
    bound = "" if plan.lower_bound is None else f" (no plan is below {plan.lower_bound:.6g})"
    return "\n".join([*_columns(rows, left=(0,)), f"objective {plan.objective:.6g}{bound}, method {plan.method}"])


def _payload(plan: Plan) -> str:
    widths = ", ".join(f"{name} at {bits} bits" for name, bits in plan.activation_bits.items()) or "as it is"
    coded = any(layer.coded_bits is not None for layer in plan.layers)
    what = "update of the head that the device holds" if plan.updates_held_head else "file of the head"
    what = what if coded or plan.updates_held_head else "weights of the head, without biases, norms and the graph,"
    return (
        f"{what} {si(plan.download_bytes, 'B')}; "
        f"upload {si(plan.upload_bytes, 'B')} an inference ({widths}); "
        f"device memory {si(plan.device_memory_bytes, 'B')}"
    )


def _accuracy(plan: Plan) -> str:
    what = "answers that differ from the float model's" if plan.labelled is False else "accuracy drop"
    parts = [f"{what}: at most {percent(plan.max_accuracy_drop)} asked, {percent(plan.predicted_drop)} predicted"]
    if plan.measured_drop is None:
        parts.append("not measured")
    else:
        on = "" if plan.samples is None else f" on {plan.samples:,} held-out samples"
        gain = " (a gain)" if plan.measured_drop < 0 else ""
        parts.append(f"{percent(plan.measured_drop)}{gain} measured{on}")
    if plan.drop_upper_bound is not None and plan.confidence is not None:
        of_all = plan.table_drop_upper_bound
        beside = "" if of_all is None else f" ({percent(of_all)} for all plans of the profile at once)"
        parts.append(f"{percent(plan.drop_upper_bound)} at most with {100 * plan.confidence:g} % confidence{beside}")
        if plan.drop_upper_bound > plan.max_accuracy_drop:
            would = "no number of samples" if plan.samples_needed is None else f"about {plan.samples_needed:,} samples"
            parts.append(f"which proves less than was asked ({would} like these would prove it)")
    return ", ".join(parts)


def _columns(rows: Sequence[Sequence[str]], left: Sequence[int]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  " + "  ".join(cells).rstrip()

    return [line(row) for row in rows]
