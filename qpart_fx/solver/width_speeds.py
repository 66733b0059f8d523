"""The best pattern where the time of a MAC depends on the width of its weight, or a device holds some layers at some
widths already: solved anew for every request.

Elsewhere, what a request decides is the price of a bit of weights and of one that crosses, and the patterns that can be
best at any two prices are stored (``patterns``). Here the request also sets the price of MACs at each width, and which
bits cost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qpart_fx.prices import price
from qpart_fx.request import Request
from qpart_fx.resolution import places_of, width_of

from .allocate import SLACK
from .cut_search import CutSearch
from .patterns import Held, Network, Patterns, columns

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]


@dataclass(frozen=True)
class Solved:
    """What is known of the patterns that a request may get.

    ``patterns``: near the least objective, and near the least use of each limit, at every cut; and, if ``found``, the
    best within the limits in the last place. ``device_macs`` and ``download_bits``: of each, as prices take them.
    ``lower_bound``: what no pattern within the budget and the limits costs less than, None where there is none.
    """

    patterns: Patterns
    device_macs: Floats
    download_bits: Floats
    found: bool
    lower_bound: float | None


def solve(request: Request, network: Network, cuts: Sequence[int], budget: float, held: Held | None = None) -> Solved:
    """The patterns of ``cuts`` for ``request``, where the noise may be ``budget`` and the device has ``held``."""
    problem = _Problem(request, network, np.array(cuts, dtype=np.int64), held)
    search = problem.search(budget)
    best, lower_bound = search.best()
    near = [options for _, options in (search.relaxed, *search.relaxed_uses)]
    rows = np.tile(np.arange(len(cuts)), len(near))
    if best is not None:
        options = np.zeros((1, search.items.shape[1]), dtype=np.int64)
        options[0, search.items[best.cut]] = best.options
        near.append(options)
        rows = np.append(rows, best.cut)
    bound = lower_bound if np.isfinite(lower_bound) else None
    return Solved(*problem.patterns(rows, np.concatenate(near)), best is not None, bound)


@dataclass(frozen=True)
class _Problem:
    """A request's problem in tables: of each item, first the layers, then the values, and of each of its options, a
    resolution or a width. Shape (items, options); an item that has fewer options than others has some of 0 bits, which
    do not count.
    """

    request: Request
    network: Network
    cuts: Integers
    held: Held | None

    @cached_property
    def layers(self) -> int:
        return len(self.network.weight_bits)

    @cached_property
    def of_weights(self) -> Integers:
        """Where the network's tables of weights have the options of layers."""
        network = self.network
        return places_of(self.request.device.storable_bits, network.resolutions, network.largest_width)

    @cached_property
    def bits(self) -> Floats:
        """The resolutions and the widths."""
        resolutions = np.array(self.network.resolutions)[self.of_weights]
        return self._table(resolutions[None], np.array(self.request.device.crossing_bits)[None])

    @cached_property
    def noise(self) -> Floats:
        network, device = self.network, self.request.device
        return self._table(network.noise[:, self.of_weights], network.value_noise[:, columns(device.crossing_bits)])

    @cached_property
    def macs(self) -> Floats:
        """As prices take them."""
        device, network = self.request.device, self.network
        widths = [width_of(network.resolutions[place], network.largest_width) for place in self.of_weights]
        speeds = np.array([device.cycles_at(bits) for bits in widths]) / device.float_cycles_per_mac
        return self._table(self.network.macs[:, None] * speeds, np.zeros((1, len(device.crossing_bits))))

    @cached_property
    def weight_bits(self) -> Floats:
        return self._of_weights(self.network.weight_bits)

    @cached_property
    def download_bits(self) -> Floats:
        """Those of weights that are not held."""
        return self.weight_bits if self.held is None else self.weight_bits - self._of_weights(self.held.weight_bits)

    @cached_property
    def other_download_bits(self) -> Floats:
        """Those of what a head's file holds beside them, of each cut."""
        bits = self.network.head_bits if self.held is None else self.network.head_bits - self.held.head_bits
        return np.asarray(bits[self.cuts])

    @cached_property
    def crossing_bits(self) -> Floats:
        return self.bits * np.append(np.zeros(self.layers), self.network.value_sizes)[:, None]

    @cached_property
    def items(self) -> Booleans:
        """The layers on the device and the values that cross, of each cut."""
        network = self.network
        crossing = np.zeros((len(self.cuts), len(network.value_sizes)), dtype=np.bool_)
        for row, cut in enumerate(self.cuts.tolist()):
            crossing[row, [*network.values[cut]]] = True
        return np.concatenate([network.layers[self.cuts], crossing], axis=1)

    @cached_property
    def other_macs(self) -> Floats:
        """Those on the device that belong to no layer, of each cut."""
        network = self.network
        return np.asarray(network.device_macs[self.cuts] - network.layers[self.cuts] @ network.macs)

    def search(self, budget: float) -> CutSearch:
        """All of this at the request's prices."""
        request, network, cuts = self.request, self.network, self.cuts
        weights, device = request.objective, request.device
        one = price(request, device_macs=1.0, server_macs=0.0, download_bits=1.0, upload_bits=1.0)
        time = (
            one.device_time_s * self.macs
            + one.download_time_s * self.download_bits
            + one.upload_time_s * self.crossing_bits
        )
        energy = (
            one.device_energy_j * self.macs
            + one.receive_energy_j * self.download_bits
            + one.transmit_energy_j * self.crossing_bits
        )
        fixed = price(
            request,
            device_macs=self.other_macs,
            server_macs=network.server_macs[cuts],
            download_bits=self.other_download_bits,
            upload_bits=network.exact_bits[cuts],
        )
        uses, limits = [], []
        if device.memory_bytes is not None:
            uses.append(self.weight_bits / 8)
            limits.append(device.memory_bytes - network.peak_bytes[cuts] - network.head_bits[cuts] / 8)
        if request.deadline_s is not None:
            uses.append(time)
            limits.append(request.deadline_s * (1 + SLACK) - fixed.time_s)
        if request.energy_budget_j is not None:
            uses.append(energy)
            limits.append(request.energy_budget_j * (1 + SLACK) - fixed.energy_j)
        return CutSearch(
            cost=np.where(self.bits > 0, weights.time * time + weights.energy * energy, np.inf),
            noise=self.noise,
            uses=np.array(uses).reshape(len(uses), *self.noise.shape),
            items=self.items,
            base=fixed.objective(request),
            limits=np.array(limits).reshape(len(limits), len(cuts)).T,
            budget=budget,
        )

    def patterns(self, rows: Integers, options: Integers) -> tuple[Patterns, Floats, Floats]:
        """The patterns with these ``options``, shape (patterns, items), of the cuts in the places ``rows``; and of each
        the MACs on the device and the bits to download."""
        cuts, items, every = self.cuts[rows], self.items[rows], np.arange(self.items.shape[1])

        def total(table: Floats) -> Floats:
            return np.asarray((items * table[every, options]).sum(axis=1))

        weight_bits, bits = total(self.weight_bits), items * self.bits[every, options]
        patterns = Patterns(
            cut=cuts,
            weight_bits=weight_bits,
            least_weight_bits=weight_bits,
            crossing_bits=total(self.crossing_bits),
            noise=total(self.noise),
            resolutions=bits[:, : self.layers].astype(np.float32),
            value_widths=tuple(
                tuple(int(row[self.layers + value]) for value in self.network.values[cut])
                for cut, row in zip(cuts.tolist(), bits.tolist(), strict=True)
            ),
        )
        downloads = self.other_download_bits[rows] + total(self.download_bits)
        return patterns, self.other_macs[rows] + total(self.macs), downloads

    def _of_weights(self, bits: Floats) -> Floats:
        """A table of bits of weights, (L, R), as one of items and options; nothing of what crosses."""
        nothing = np.zeros((len(self.network.value_sizes), len(self.request.device.crossing_bits)))
        return self._table(bits[:, self.of_weights], nothing)

    def _table(self, of_layers: NDArray[Any], of_values: NDArray[Any]) -> Floats:
        """One table of both, each repeated for all of its items if it has one row, with zeros for options not there."""
        count = self.layers, len(self.network.value_sizes)
        table = np.zeros((sum(count), max(of_layers.shape[1], of_values.shape[1])))
        table[: count[0], : of_layers.shape[1]] = of_layers
        table[count[0] :, : of_values.shape[1]] = of_values
        return table
