"""The paper's closed form for the bits of a given cut (eqs. 27, 39, 40)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def shares(sizes: Floats, budget: float) -> Floats:
    """Each layer's part of the degradation ``budget`` at the optimum: in proportion to its size (eqs. 27, 39)."""
    return np.asarray(budget * sizes / sizes.sum())


def closed_form_bits(sizes: Floats, noises: Floats, budget: float) -> Floats:
    """The real-valued widths of least total size whose degradation adds up to ``budget`` (eq. 40).

    Minimises ``sum(sizes * bits)`` under ``sum(noises * 4**-bits) <= budget``.

    Args:
        sizes: z of eq. 14, elements; positive, shape (layers,).
        noises: s / rho of eqs. 18-21, the degradation of each layer at zero bits; shape (layers,).
        budget: Delta of eq. 23, positive.

    Returns:
        float64 of shape (layers,): ``log4(noises * sum(sizes) / (budget * sizes))``, -inf where there is no noise.

    >>> closed_form_bits(np.array([10.0, 30.0]), np.array([16.0, 48.0]), 64.0)
    array([0., 0.])
    """
    with np.errstate(divide="ignore"):
        return np.asarray(np.log2(noises / shares(sizes, budget)) / 2)


def narrowest(table: Floats, share: Floats, widths: Sequence[int]) -> Integers:
    """For each row the first of ``widths`` whose degradation in ``table`` is within the row's ``share``.

    On the line of eqs. 18 and 19 this is the closed form rounded up, so that the accuracy constraint is kept; off the
    line, the measurement decides.

    Args:
        table: degradation at each width, not rising; shape (rows, len(widths)). share: shape (rows,).

    Returns:
        Shape (rows,); where no width will do, one more than the last.
    """
    enough = table <= share[:, None] * (1 + 1e-9)  # a width that the closed form hits exactly is enough
    return np.where(enough.any(axis=1), np.asarray(widths)[enough.argmax(axis=1)], widths[-1] + 1)


def round_up(bits: Integers, widths: Sequence[int]) -> Integers:
    """The least of a device's ``widths`` that is no less than each of ``bits``; the largest where none is enough."""
    allowed = np.sort(np.asarray(widths, dtype=np.int64))
    return np.asarray(allowed[np.minimum(np.searchsorted(allowed, bits), allowed.size - 1)])
