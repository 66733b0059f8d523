"""Noise of layers by resolution and of crossing values by width: predicted, measured, and the best of both (eqs. 18 to
22).

A table's ``columns`` are resolutions of weights or widths of values; every width is a resolution too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .drop_curve import DropCurve

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]

WIDTHS = tuple(range(2, 17))
"""The widths that a plan can use: of what crosses, and of the paper's weights."""

MEASURED = (2, 3, 4, 5, 6, 8)
"""The widths at which the noise of layers is measured: at the low ones predictions fail, at the others they are
checked."""

LOW = (2, 3, 4)
"""The widths at which the noise of a value is measured though it is predicted: there predictions fail."""

PREDICTED_FROM = 4
"""From this width on noise is predicted: below, errors are no longer small."""

LINEAR_FROM = 9
"""From this width on noise falls as eqs. 18 and 19 say, fourfold a bit, in most layers."""

_BROKEN = 0.4
"""A drop beyond this is no measure of how much noise there is: the answers are as good as random."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Noise estimated from samples, one row a disturbed thing and one column a width, NaN where none was looked at.

    ``noise``: mean squared L2 norm of the change of a sample's scores (sigma of eqs. 18, 19). ``error``: its relative
    standard error.
    """

    noise: Floats
    error: Floats

    @classmethod
    def of(cls, draws: Floats) -> Estimate:
        """The mean of ``draws``, shape (draws, rows, columns); a single draw may be off by all of itself."""
        count = len(draws)
        mean = draws.mean(axis=0)
        if count < 2:
            return cls(mean, np.ones_like(mean))
        spread = draws.std(axis=0, ddof=1) / np.sqrt(count)
        return cls(mean, np.divide(spread, mean, out=np.ones_like(mean), where=mean > 0))

    @classmethod
    def stack(cls, rows: Sequence[Estimate]) -> Estimate:
        """One row of each of ``rows``, whose arrays have a single dimension."""
        columns = len(WIDTHS)
        noise, error = [each.noise for each in rows], [each.error for each in rows]
        return cls(np.array(noise).reshape(-1, columns), np.array(error).reshape(-1, columns))


@dataclass(frozen=True, slots=True)
class NoiseTable(Estimate):
    """What quantizing one thing alone did to the output at some widths, and what went with it.

    ``drop``: the accuracy that was lost, a fraction, on ``samples`` samples.
    """

    drop: Floats
    samples: int

    def at_drop(self, drop: float, curve: DropCurve) -> Floats:
        """The noise at which each row has lost ``drop`` of the accuracy, the numerator of eq. 22; shape (rows,).

        Taken from the width whose measured drop is nearest, and carried from there to ``drop`` along ``curve``: between
        two widths noise jumps by more than can be interpolated. A row that no width disturbs, or that every width
        breaks, stands as much as ``curve`` says for the output itself.
        """
        least = 0.5 / self.samples
        usable = (self.drop > least) & (self.drop < _BROKEN) & (self.noise > 0)  # all false for NaN
        distance = np.where(usable, np.abs(np.log(np.fmax(self.drop, least) / drop)), np.inf)
        nearest = distance.argmin(axis=1)
        reference = curve.noise_at(drop)
        found = np.full(len(self.noise), reference)
        for row, column in enumerate(nearest):
            if usable[row, column]:
                found[row] = self.noise[row, column] * reference / curve.noise_at(float(self.drop[row, column]))
        return found


def by_width(noise: Floats, widths: Sequence[int], columns: Sequence[float] = WIDTHS) -> Floats:
    """Noise at each of ``columns`` from that at some ``widths``: eqs. 18 and 19 times a factor, geometric in between.

    Shapes (rows, len(widths)) and (rows, len(columns)).
    """
    every = np.array(columns, dtype=np.float64)
    factors = np.maximum(noise, np.finfo(np.float64).tiny) * 4.0 ** np.array(widths, dtype=np.float64)
    table = np.array([np.exp(np.interp(every, widths, np.log(row))) for row in factors])
    return table.reshape(-1, len(columns)) * 4.0**-every


