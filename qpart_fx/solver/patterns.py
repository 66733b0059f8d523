"""All patterns that may be best for some request, proven so: for one noise budget, over every cut.

A pattern is a cut and a width for each layer on the device and each value that crosses. Whatever the request, its
objective is linear in the bits of the weights and the bits of what crosses, so that for each cut only the lower convex
hull of (bits that cross, least bits of weights) can be best (model: Lagrange's multipliers for the two prices).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from qpart_fx.noise import WIDTHS

from .allocate import Allocation, Relaxation

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]


@dataclass(frozen=True)
class Network:
    """The network in numbers: L layers with weights, V values that may cross, C cuts.

    ``sizes`` (L,) and ``value_sizes`` (V,) in elements; ``noise`` (L, W) and ``value_noise`` (V, W) at each of
    ``WIDTHS``. Per cut: ``layers`` on the device, (C, L); the quantized ``values`` that cross; ``device_macs``,
    ``server_macs``, ``exact_bits`` of what crosses unquantized and ``peak_bytes`` of activations, all (C,).
    """

    sizes: Floats
    noise: Floats
    value_sizes: Floats
    value_noise: Floats
    layers: Booleans
    values: tuple[tuple[int, ...], ...]
    device_macs: Floats
    server_macs: Floats
    exact_bits: Floats
    peak_bytes: Floats


@dataclass(frozen=True, slots=True)
class Patterns:
    """The patterns of all cuts at one budget; arrays of one entry, or row, a pattern.

    A cut that cannot keep the budget has one pattern, the one of least noise, beyond it.

    ``weight_bits``, ``crossing_bits``: in all, the latter without what crosses exactly. ``widths``: of each layer, 0
    for one on the server; ``value_widths``: of the quantized values that cross, in the order of ``Network.values``.
    ``least_weight_bits``: proven, no more than ``weight_bits`` and equal to it where the solver went to the end.
    """

    cut: Integers
    weight_bits: Floats
    least_weight_bits: Floats
    crossing_bits: Floats
    noise: Floats
    widths: NDArray[np.uint8]
    value_widths: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class PatternMaker:
    """Makes the patterns of a network at given widths; what cuts and budgets share is computed once."""

    network: Network
    widths: tuple[int, ...]
    _relaxations: dict[bytes, Relaxation] = field(default_factory=dict, init=False, repr=False)
    _allocations: dict[tuple[bytes, float], Allocation | None] = field(default_factory=dict, init=False, repr=False)

    def patterns(self, budget: float) -> Patterns:
        """The patterns of every cut within ``budget``."""
        cuts: list[int] = []
        numbers: list[tuple[float, float, float, float]] = []
        widths: list[NDArray[np.uint8]] = []
        value_widths: list[tuple[int, ...]] = []
        for cut in range(len(self.network.layers)):
            for crossing, noise, options, allocation in self._of_cut(cut, budget):
                cuts.append(cut)
                proven = allocation.cost if allocation.exact else allocation.lower_bound
                numbers.append((allocation.cost, proven, crossing, noise + allocation.noise))
                widths.append(self._widths(cut, allocation))
                value_widths.append(tuple(int(self._columns[option]) + WIDTHS[0] for option in options))
        table = np.array(numbers, dtype=np.float64).reshape(len(cuts), 4)
        layers = len(self.network.sizes)
        return Patterns(
            cut=np.array(cuts, dtype=np.int64),
            weight_bits=table[:, 0],
            least_weight_bits=table[:, 1],
            crossing_bits=table[:, 2],
            noise=table[:, 3],
            widths=np.array(widths, dtype=np.uint8).reshape(len(cuts), layers),
            value_widths=tuple(value_widths),
        )

    def items(self, cut: int) -> tuple[Floats, Floats, Floats, Floats]:
        """Bits and noise of the weights of a cut's layers, and of the values that cross it; options along axis 1."""
        layers, values = self.network.layers[cut], list(self.network.values[cut])
        bits = np.array(self.widths, dtype=np.float64)
        return (
            self.network.sizes[layers, None] * bits,
            self.network.noise[layers][:, self._columns],
            self.network.value_sizes[values, None] * bits,
            self.network.value_noise[values][:, self._columns],
        )

    @cached_property
    def _columns(self) -> Integers:
        return np.array(self.widths, dtype=np.int64) - WIDTHS[0]

    def _widths(self, cut: int, allocation: Allocation) -> NDArray[np.uint8]:
        row = np.zeros(len(self.network.sizes), dtype=np.uint8)
        row[self.network.layers[cut]] = np.array(self.widths, dtype=np.uint8)[allocation.options]
        return row

    def _of_cut(self, cut: int, budget: float) -> list[tuple[float, float, tuple[int, ...], Allocation]]:
        """Bits and noise of what crosses, its options, and the weights' allocation, of every pattern of a cut."""
        weights, noise, values, value_noise = self.items(cut)
        front = [each for each in crossing_front(values, value_noise) if each[1] <= budget]
        if not front or float(noise.min(axis=1, initial=np.inf).sum()) > budget - front[-1][1]:
            return [self._least_noise(cut)]
        key = self.network.layers[cut].tobytes()
        if key not in self._relaxations:
            self._relaxations[key] = Relaxation.of(weights, noise)
        left = np.array([budget - each[1] for each in front])
        crossing = np.array([each[0] for each in front])
        relaxed = self._relaxations[key].least_cost(left)
        solved: dict[int, Allocation] = {}

        def solve(place: int) -> None:
            known = (key, float(left[place]))
            if known not in self._allocations:
                self._allocations[known] = self._relaxations[key].allocate(float(left[place]))
            if (found := self._allocations[known]) is not None:
                solved[place] = found

        pending = _lower_hull(crossing, relaxed)
        while len(pending):  # until no pattern that is not yet solved can be on the hull of those that are
            for place in pending:
                solve(int(place))
            places = np.array(sorted(solved))
            costs = np.array([solved[int(place)].cost for place in places])
            hull = _lower_hull(crossing[places], costs)
            at = np.interp(crossing, crossing[places][hull], costs[hull], left=np.inf)
            better = (relaxed < at * (1 - 1e-12)) & ~np.isin(np.arange(len(front)), places)
            pending = np.flatnonzero(better)
        return [(front[place][0], front[place][1], front[place][2], solved[place]) for place in places[hull].tolist()]

    def _least_noise(self, cut: int) -> tuple[float, float, tuple[int, ...], Allocation]:
        weights, noise, values, value_noise = self.items(cut)
        options, value_options = noise.argmin(axis=1), value_noise.argmin(axis=1)
        cost = float(np.take_along_axis(weights, options[:, None], 1).sum())
        allocation = Allocation(options, cost, float(noise.min(axis=1).sum()), cost)
        crossing = float(np.take_along_axis(values, value_options[:, None], 1).sum())
        return crossing, float(value_noise.min(axis=1).sum()), tuple(value_options.tolist()), allocation


