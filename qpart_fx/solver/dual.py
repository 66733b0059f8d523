"""A bound on all closed sets at once, for graphs that have too many to look at: Lagrange's dual, by minimum cuts.

Where noise has a price, every layer and every value takes the width that is cheapest for it alone, and the cheapest
closed set is a minimum cut. What that costs, less the price of the noise budget, is a lower bound on every pattern
within the budget, whatever the price of noise; the best of these bounds is looked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qpart_fx.cut_graph import CutGraph

from .min_cut import Flags, least_closed_set

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_ENOUGH = 1e-5
"""The search for the price of noise ends when the bound can rise by no more than this part of it."""

_CUTS = 100
"""Minimum cuts at most; a handful are needed."""


class Dual(NamedTuple):
    """``bound``: no pattern within the budget costs less. ``sets``: the closed sets that are cheapest at the prices of
    noise that were tried, as flags of their blocks; the best pattern is often at one of them."""

    bound: float
    sets: tuple[Flags, ...]


class _Line(NamedTuple):
    """What a closed set and its widths cost at a price of noise: ``cost``, and the price times ``noise``."""

    cost: float
    noise: float


@dataclass(frozen=True)
class PricedGraph:
    """A graph at the prices of one request, in the unit of its objective: B blocks, V values, L layers, W widths.

    ``device``, ``server``: of each block, without what its layers' widths cost, (B,). ``crossing``: of sending each
    value, without what its width costs, (V,). ``home``: the block of each layer, (L,). ``layer_cost`` and
    ``layer_noise``: at each width, (L, W); ``value_cost`` and ``value_noise``: likewise, (V, W). Nothing is negative.
    """

    graph: CutGraph
    device: Floats
    server: Floats
    crossing: Floats
    home: Integers
    layer_cost: Floats
    layer_noise: Floats
    value_cost: Floats
    value_noise: Floats

    @property
    def dearest(self) -> float:
        """What no pattern costs more than."""
        blocks = float(np.maximum(self.device, self.server).sum() + self.crossing.sum())
        return blocks + sum(float(cost.max(axis=1).sum()) for cost in (self.layer_cost, self.value_cost))

    def dual(self, budget: float, reached: float) -> Dual:
        """The best bound on patterns with noise within ``budget``, of which the best costs ``reached`` at most.

        The bound is concave in the price of noise, and each price that is tried gives a line that it stays below. The
        next price is where the last rising and the last falling line meet (Handler and Zang 1980, "A dual algorithm for
        the constrained shortest path problem").
        """
        usable = replace(
            self,
            layer_cost=_within(self.layer_cost, self.layer_noise, budget),
            value_cost=_within(self.value_cost, self.value_noise, budget),
        )
        rising, bound, inside = usable._least(0.0, budget)
        sets = [inside]
        falling = _Line(reached, budget)  # neither: the bound is never above what is reached
        while rising.noise > budget and len(sets) < _CUTS:
            price = (falling.cost - rising.cost) / (rising.noise - falling.noise)
            if falling.cost + price * (falling.noise - budget) - bound <= _ENOUGH * bound:
                break
            line, lower, inside = usable._least(price, budget)
            bound = max(bound, lower)
            sets.append(inside)
            if line.noise > budget:
                rising = line
            else:
                falling = line
        return Dual(min(bound, reached), tuple(sets))

    def _least(self, price: float, budget: float) -> tuple[_Line, float, Flags]:
        """The cheapest closed set and widths where noise has a price, the bound that follows, and the set's blocks."""
        layer_cost, layer_noise = _cheapest(self.layer_cost, self.layer_noise, price)
        value_cost, value_noise = _cheapest(self.value_cost, self.value_noise, price)
        device = self.device + np.bincount(self.home, layer_cost, len(self.device))
        noise = np.bincount(self.home, layer_noise, len(self.device))
        crossing = self.crossing + value_cost
        found = least_closed_set(self.graph, device + price * noise, self.server, crossing + price * value_noise)
        inside = found.inside
        sent = np.array(
            [
                inside[value.producer] and (value.output or not inside[[*value.users]].all())
                for value in self.graph.values
            ],
            dtype=np.bool_,
        )
        cost = device[inside].sum() + self.server[~inside].sum() + crossing[sent].sum()
        line = _Line(float(cost), float(noise[inside].sum() + value_noise[sent].sum()))
        return line, found.bound - price * budget, inside


def _within(cost: Floats, noise: Floats, budget: float) -> Floats:
    """``cost``, infinite for options that overstep the budget by themselves; a row that has no others stays."""
    keeps = noise <= budget
    return np.where(keeps | ~keeps.any(axis=1, keepdims=True), cost, np.inf)


def _cheapest(cost: Floats, noise: Floats, price: float) -> tuple[Floats, Floats]:
    """Cost and noise of each row's option that is cheapest where noise has a price."""
    rows, chosen = np.arange(len(cost)), (cost + price * noise).argmin(axis=1)
    return cost[rows, chosen], noise[rows, chosen]
