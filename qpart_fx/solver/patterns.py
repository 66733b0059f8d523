"""All patterns that may be best for some request, proven so: for one noise budget, over every cut.

A pattern is a cut, a resolution for each layer on the device and a width for each value that crosses. Whatever the
request, its objective is linear in the bits of the weights and the bits of what crosses, so that for each cut only the
lower convex hull of (bits that cross, least bits of weights) can be best (model: Lagrange's multipliers for the two
prices).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from qpart_fx.noise import WIDTHS
from qpart_fx.resolution import places_of

from .allocate import Allocation, Relaxation

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]


def columns(widths: tuple[int, ...]) -> Integers:
    """Where tables of values, over ``WIDTHS``, have the noise at ``widths``."""
    return np.array(widths, dtype=np.int64) - WIDTHS[0]


@dataclass(frozen=True)
class Network:
    """The network in numbers: L layers with weights, V values that may cross, C cuts.

    ``weight_bits`` (L, R): of each layer in a file at each of ``resolutions``, with codes of ``largest_width`` at most;
    ``value_sizes`` (V,) in elements; ``macs`` (L,) of each layer; ``noise`` (L, R), and ``value_noise`` (V, W) at each
    of ``WIDTHS``. Per cut: ``layers`` on the device, (C, L); the quantized ``values`` that cross; ``device_macs``,
    ``server_macs``, ``exact_bits`` of what crosses unquantized, ``head_bits`` of what the head's file holds beside its
    weights, and ``peak_bytes`` of activations, all (C,).
    """

    resolutions: tuple[float, ...]
    largest_width: int
    weight_bits: Floats
    macs: Floats
    noise: Floats
    value_sizes: Floats
    value_noise: Floats
    layers: Booleans
    values: tuple[tuple[int, ...], ...]
    device_macs: Floats
    server_macs: Floats
    exact_bits: Floats
    head_bits: Floats
    peak_bytes: Floats


@dataclass(frozen=True)
class Held:
    """What a device holds already of the head that it gets, and does not download, in bits: of each layer's weights at
    each resolution, (L, R), and at each cut of what the file holds beside them, (C,). Below 0 where it costs more.
    """

    weight_bits: Floats
    head_bits: Floats


@dataclass(frozen=True, slots=True)
class Patterns:
    """The patterns of all cuts at one budget; arrays of one entry, or row, a pattern.

    A cut that cannot keep the budget has one pattern, the one of least noise, beyond it.

    ``weight_bits``, ``crossing_bits``: in all, the latter without what crosses exactly. ``resolutions``: of each
    layer, 0 for one on the server; ``value_widths``: of the quantized values that cross, in the order of
    ``Network.values``. ``least_weight_bits``: proven, no more than ``weight_bits`` and equal to it where the solver
    went to the end.
    """

    cut: Integers
    weight_bits: Floats
    least_weight_bits: Floats
    crossing_bits: Floats
    noise: Floats
    resolutions: NDArray[np.float32]
    value_widths: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class PatternMaker:
    """Makes the patterns of a network at given widths of weights and of values; what cuts and budgets share is computed
    once."""

    network: Network
    widths: tuple[int, ...]
    value_widths: tuple[int, ...]
    _relaxations: dict[bytes, Relaxation] = field(default_factory=dict, init=False, repr=False)
    _allocations: dict[tuple[bytes, float], Allocation | None] = field(default_factory=dict, init=False, repr=False)
    _fronts: dict[tuple[int, ...], Front] = field(default_factory=dict, init=False, repr=False)

    def patterns(self, budget: float, cuts: Iterable[int] | None = None) -> Patterns:
        """The patterns of ``cuts`` within ``budget``; of all that can be best, if none are named."""
        places: list[int] = []
        numbers: list[tuple[float, float, float, float]] = []
        resolutions: list[NDArray[np.float32]] = []
        value_widths: list[tuple[int, ...]] = []
        for cut in self.undominated if cuts is None else cuts:
            for crossing, noise, options, allocation in self._of_cut(cut, budget):
                places.append(cut)
                proven = allocation.cost if allocation.exact else allocation.lower_bound
                numbers.append((allocation.cost, proven, crossing, noise + allocation.noise))
                resolutions.append(self.resolutions_of(cut, allocation.options))
                value_widths.append(tuple(self.value_widths[option] for option in options))
        table = np.array(numbers, dtype=np.float64).reshape(len(places), 4)
        layers = len(self.network.weight_bits)
        return Patterns(
            cut=np.array(places, dtype=np.int64),
            weight_bits=table[:, 0],
            least_weight_bits=table[:, 1],
            crossing_bits=table[:, 2],
            noise=table[:, 3],
            resolutions=np.array(resolutions, dtype=np.float32).reshape(len(places), layers),
            value_widths=tuple(value_widths),
        )

    @cached_property
    def undominated(self) -> tuple[int, ...]:
        """The cuts that can be best: no other has the same layers and MACs on the device, needs no more memory, has no
        larger head beside the weights, and sends no more bits, whatever the noise they may make."""
        network = self.network
        groups: dict[tuple[bytes, float, float], list[int]] = {}
        for cut, layers in enumerate(network.layers):
            key = layers.tobytes(), float(network.device_macs[cut]), float(network.server_macs[cut])
            groups.setdefault(key, []).append(cut)
        kept: list[int] = []
        for cuts in groups.values():
            best: list[int] = []
            # By the least that is sent, so that few are kept that a later one dominates.
            for cut in sorted(cuts, key=lambda cut: (self._front(network.values[cut]).bits[0], cut)):
                if not any(self._dominates(other, cut) for other in best):
                    best.append(cut)
            kept += best
        return tuple(sorted(kept))

    def _front(self, values: tuple[int, ...]) -> Front:
        """Of values that cross together; cuts share most of them."""
        if values not in self._fronts:
            front = Front.empty()
            if values:
                bits = self.network.value_sizes[values[-1]] * np.array(self.value_widths, dtype=np.float64)
                noise = self.network.value_noise[values[-1], columns(self.value_widths)]
                front = self._front(values[:-1]).with_value(bits, noise)
            self._fronts[values] = front
        return self._fronts[values]

    def _dominates(self, cut: int, other: int) -> bool:
        network = self.network
        if network.peak_bytes[cut] > network.peak_bytes[other] or network.head_bits[cut] > network.head_bits[other]:
            return False
        front, others = self._front(network.values[cut]), self._front(network.values[other])
        affordable = network.exact_bits[other] - network.exact_bits[cut] + others.bits
        reached = np.searchsorted(front.bits, affordable, side="right") - 1  # the widest choice that sends no more
        return bool((reached >= 0).all() and (front.noise[reached] <= others.noise).all())

    def items(self, cut: int) -> tuple[Floats, Floats, Floats, Floats]:
        """Bits and noise of the weights of a cut's layers, and of the values that cross it; options along axis 1."""
        layers, values = self.network.layers[cut], list(self.network.values[cut])
        return (
            self.network.weight_bits[layers][:, self._columns],
            self.network.noise[layers][:, self._columns],
            self.network.value_sizes[values, None] * np.array(self.value_widths, dtype=np.float64),
            self.network.value_noise[values][:, columns(self.value_widths)],
        )

    def least_bits(self, cut: int, budget: float) -> tuple[float, float]:
        """No pattern of a cut within ``budget`` has fewer bits of weights, nor fewer that cross, than these."""
        front = self._front(self.network.values[cut])
        affordable = front.bits[front.noise <= budget]
        weights = float(self._relaxation(cut).least_cost(budget))
        return weights, float(affordable.min(initial=np.inf))

    def _relaxation(self, cut: int) -> Relaxation:
        key = self.network.layers[cut].tobytes()
        if key not in self._relaxations:
            self._relaxations[key] = Relaxation.of(*self.items(cut)[:2])
        return self._relaxations[key]

    @cached_property
    def _columns(self) -> Integers:
        """Where tables of weights have the resolutions that fit in ``widths``."""
        return places_of(self.widths, self.network.resolutions, self.network.largest_width)

    def resolutions_of(self, cut: int, options: Integers) -> NDArray[np.float32]:
        """Of each layer, 0 for one on the server, with the ``options`` of a cut's layers."""
        row = np.zeros(len(self.network.weight_bits), dtype=np.float32)
        row[self.network.layers[cut]] = np.array(self.network.resolutions)[self._columns[options]]
        return row

    def _of_cut(self, cut: int, budget: float) -> list[tuple[float, float, tuple[int, ...], Allocation]]:
        """Bits and noise of what crosses, its options, and the weights' allocation, of every pattern of a cut."""
        _, noise, _, _ = self.items(cut)
        front = self._front(self.network.values[cut])
        left = budget - front.noise
        if not float(noise.min(axis=1, initial=np.inf).sum()) <= left[-1]:
            return [self._least_noise(cut)]
        key, relaxation = self.network.layers[cut].tobytes(), self._relaxation(cut)
        crossing = front.bits
        relaxed = relaxation.least_cost(left)
        solved: dict[int, Allocation] = {}

        def solve(place: int) -> None:
            known = (key, float(left[place]))
            if known not in self._allocations:
                self._allocations[known] = relaxation.allocate(float(left[place]))
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
            better = (relaxed < at * (1 - 1e-12)) & ~np.isin(np.arange(len(crossing)), places)
            pending = np.flatnonzero(better)
        return [
            (float(crossing[place]), float(front.noise[place]), tuple(front.options[place].tolist()), solved[place])
            for place in places[hull].tolist()
        ]

    def _least_noise(self, cut: int) -> tuple[float, float, tuple[int, ...], Allocation]:
        weights, noise, values, value_noise = self.items(cut)
        options, value_options = noise.argmin(axis=1), value_noise.argmin(axis=1)
        cost = float(np.take_along_axis(weights, options[:, None], 1).sum())
        allocation = Allocation(options, cost, float(noise.min(axis=1).sum()), cost)
        crossing = float(np.take_along_axis(values, value_options[:, None], 1).sum())
        return crossing, float(value_noise.min(axis=1).sum()), tuple(value_options.tolist()), allocation


@dataclass(frozen=True, slots=True)
class Front:
    """Every choice of options for some values that no other beats in both bits and noise, by rising ``bits``.

    ``bits``, ``noise``: shape (choices,). ``options``: shape (choices, values).
    """

    bits: Floats
    noise: Floats
    options: NDArray[np.uint8]

    @classmethod
    def empty(cls) -> Front:
        """Of no values."""
        return cls(np.zeros(1), np.zeros(1), np.zeros((1, 0), dtype=np.uint8))

    def with_value(self, bits: Floats, noise: Floats) -> Front:
        """The front with another value, whose options have these ``bits`` and ``noise``, shape (options,)."""
        sums, spoilt = (self.bits[:, None] + bits).ravel(), (self.noise[:, None] + noise).ravel()
        order = np.lexsort((spoilt, sums))
        least = np.minimum.accumulate(spoilt[order])
        kept = order[np.flatnonzero(np.diff(least, prepend=np.inf) < 0)]
        choice, option = np.divmod(kept, len(bits))
        options = np.concatenate([self.options[choice], option[:, None].astype(np.uint8)], axis=1)
        return Front(sums[kept], spoilt[kept], options)


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