def crossing_front(bits: Floats, noise: Floats) -> list[tuple[float, float, tuple[int, ...]]]:
    """Every choice of options for the values that cross that no other beats in both bits and noise, bits rising.

    Args:
        bits, noise: shape (values, options).

    Returns:
        Bits, noise, and the option of each value.
    """
    front: list[tuple[float, float, tuple[int, ...]]] = [(0.0, 0.0, ())]
    for value_bits, value_noise in zip(bits.tolist(), noise.tolist(), strict=True):
        sums = sorted(
            (have + more, spoilt + spoils, (*options, option))
            for have, spoilt, options in front
            for option, (more, spoils) in enumerate(zip(value_bits, value_noise, strict=True))
            if np.isfinite(spoils)
        )
        front, least = [], np.inf
        for each in sums:
            if each[1] < least:
                front.append(each)
                least = each[1]
    return front


def _lower_hull(x: Floats, y: Floats) -> Integers:
    """Places of the points, x rising, on the lower convex hull where it falls; the first finite point is one."""
    hull: list[int] = []
    for place in np.flatnonzero(np.isfinite(y)).tolist():
        if hull and y[place] >= y[hull[-1]]:
            continue
        while len(hull) > 1:
            before, last = hull[-2], hull[-1]
            straight = (y[place] - y[before]) * (x[last] - x[before]) <= (y[last] - y[before]) * (x[place] - x[before])
            if not straight:
                break
            hull.pop()
        hull.append(place)
    return np.array(hull, dtype=np.int64)
