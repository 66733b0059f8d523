"""Plans proven best: over every closed set of the graph, with a width for every layer and every crossing value."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .noise import WIDTHS
from .plan import CutPrice, Plan, PlannedLayer
from .prices import Prices, price
from .request import Request
from .solver.allocate import PairAllocation, allocate_pairs
from .solver.choice import Choice, choose_among, limits_overstepped
from .solver.patterns import Network, PatternMaker, Patterns

if TYPE_CHECKING:
    from .model_profile import Profile

Floats = NDArray[np.float64]


_STEP = 0.7
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
class ExactPlanner:
    """The patterns of each accuracy level once, and for every request a scan over those of its level."""

    profile: Profile
    _makers: dict[tuple[int, ...], PatternMaker] = field(default_factory=dict, init=False, repr=False)
    _tables: dict[tuple[tuple[int, ...], float], Patterns] = field(default_factory=dict, init=False, repr=False)

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

    def first_drop(self, request: Request) -> float:
        """The largest of the profile's levels that ``request`` allows; a tenth of the first if it allows none."""
        levels = self.profile.levels
        return max((drop for drop in levels if drop <= request.max_accuracy_drop), default=levels[0] / 10)

    def stricter_drop(self, drop: float) -> float | None:
        """What to plan for when plans for ``drop`` lose too much; None when that is next to nothing already."""
        return _STEP * drop if _STEP * drop >= self.profile.levels[0] / 10 else None

    def best(self, request: Request, cut: int | None, drop: float) -> tuple[Plan, Choice]:
        """The best plan that meets ``request`` and is predicted to lose ``drop`` at most; the nearest if there is none.

        Args:
            cut: the place of a cut in ``profile.closed_cuts``, to plan for it alone.
        """
        pattern, choice, by_cut = self._best_at(request, drop, cut)
        return self._plan(request, pattern, by_cut), choice

    def patterns(self, widths: tuple[int, ...], drop: float) -> Patterns:
        """The patterns that are predicted to lose ``drop`` at most; made once."""
        if (widths, drop) not in self._tables:
            if widths not in self._makers:
                self._makers[widths] = PatternMaker(self.network, widths)
            self._tables[widths, drop] = self._makers[widths].patterns(self.profile.noise_curve.noise_at(drop))
        return self._tables[widths, drop]

    def _best_at(self, request: Request, drop: float, cut: int | None) -> tuple[_Pattern, Choice, tuple[CutPrice, ...]]:
        budget = self.profile.noise_curve.noise_at(drop)
        table = self.patterns(request.device.weight_bits, drop)
        prices = self._prices(request, table.cut, table.weight_bits, table.crossing_bits)
        objective = prices.objective(request)
        overstep = {"max_accuracy_drop": table.noise / budget * (1 - 1e-9)}
        overstep |= limits_overstepped(request, prices, table.weight_bits / 8 + self.network.peak_bytes[table.cut])
        eligible = np.ones(len(table.cut), dtype=np.bool_) if cut is None else table.cut == cut
        kept = eligible & (overstep["max_accuracy_drop"] <= 1)
        bounds = self._prices(request, table.cut, table.least_weight_bits, table.crossing_bits).objective(request)
        bound = float(bounds[kept].min()) if (kept.any() and self.profile.complete) or cut is not None else None
        found = choose_among(
            objective[:, None], {name: values[:, None] for name, values in overstep.items()}, eligible[:, None]
        )
        row = found.cut
        best = _Pattern(
            int(table.cut[row]), table.widths[row], table.value_widths[row], float(table.weight_bits[row]),
            float(table.crossing_bits[row]), float(table.noise[row]), bound if kept.any() else None,
        )  # fmt: skip
        choice = Choice(best.cut, 0, found.limit, found.overstep)
        by_cut = self._by_cut(table, prices, objective, overstep, eligible)
        reached = float(objective[row]) if found.limit is None else np.inf
        if len(overstep) > 1 and (bounds[kept] < reached * (1 - 1e-12)).any():
            # A limit stands in the way of better patterns: what meets it may lie between the stored ones.
            better = self._within_limits(request, budget, np.unique(table.cut[kept & (bounds < reached)]), reached)
            if better is not None:
                best, choice = better._replace(lower_bound=bound), Choice(better.cut, 0)
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
    ) -> _Pattern | None:
        """The best pattern under the request's limits at one of ``cuts``, if it is better than ``reached``."""
        maker, best = self._makers[request.device.weight_bits], None
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
            found = allocate_pairs(*maker.items(cut), budget, prices=prices, limits=rows)
            if not isinstance(found, PairAllocation):
                continue
            objective = float(fixed.objective(request)[0]) + found.objective
            if objective < reached * (1 - 1e-12):
                reached = objective
                allowed = np.array(request.device.weight_bits, dtype=np.uint8)
                widths = np.zeros(len(self.network.sizes), dtype=np.uint8)
                widths[self.network.layers[cut]] = allowed[found.weight_options]
                value_widths = tuple(int(allowed[option]) for option in found.crossing_options)
                best = _Pattern(
                    cut, widths, value_widths, found.weight_bits, found.crossing_bits, found.noise, lower_bound=None
                )
        return best

    def _plan(self, request: Request, pattern: _Pattern, by_cut: tuple[CutPrice, ...]) -> Plan:
        profile, network = self.profile, self.network
        cut = profile.closed_cuts[pattern.cut]
        prices = self._prices(
            request, np.array([pattern.cut]), np.array([pattern.weight_bits]), np.array([pattern.crossing_bits])
        )
        terms = {name: float(values[0]) for name, values in prices.as_dict().items()}
        download = -(-int(pattern.weight_bits) // 8)
        return Plan(
            model=profile.model,
            method="exact",
            max_accuracy_drop=request.max_accuracy_drop,
            cut=cut.crossing,
            device_nodes=cut.device_nodes,
            layers=tuple(
                PlannedLayer(
                    name=layer.name,
                    operation=layer.operation,
                    macs=layer.macs,
                    parameters=layer.parameters,
                    bits=int(width) or None,
                )
                for layer, width in zip(profile.layers, pattern.widths, strict=True)
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
        table: Patterns,
        prices: Prices[Floats],
        objective: Floats,
        overstep: dict[str, Floats],
        eligible: NDArray[np.bool_],
    ) -> tuple[CutPrice, ...]:
        """The best pattern for each number of layers on the device."""
        feasible = np.all([values <= 1 for values in overstep.values()], axis=0) & eligible
        counts = self.network.layers[table.cut].sum(axis=1)
        order = np.lexsort((objective, ~feasible, counts))
        _, first = np.unique(counts[order], return_index=True)
        return tuple(
            CutPrice(
                cut=self.profile.closed_cuts[int(table.cut[row])].crossing,
                layers=int(counts[row]),
                time_s=float(prices.time_s[row]),
                energy_j=float(prices.energy_j[row]),
                cost=float(prices.server_cost[row]),
                objective=float(objective[row]),
                feasible=bool(feasible[row]),
            )
            for row in order[first].tolist()
            if eligible[row]
        )


_ONE_BIT = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
"""Bits of weights and bits that cross: none, one of weights, one that crosses."""


def _slopes(values: Floats) -> tuple[float, float]:
    """What a bit of weights and a bit that crosses add, from the values at ``_ONE_BIT``."""
    return float(values[1] - values[0]), float(values[2] - values[0])