def combined(
    predicted: Estimate, measured: Estimate, widths: Sequence[int], columns: Sequence[float] = WIDTHS
) -> Floats:
    """The noise at each of ``columns``, shape (rows, len(columns)), of what was predicted at all and measured at some.

    From ``PREDICTED_FROM`` bits on predictions are multiplied by what was measured of them: in so far as the two differ
    by more than their errors explain (shrunk as by James and Stein, 1961), geometric between the widths measured, and
    half as much a bit beyond, as the terms do that predictions leave out. Below, only measurements count, geometric
    between them; where there is none, because the width above broke the model, noise is taken to rise fourfold a bit.

    Args:
        predicted: at each of ``columns``; those below ``PREDICTED_FROM`` are not looked at.
        measured: at ``widths``, rising, ``PREDICTED_FROM`` and the first of ``columns`` among them.
    """
    table = predicted.noise.copy()
    checked = [column for column, width in enumerate(widths) if width >= PREDICTED_FROM]
    places = [columns.index(widths[column]) for column in checked]
    every = np.array(columns, dtype=np.float64)
    lowest = every < PREDICTED_FROM
    for row in range(len(table)):
        off = np.zeros(len(checked))
        for number, (column, place) in enumerate(zip(checked, places, strict=True)):
            found, expected = measured.noise[row, column], predicted.noise[row, place]
            if found > 0 and expected > 0:
                ratio = np.log(found / expected)
                variance = measured.error[row, column] ** 2 + predicted.error[row, place] ** 2
                off[number] = ratio * max(0.0, 1 - variance / ratio**2) if ratio else 0.0
        beyond = np.maximum(every - widths[checked[-1]], 0)
        table[row] *= np.exp(np.interp(every, [widths[column] for column in checked], off) * 0.5**beyond)
        below = {float(PREDICTED_FROM): float(table[row, columns.index(PREDICTED_FROM)])}
        for column, width in reversed([*enumerate(widths[: checked[0]])]):
            found, (above, last) = float(measured.noise[row, column]), [*below.items()][-1]
            below[width] = found if found > 0 else last * 4.0 ** (above - width)
        table[row, lowest] = _geometric(every[lowest], dict(reversed(below.items())))
    return table


def _geometric(every: Floats, known: Mapping[float, float]) -> Floats:
    """The noise at each of ``every`` from what is ``known`` at some, rising; to the last bit where it is known."""
    between = np.exp(np.interp(every, [*known], np.log(np.maximum([*known.values()], np.finfo(np.float64).tiny))))
    return np.array([known.get(width, noise) for width, noise in zip(every.tolist(), between, strict=True)])


def noise_by_width(measured: Floats, columns: Sequence[float] = WIDTHS) -> Floats:
    """The noise at each of ``columns`` of what cannot be predicted, from that at ``MEASURED``, never rising.

    Shapes (rows, len(MEASURED)) and (rows, len(columns)). As measured; geometric between the widths measured, and along
    eqs. 18 and 19 beyond the last.
    """
    every = np.array(columns, dtype=np.float64)
    tiny = np.finfo(np.float64).tiny
    table = np.zeros((len(measured), len(columns)))
    seen = continued(measured, MEASURED)
    for row, values in zip(table, seen, strict=True):
        row[:] = np.exp(np.interp(every, MEASURED, np.log(np.maximum(values, tiny))))
    beyond = every > MEASURED[-1]
    table[:, beyond] = seen[:, -1:] * 4.0 ** (MEASURED[-1] - every[beyond])
    table[table <= 2 * tiny] = 0.0  # nothing was there to interpolate
    return np.asarray(np.maximum.accumulate(table[:, ::-1], axis=1)[:, ::-1])


def continued(noise: Floats, widths: Sequence[int]) -> Floats:
    """``noise`` at ``widths``; where it was too rare to be seen, as follows from the width before by eqs. 18 and 19."""
    table = noise.copy()
    for column in range(1, len(widths)):
        fall = 4.0 ** (widths[column - 1] - widths[column])
        table[:, column] = np.where(table[:, column] > 0, table[:, column], table[:, column - 1] * fall)
    return table
