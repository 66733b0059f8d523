"""The best of all cuts when every option of a layer or a crossing value has a price, and uses of its own of each limit.

Branch and bound over the cuts: that of the least bound is looked at next, each time more closely, until it is solved or
another one's bound is less. The search is over when no bound is below the best answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .allocate import SLACK, TIE, Relaxation
from .limited import Limited

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

_ROUNDING = 1e-9
"""A conflict of limits that are overstepped by a smaller share proves nothing."""


@dataclass(frozen=True)
class Cheapest:
    """The ``options`` of a cut's items, in the order of its marks, and their ``cost`` with the cut's own."""

    cut: int
    options: Integers
    cost: float


@dataclass(frozen=True)
class CutSearch:
    """A cut is chosen of C, and for each of its items, of I in all, one of O options.

    ``cost`` and ``noise``: of each option, shape (I, O); the cost is inf where there is no such option, and every item
    has one. ``uses``: what the option uses of each limit, shape (K, I, O). ``items``: those of each cut are marked,
    shape (C, I). ``base``: what each cut costs besides, shape (C,). ``limits``: what each cut leaves for its items,
    shape (C, K); below 0 where it oversteps a limit by itself. ``budget``: of noise.
    """

    cost: Floats
    noise: Floats
    uses: Floats
    items: Booleans
    base: Floats
    limits: Floats
    budget: float

    @cached_property
    def relaxed(self) -> tuple[Floats, Integers]:
        """Of every cut, whatever the limits: a bound of what its items cost, and options near it, within the budget if
        any are; shapes (C,) and (C, I)."""
        return Relaxation.of(self.cost, self.noise).of_each(self.items, self.budget)

    @cached_property
    def relaxed_uses(self) -> list[tuple[Floats, Integers]]:
        """The same for the least use of each limit."""
        exists = np.isfinite(self.cost)
        return [
            Relaxation.of(np.where(exists, use, np.inf), self.noise).of_each(self.items, self.budget)
            for use in self.uses
        ]

    def best(self) -> tuple[Cheapest | None, float]:
        """The cheapest choice within the budget and the limits, None if there is none; and what no choice costs less
        than, inf if none is within."""
        bounds = self.base + self.relaxed[0]
        for (least, _), limit in zip(self.relaxed_uses, self._most.T, strict=True):
            bounds[least > limit] = np.inf
        best, below, unproven = None, np.inf, np.inf
        looks = np.zeros(len(bounds), dtype=np.int64)
        while float(bounds.min(initial=np.inf)) < below * (1 - TIE):
            cut = int(bounds.argmin())
            base = float(self.base[cut])
            looks[cut] += 1
            if looks[cut] == 2:
                self._tighten(bounds, cut)
                continue
            options, bound = self._without_limits(cut, below) if looks[cut] == 1 else self._limited(cut).best()
            if options is not None and not self._within(cut, options):
                bounds[cut] = base + bound
                continue
            bounds[cut], unproven = np.inf, min(unproven, base + bound)
            if options is not None:
                cost = base + float(self.cost[np.flatnonzero(self.items[cut]), options].sum())
                if cost < below:
                    best, below = Cheapest(cut, options, cost), cost
        return best, min(below, unproven, float(bounds.min(initial=np.inf)))

    def _without_limits(self, cut: int, below: float) -> tuple[Integers | None, float]:
        """The options of least cost within the budget alone, None if the cut then does not cost less than ``below``;
        and what no others cost less than, inf where that is ``below``."""
        own = self.items[cut]
        relaxation = Relaxation.of(self.cost[own], self.noise[own])
        answer, unseen = relaxation.allocate_below(below - float(self.base[cut]), self.budget)
        if answer is None:
            return None, unseen
        return answer.options, answer.cost if answer.exact else answer.lower_bound

    def _tighten(self, bounds: Floats, cut: int) -> None:
        """Raise the bounds by what the limits are worth at one cut, which says much about the others too."""
        limited = self._limited(cut)
        if (worth := limited.worth()) is not None:
            np.maximum(bounds, self.base + self._least(self.cost, worth), out=bounds)
            return
        exists = np.where(np.isfinite(self.cost), 0.0, np.inf)
        bounds[self._least(exists, limited.conflict()) > _ROUNDING] = np.inf
        bounds[cut] = np.inf

    @cached_property
    def _most(self) -> Floats:
        """What counts as within the limits."""
        return self.limits + SLACK * np.abs(self.limits)

    def _within(self, cut: int, options: Integers) -> bool:
        used = self.uses[:, np.flatnonzero(self.items[cut]), options].sum(axis=1)
        return bool((used <= self._most[cut]).all())

    def _limited(self, cut: int) -> Limited:
        own = self.items[cut]
        uses = np.concatenate([self.noise[None, own], self.uses[:, own]])
        return Limited(self.cost[own], uses, np.append(self.budget, self.limits[cut]))

    def _least(self, cost: Floats, prices: Floats) -> Floats:
        """What no choice at a cut, within the budget and the limits, costs less than; ``prices`` are theirs."""
        priced = cost + prices[0] * self.noise + np.tensordot(prices[1:], self.uses, 1)
        return np.asarray(self.items @ priced.min(axis=1) - prices[0] * self.budget - self.limits @ prices[1:])
