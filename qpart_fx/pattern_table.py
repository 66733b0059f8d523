"""The patterns of one noise budget as a table of numbers, and what a request makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from .cut import Cut
from .plan import CutPrice, unchecked
from .prices import (
    Prices,
    Quantity,
    device_price_per_mac,
    download_price_per_bit,
    price,
    server_price_per_mac,
    upload_price_per_bit,
)
from .request import Request
from .solver.choice import Choice, choose_among, limits_overstepped
from .solver.patterns import Network, Patterns

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Work(Generic[Quantity]):
    """What one inference does, by which it is priced: MACs on the device (o1) and on the server (o2), bits of the head
    (Z_w) and bits that cross (Z_x); of one pattern, or arrays of one entry a pattern."""

    device_macs: Quantity
    server_macs: Quantity
    download_bits: Quantity
    upload_bits: Quantity

    def prices(self, request: Request) -> Prices[Quantity]:
        return price(
            request,
            device_macs=self.device_macs,
            server_macs=self.server_macs,
            download_bits=self.download_bits,
            upload_bits=self.upload_bits,
        )

    def at(self: Work[Floats], rows: Integers) -> Work[Floats]:
        """That of some of the patterns."""
        return Work(self.device_macs[rows], self.server_macs[rows], self.download_bits[rows], self.upload_bits[rows])

    def of(self: Work[Floats], row: int) -> Work[float]:
        """That of one pattern."""
        columns = self.device_macs, self.server_macs, self.download_bits, self.upload_bits
        return Work(*(float(column[row]) for column in columns))


def work_of(network: Network, cut: Integers, weight_bits: Floats, crossing_bits: Floats) -> Work[Floats]:
    """That of patterns at ``cut``, of so many bits, but for what crosses exactly and a head's bits beside weights."""
    return Work(
        network.device_macs[cut], network.server_macs[cut],
        weight_bits + network.head_bits[cut], crossing_bits + network.exact_bits[cut],
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class PatternTable:
    """Patterns, and what is asked of them for every request; arrays of one entry a pattern.

    ``least_work``: no pattern that is not stored does less than one of these.
    ``within``: which keep the noise ``budget``; ``rows`` are their places. ``proven``: whether no pattern needs fewer
    bits than those stored; ``complete``: whether they are of all cuts that are asked for.
    """

    patterns: Patterns
    budget: float
    complete: bool
    work: Work[Floats]
    least_work: Work[Floats]
    memory_bytes: Floats
    layers: Integers
    within: NDArray[np.bool_]
    rows: Integers
    proven: bool

    @classmethod
    def of(cls, network: Network, patterns: Patterns, budget: float, complete: bool) -> PatternTable:
        cut, within = patterns.cut, patterns.noise <= budget * (1 + 1e-9)
        return cls(
            patterns,
            budget,
            complete,
            work=work_of(network, cut, patterns.weight_bits, patterns.crossing_bits),
            least_work=work_of(network, cut, patterns.least_weight_bits, patterns.crossing_bits),
            memory_bytes=(patterns.weight_bits + network.head_bits[cut]) / 8 + network.peak_bytes[cut],
            layers=network.layers[cut].sum(axis=1),
            within=within,
            rows=np.flatnonzero(within),
            proven=bool((patterns.least_weight_bits == patterns.weight_bits).all()),
        )

    def cheapest(self, request: Request) -> Integers:
        """The row of least objective among those ``within`` the budget, of which there must be one; ties go to the
        first. Of :func:`~qpart_fx.request_columns.stacked` requests, that of each.

        The objective is a sum of amounts times their prices (eqs. 24-26). It is added up term by term: a product of
        matrices would round otherwise for many requests than for one.
        """
        work = self._work_within
        xi, delta, download, upload = (
            np.asarray(unit_price)[..., None]
            for unit_price in (
                device_price_per_mac(request), server_price_per_mac(request),
                download_price_per_bit(request), upload_price_per_bit(request),
            )
        )  # fmt: skip
        objective = xi * work.device_macs + delta * work.server_macs
        objective += download * work.download_bits
        objective += upload * work.upload_bits
        return np.asarray(self.rows[objective.argmin(axis=-1)])

    @cached_property
    def _work_within(self) -> Work[Floats]:
        return self.work.at(self.rows)

    def lower_bound(self, request: Request, cheapest: Prices[float]) -> float:
        """What no pattern of the table's cuts is below; ``cheapest`` are the least prices."""
        if self.proven:
            return cheapest.objective(request)
        return float(self.least_work.prices(request).objective(request)[self.rows].min())

    def met(self, limits: Mapping[str, Floats]) -> NDArray[np.bool_]:
        """Which patterns keep the budget and meet ``limits``: for each, every pattern's value over the limit's."""
        return np.asarray(np.all([self.within, *(values <= 1 for values in limits.values())], axis=0))

    def nearest(self, objective: Floats, limits: Mapping[str, Floats]) -> tuple[int, Choice]:
        """Where no pattern keeps the budget and meets ``limits``, as of ``met``: the row of the one that oversteps them
        least, and by what."""
        overstep = {"max_accuracy_drop": self.patterns.noise / self.budget * (1 - 1e-9), **limits}
        columns = {name: values[:, None] for name, values in overstep.items()}
        nearest = choose_among(objective[:, None], columns, np.ones((len(objective), 1), dtype=np.bool_))
        return nearest.cut, replace(nearest, cut=int(self.patterns.cut[nearest.cut]))

    def by_cut(self, request: Request, cuts: Sequence[Cut]) -> tuple[CutPrice, ...]:
        """The best pattern for each number of layers on the device."""
        prices = self.work.prices(request)
        objective, met = prices.objective(request), self.met(limits_overstepped(request, prices, self.memory_bytes))
        order = np.lexsort((objective, ~met, self.layers))
        first = order[np.flatnonzero(np.diff(self.layers[order], prepend=-1))]
        columns = zip(
            self.patterns.cut[first].tolist(), self.layers[first].tolist(), prices.time_s[first].tolist(),
            prices.energy_j[first].tolist(), prices.server_cost[first].tolist(), objective[first].tolist(),
            met[first].tolist(), strict=True,
        )  # fmt: skip
        return tuple(
            unchecked(
                CutPrice,
                cut=cuts[cut].crossing, layers=layers, time_s=time_s, energy_j=energy_j, cost=cost, objective=total,
                feasible=feasible,
            )
            for cut, layers, time_s, energy_j, cost, total, feasible in columns
        )  # fmt: skip
