"""This machine as the :class:`~qpart_fx.Device` of a request: ``qpart calibrate-device``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from .errors import RequestError, require_packages
from .request import PAPER_KAPPA, Device

if TYPE_CHECKING:
    from .device.calibration import Calibration

T = TypeVar("T")

_OFTEN = 0.8
"""The share of blocks whose errors are reported."""


@dataclass(frozen=True)
class Report:
    """The ``device``, and what it was measured by."""

    device: Device
    calibration: Calibration

    def __str__(self) -> str:
        """A table: nanoseconds for a MAC, for bytes of values, near and far, for bytes of weights, and for a call."""
        titles = "a MAC", "a byte", "a far byte", "a weight's byte", "a call"
        lines = [f"{'nanoseconds for':22}" + "".join(f"{title:>16}" for title in titles)]
        lines += [
            f"  {kind.replace('_', ' '):20}" + "".join(f"{value * 1e9:16.4g}" for value in astuple(cycles))
            for kind, cycles in self.calibration.operators.items()
        ]
        errors = np.sort([abs(case.fitted / case.seconds - 1) for case in self.calibration.cases])
        off = errors[int(_OFTEN * (len(errors) - 1))]
        lines.append(f"\n{_OFTEN:.0%} of {len(errors)} blocks that were run take what that makes within {off:.0%}.")
        if off > 0.2:
            lines.append("That is far off: was something else running? Measure again on an idle machine.")
        return "\n".join(lines)


def calibrate_device(
    *,
    integers: bool = False,
    threads: int | None = None,
    clock_hz: float = 1e9,
    power_w: float | None = None,
    memory_bytes: int | None = None,
) -> Report:
    """Measure this machine, as heads run on it: half a minute, during which nothing else should run. Needs no torch.

    Args:
        integers: with 8-bit values inside, as ``Device.activation_bits_inside=8`` asks for.
        threads: that a head may use; by default as many as there are cores.
        clock_hz: cycles are those of this clock.
        power_w: what it takes while it computes, watts.
        memory_bytes: what heads must fit in.

    Raises:
        MissingDependencyError: without the extra ``calibrate``.
        RequestError: a number is impossible.
    """
    if threads is not None and threads < 1:
        raise RequestError(f"threads = {threads}: give a number above 0, or None for as many as there are cores")
    inside: Literal[8] | None = 8 if integers else None
    kappa = PAPER_KAPPA if power_w is None else power_w / clock_hz**3 if clock_hz > 0 else 0.0
    require_packages("onnx onnxruntime constriction", "measuring a device", extra="calibrate")
    # refused before anything is measured
    Device(clock_hz, 1.0, kappa, memory_bytes, activation_bits_inside=inside)
    from .device.calibration import calibrate

    found = calibrate(integers, threads, _with_progress)
    seconds_per_mac = found.operators["convolution"].per_mac or found.operators["linear"].per_mac or 1e-12
    device = Device(
        clock_hz, seconds_per_mac * clock_hz, kappa, memory_bytes, activation_bits_inside=inside,
        operators=found.at(clock_hz),
    )  # fmt: skip
    return Report(device, found)


def _with_progress(items: Sequence[T]) -> Iterator[T]:
    """On standard error, if that is a terminal: tqdm is an extra of the package that a device does not have."""
    for number, item in enumerate(items):
        if sys.stderr.isatty():
            print(f"\rmeasuring, {number} of {len(items)} blocks ", end="", file=sys.stderr, flush=True)
        yield item
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
