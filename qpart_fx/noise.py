"""Measured noise of layers and cuts, and the paper's parameters read off it (eqs. 18 to 22)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .drop_curve import DropCurve

Floats = NDArray[np.float64]

MEASURED = (2, 3, 4, 6, 9)
"""The widths at which noise is measured: low ones find where the accuracy breaks, high ones where noise is linear."""

WIDTHS = tuple(range(2, 17))
"""The widths that a plan can use."""

LOW = (2, 3, 4)
"""The widths at which the noise of a value is measured though it is predicted: there predictions fail."""

_BROKEN = 0.4
"""A drop beyond this is no measure of how much noise there is: the answers are as good as random."""


@dataclass(frozen=True, slots=True)
class NoiseTable:
    """What quantizing one thing alone does to the output: a row for each thing, a column for each of ``MEASURED``.

    ``noise``: mean squared L2 norm of the change of a sample's scores (sigma of eqs. 18, 19). ``drop``: the accuracy
    that went with it, a fraction, measured on ``samples`` samples.
    """

    noise: Floats
    drop: Floats
    samples: int

    def at_drop(self, drop: float, curve: DropCurve) -> Floats:
        """The noise at which each row has lost ``drop`` of the accuracy, the numerator of eq. 22; shape (rows,).

        Taken from the width whose measured drop is nearest, and carried from there to ``drop`` along ``curve``: between
        two widths noise jumps by more than can be interpolated. A row that no width disturbs, or that every width
        breaks, stands as much as ``curve`` says for the output itself.
        """
        least = 0.5 / self.samples
        usable = (self.drop > least) & (self.drop < _BROKEN) & (self.noise > 0)
        distance = np.where(usable, np.abs(np.log(np.maximum(self.drop, least) / drop)), np.inf)
        nearest = distance.argmin(axis=1)
        reference = curve.noise_at(drop)
        found = np.full(len(self.noise), reference)
        for row, column in enumerate(nearest):
            if usable[row, column]:
                found[row] = self.noise[row, column] * reference / curve.noise_at(float(self.drop[row, column]))
        return found


def noise_at_zero_bits(measured: Floats) -> Floats:
    """s of eqs. 18 and 19, the factor before ``4**-bits``, from the widest width measured, where noise is linear.

    Args:
        measured: noise at ``MEASURED``, shape (rows, len(MEASURED)). Returns shape (rows,).
    """
    return np.asarray(measured[:, -1] * 4.0 ** MEASURED[-1])


def between_measured(measured: Floats) -> Floats:
    """The noise at each of ``WIDTHS`` from that at ``MEASURED``: eqs. 18 and 19 times a factor, geometric in between.

    Shapes (rows, len(MEASURED)) and (rows, len(WIDTHS)).
    """
    widths = np.array(WIDTHS, dtype=np.float64)
    factors = np.maximum(measured, np.finfo(np.float64).tiny) * 4.0 ** np.array(MEASURED)
    return np.stack([np.exp(np.interp(widths, MEASURED, np.log(row))) for row in factors]) * 4.0**-widths


def corrected(predicted: Floats, measured: Floats, widths: Sequence[int] = MEASURED) -> Floats:
    """``predicted`` noise at each of ``WIDTHS`` times what ``measured`` at ``widths`` is of it, geometric in between.

    Shapes (rows, len(WIDTHS)) and (rows, len(widths)). A row in which either is zero somewhere stays as predicted.
    """
    table = predicted.copy()
    usable = (predicted > 0).all(axis=1) & (measured > 0).all(axis=1)
    ratio = np.log(measured[usable] / predicted[usable][:, np.array(widths) - WIDTHS[0]])
    for row, factors in zip(np.flatnonzero(usable), ratio, strict=True):
        table[row] *= np.exp(np.interp(WIDTHS, widths, factors))
    return table


def noise_by_width(measured: Floats) -> Floats:
    """The noise at each of ``WIDTHS``, shape (rows, len(WIDTHS)), never rising with the width.

    As measured; geometric between the widths measured, and along eqs. 18 and 19 beyond the last. At 2 and 3 bits, and
    in layers with outliers at 4 to 6, those equations are off by up to a hundred times: widths chosen by them alone
    would break the accuracy or waste bits.
    """
    widths = np.array(WIDTHS, dtype=np.float64)
    tiny = np.finfo(np.float64).tiny
    table = np.zeros((len(measured), len(WIDTHS)))
    for row, values in zip(table, _continued(measured), strict=True):
        row[:] = np.exp(np.interp(widths, MEASURED, np.log(np.maximum(values, tiny))))
    beyond = widths > MEASURED[-1]
    table[:, beyond] = noise_at_zero_bits(_continued(measured))[:, None] * 4.0 ** -widths[beyond]
    table[table <= 2 * tiny] = 0.0  # nothing was there to interpolate
    return np.asarray(np.maximum.accumulate(table[:, ::-1], axis=1)[:, ::-1])


def _continued(measured: Floats) -> Floats:
    """Noise that was too rare to be seen at a width follows from that at the width before, by eqs. 18 and 19."""
    table = measured.copy()
    for column in range(1, len(MEASURED)):
        fall = 4.0 ** (MEASURED[column - 1] - MEASURED[column])
        table[:, column] = np.where(table[:, column] > 0, table[:, column], table[:, column - 1] * fall)
    return table
