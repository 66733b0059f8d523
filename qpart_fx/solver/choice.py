"""Algorithm 2: the best of many priced patterns, or the nearest, and the limit that stands in the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qpart_fx.prices import Prices, Quantity
from qpart_fx.request import Request

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Choice:
    """The place of the chosen pattern, and the limit that it oversteps by ``overstep`` times when none is feasible."""

    cut: int
    level: int
    limit: str | None = None
    overstep: float = 1.0


def limits_overstepped(request: Request, prices: Prices[Quantity], memory_bytes: Quantity) -> dict[str, Quantity]:
    """For each limit of the request, by the name of its field, each pattern's value over the limit's."""
    overstep = {}
    if request.device.memory_bytes is not None:
        overstep["device.memory_bytes"] = memory_bytes / request.device.memory_bytes
    if request.deadline_s is not None:
        overstep["deadline_s"] = prices.time_s / request.deadline_s
    if request.energy_budget_j is not None:
        overstep["energy_budget_j"] = prices.energy_j / request.energy_budget_j
    return overstep


def choose_among(objective: Floats, overstep: Mapping[str, Floats], eligible: NDArray[np.bool_]) -> Choice:
    """Of the ``eligible`` patterns that overstep no limit, that of least objective; ties go to the first.

    When there is none: the eligible pattern that oversteps by the least factor, and the limit that binds. That is one
    that no pattern meets by itself, if there is such; else one without which the others could be met; else the one that
    this pattern oversteps most.

    Args:
        objective, eligible: shape (cuts, levels). overstep: value over limit, for each limit, of the same shape.
    """
    names = list(overstep)
    table = np.stack([overstep[name] for name in names])
    met = eligible & (table <= 1.0)
    feasible = met.all(axis=0)
    if feasible.any():
        return Choice(*_place(np.where(feasible, objective, np.inf)))
    cut, level = _place(np.where(eligible, table.max(axis=0), np.inf))
    broken = table[:, cut, level] > 1.0
    by_itself = ~met.any(axis=(1, 2))
    without = np.array([np.delete(met, index, axis=0).all(axis=0).any() for index in range(len(names))])
    suspects = next(each & broken for each in (by_itself, without, broken) if (each & broken).any())
    binding = int(np.argmax(np.where(suspects, table[:, cut, level], -np.inf)))
    return Choice(cut, level, names[binding], float(table[binding, cut, level]))


def _place(values: Floats) -> tuple[int, int]:
    cut, level = np.unravel_index(np.argmin(values), values.shape)
    return int(cut), int(level)
