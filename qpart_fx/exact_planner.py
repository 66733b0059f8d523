"""Plans proven best: over every closed set of the graph, with a width for every layer and every crossing value."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .noise import WIDTHS
from .plan import CutPrice, Plan, PlannedLayer, unchecked
from .prices import Prices, price
from .request import Request
from .solver.allocate import PairAllocation, allocate_pairs
from .solver.choice import Choice, choose_among, limits_overstepped
from .solver.patterns import Network, PatternMaker, Patterns
from .solver.whole_graph import WholeGraph

if TYPE_CHECKING:
    from .model_profile import Profile

Floats = NDArray[np.float64]


_STEP = 0.6
"""How much less is planned for when a plan lost more than it should."""


class _Pattern(NamedTuple):
    """A cut, its widths, and how good any pattern could be."""

    cut: int
    widths: NDArray[np.uint8]
    value_widths: tuple[int, ...]
    weight_bits: float
    crossing_bits: float
    noise: float
    lower_bound: float | None


@dataclass(frozen=True)
class _Table:
    """The patterns of one noise budget, and what is asked of them for every request; arrays of one entry a pattern.

    ``within``: which keep the budget. ``proven``: whether no pattern needs fewer bits than those stored.
    """

    patterns: Patterns
    budget: float
    device_macs: Floats
    server_macs: Floats
    exact_bits: Floats
    peak_bytes: Floats
    layers: NDArray[np.int64]
    within: NDArray[np.bool_]
    proven: bool

    @classmethod
    def of(cls, network: Network, patterns: Patterns, budget: float) -> _Table:
        cut = patterns.cut
        return cls(
            patterns,
            budget,
            device_macs=network.device_macs[cut],
            server_macs=network.server_macs[cut],
            exact_bits=network.exact_bits[cut],
            peak_bytes=network.peak_bytes[cut],
            layers=network.layers[cut].sum(axis=1),
            within=patterns.noise <= budget * (1 + 1e-9),
            proven=bool((patterns.least_weight_bits == patterns.weight_bits).all()),
        )

    def price(self, request: Request, weight_bits: Floats) -> Prices[Floats]:
        return price(
            request,
            device_macs=self.device_macs,
            server_macs=self.server_macs,
            download_bits=weight_bits,
            upload_bits=self.patterns.crossing_bits + self.exact_bits,
        )


@dataclass(frozen=True)
class ExactPlanner:
    """The patterns of each accuracy level once, and for every request a scan over those of its level."""

    profile: Profile
    _makers: dict[tuple[int, ...], PatternMaker] = field(default_factory=dict, init=False, repr=False)
    _tables: dict[tuple[tuple[int, ...], float, int | None], _Table] = field(
        default_factory=dict, init=False, repr=False
    )

    @cached_property
    def network(self) -> Network:
        """The profile in numbers."""
        profile = self.profile
        places = {value.name: index for index, value in enumerate(profile.values)}
        cuts = profile.closed_cuts
        on_device = [set(cut.device_nodes) for cut in cuts]
        return Network(
            sizes=np.array([layer.parameters for layer in profile.layers], dtype=np.float64),
            noise=np.array([layer.noise_by_width for layer in profile.layers]).reshape(-1, len(WIDTHS)),
            value_sizes=np.array([value.elements for value in profile.values], dtype=np.float64),
            value_noise=np.array([value.noise_by_width for value in profile.values]).reshape(-1, len(WIDTHS)),
            layers=np.array([[layer.name in nodes for layer in profile.layers] for nodes in on_device]),
            values=tuple(tuple(places[name] for name in cut.crossing if name in places) for cut in cuts),
            device_macs=np.array([cut.device_macs for cut in cuts], dtype=np.float64),
            server_macs=np.array([cut.server_macs for cut in cuts], dtype=np.float64),
            exact_bits=np.array([cut.exact_bits for cut in cuts], dtype=np.float64),
            peak_bytes=np.array([cut.peak_bytes for cut in cuts], dtype=np.float64),
        )

    @cached_property
    def whole_graph(self) -> WholeGraph | None:
        """The graph with all its cuts, where the profile does not hold them all."""
        profile = self.profile
        if profile.cut_graph is None:
            return None
        return WholeGraph.of(
            profile.cut_graph,
            sizes={layer.name: layer.parameters for layer in profile.layers},
            noise={layer.name: layer.noise_by_width for layer in profile.layers},
            value_noise={value.name: value.noise_by_width for value in profile.values},
        )

    @cached_property
    def _planned(self) -> list[dict[int | None, PlannedLayer]]:
        """Each layer in a plan, by its width: made once, since a plan has many."""
        return [
            {
                bits: PlannedLayer(layer.name, layer.operation, layer.macs, layer.parameters, bits)
                for bits in (None, *WIDTHS)
            }
            for layer in self.profile.layers
        ]

    def first_drop(self, request: Request) -> float:
        """The largest of the profile's levels that ``request`` allows; a tenth of the first if it allows none."""
        levels = self.profile.levels
        return max((drop for drop in levels if drop <= request.max_accuracy_drop), default=levels[0] / 10)

    def stricter_drop(self, drop: float) -> float | None:
        """What to plan for when plans for ``drop`` lose too much; None when that is next to nothing already."""
        strictest = self.profile.levels[0] / 10
        return max(_STEP * drop, strictest) if drop > strictest else None

    def best(self, request: Request, cut: int | None, drop: float) -> tuple[Plan, Choice]:
        """The best plan that meets ``request`` and is predicted to lose ``drop`` at most; the nearest if there is none.

        Args:
            cut: the place of a cut in ``profile.closed_cuts``, to plan for it alone.
        """
        pattern, choice, by_cut = self._best_at(request, drop, cut)
        return self._plan(request, pattern, by_cut), choice

    def _table(self, widths: tuple[int, ...], drop: float, cut: int | None) -> _Table:
        """The patterns that are predicted to lose ``drop`` at most, of all cuts or of one; made once."""
        key = widths, drop, cut
        if key not in self._tables:
            if widths not in self._makers:
                self._makers[widths] = PatternMaker(self.network, widths)
            budget = self.profile.noise_curve.noise_at(drop)
            patterns = self._makers[widths].patterns(budget, None if cut is None else [cut])
            self._tables[key] = _Table.of(self.network, patterns, budget)
        return self._tables[key]

    def _best_at(self, request: Request, drop: float, cut: int | None) -> tuple[_Pattern, Choice, tuple[CutPrice, ...]]:
        table = self._table(request.device.weight_bits, drop, cut)
        patterns = table.patterns
        prices = table.price(request, patterns.weight_bits)
        objective = prices.objective(request)
        bounds = objective
        if not table.proven:
            bounds = table.price(request, patterns.least_weight_bits).objective(request)
        limits = limits_overstepped(request, prices, patterns.weight_bits / 8 + table.peak_bytes)
        kept = table.within
        met = kept if not limits else kept & np.all([values <= 1 for values in limits.values()], axis=0)
        by_cut = self._by_cut(table, prices, objective, met)
        bound = float(bounds[kept].min()) if kept.any() else None
        others = self.whole_graph if cut is None else None  # with cuts that no pattern is of
        if bound is not None and others is not None:
            bound = others.lower_bound(request, table.budget, bound)
        if met.any():
            row, reached = int(np.where(met, objective, np.inf).argmin()), float(objective[met].min())
            choice = Choice(int(patterns.cut[row]), 0)
        else:
            overstep = {"max_accuracy_drop": patterns.noise / table.budget * (1 - 1e-9), **limits}
            columns = {name: values[:, None] for name, values in overstep.items()}
            nearest = choose_among(objective[:, None], columns, np.ones((len(objective), 1), dtype=np.bool_))
            row, reached = nearest.cut, np.inf
            choice = Choice(int(patterns.cut[row]), 0, nearest.limit, nearest.overstep)
        best = _Pattern(
            int(patterns.cut[row]), patterns.widths[row], patterns.value_widths[row], float(patterns.weight_bits[row]),
            float(patterns.crossing_bits[row]), float(patterns.noise[row]), bound,
        )  # fmt: skip
        if limits and bool((bounds[kept] < reached * (1 - 1e-12)).any()):
            # A limit stands in the way of better patterns: what meets it may lie between the stored ones.
            open_cuts = np.unique(patterns.cut[kept & (bounds < reached)])
            better, least = self._within_limits(request, table.budget, open_cuts, reached)
            best = better or best
            choice = Choice(better.cut, 0) if better else choice
            # all other patterns cost as much as was reached at least
            if bound is not None and others is None and least < np.inf:
                best = best._replace(lower_bound=least)
        return best, choice, by_cut

    def _prices(
        self, request: Request, cut: NDArray[np.int64], weight_bits: Floats, crossing: Floats
    ) -> Prices[Floats]:
        network = self.network
        return price(
            request,
            device_macs=network.device_macs[cut],
            server_macs=network.server_macs[cut],
            download_bits=weight_bits,
            upload_bits=crossing + network.exact_bits[cut],
        )

    def _within_limits(
        self, request: Request, budget: float, cuts: NDArray[np.int64], reached: float
    ) -> tuple[_Pattern | None, float]:
        """The best pattern under the request's limits at one of ``cuts``, if it is better than ``reached``; and what no
        pattern there is below, nor below ``reached``."""
        maker, best, least = self._makers[request.device.weight_bits], None, reached
        bit = price(  # of weights, and of what crosses: every term is linear in both
            request,
            device_macs=np.zeros(3),
            server_macs=np.zeros(3),
            download_bits=_ONE_BIT[0],
            upload_bits=_ONE_BIT[1],
        )
        for cut in cuts.tolist():
            fixed = self._prices(request, np.array([cut]), np.zeros(1), np.zeros(1))
            rows = []
            if request.device.memory_bytes is not None:
                rows.append((1 / 8, 0.0, request.device.memory_bytes - float(self.network.peak_bytes[cut])))
            if request.deadline_s is not None:
                rows.append((*_slopes(bit.time_s), request.deadline_s - float(fixed.time_s[0])))
            if request.energy_budget_j is not None:
                rows.append((*_slopes(bit.energy_j), request.energy_budget_j - float(fixed.energy_j[0])))
            prices = _slopes(bit.objective(request))
            weights, crossing = maker.least_bits(cut, budget)
            if any(a * weights + b * crossing > c + 1e-9 * abs(c) for a, b, c in rows):
                continue
            found = allocate_pairs(*maker.items(cut), budget, prices=prices, limits=rows)
            if not isinstance(found, PairAllocation):
                continue
            base = float(fixed.objective(request)[0])
            least = min(least, base + (found.objective if found.exact else found.lower_bound))
            objective = base + found.objective
            if objective < reached * (1 - 1e-12):
                reached = objective
                allowed = np.array(request.device.weight_bits, dtype=np.uint8)
                widths = np.zeros(len(self.network.sizes), dtype=np.uint8)
                widths[self.network.layers[cut]] = allowed[found.weight_options]
                value_widths = tuple(int(allowed[option]) for option in found.crossing_options)
                best = _Pattern(
                    cut, widths, value_widths, found.weight_bits, found.crossing_bits, found.noise, lower_bound=None
                )
        return best, least

    def _plan(self, request: Request, pattern: _Pattern, by_cut: tuple[CutPrice, ...]) -> Plan:
        profile, network = self.profile, self.network
        cut = profile.closed_cuts[pattern.cut]
        prices = self._prices(
            request, np.array([pattern.cut]), np.array([pattern.weight_bits]), np.array([pattern.crossing_bits])
        )
        terms = {name: float(values[0]) for name, values in prices.as_dict().items()}
        download = -(-int(pattern.weight_bits) // 8)
        return unchecked(
            Plan,
            model=profile.model,
            method="exact",
            max_accuracy_drop=request.max_accuracy_drop,
            cut=cut.crossing,
            device_nodes=cut.device_nodes,
            layers=tuple(
                made[width or None] for made, width in zip(self._planned, pattern.widths.tolist(), strict=True)
            ),
            activation_bits={
                profile.values[value].name: width
                for value, width in zip(network.values[pattern.cut], pattern.value_widths, strict=True)
            },
            time_s=float(prices.time_s[0]),
            energy_j=float(prices.energy_j[0]),
            cost=terms["server_cost"],
            objective=float(prices.objective(request)[0]),
            prices=terms,
            download_bytes=download,
            upload_bytes=-(-int(pattern.crossing_bits + network.exact_bits[pattern.cut]) // 8),
            device_memory_bytes=download + cut.peak_bytes,
            inferences_per_download=request.inferences_per_download,
            by_cut=by_cut,
            lower_bound=pattern.lower_bound,
            predicted_drop=profile.noise_curve.drop_at(pattern.noise),
            uncounted=tuple(profile.uncounted),
        )

    def _by_cut(
        self,
        table: _Table,
        prices: Prices[Floats],
        objective: Floats,
        met: NDArray[np.bool_],
    ) -> tuple[CutPrice, ...]:
        """The best pattern for each number of layers on the device."""
        order = np.lexsort((objective, ~met, table.layers))
        counts = table.layers[order]
        first = order[np.flatnonzero(np.diff(counts, prepend=-1))]
        columns = zip(
            table.patterns.cut[first].tolist(), table.layers[first].tolist(), prices.time_s[first].tolist(),
            prices.energy_j[first].tolist(), prices.server_cost[first].tolist(), objective[first].tolist(),
            met[first].tolist(), strict=True,
        )  # fmt: skip
        cuts = self.profile.closed_cuts
        return tuple(
            unchecked(
                CutPrice,
                cut=cuts[cut].crossing, layers=layers, time_s=time_s, energy_j=energy_j, cost=cost, objective=total,
                feasible=feasible,
            )
            for cut, layers, time_s, energy_j, cost, total, feasible in columns
        )  # fmt: skip


_ONE_BIT = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
"""Bits of weights and bits that cross: none, one of weights, one that crosses."""


def _slopes(values: Floats) -> tuple[float, float]:
    """What a bit of weights and a bit that crosses add, from the values at ``_ONE_BIT``."""
    return float(values[1] - values[0]), float(values[2] - values[0])
