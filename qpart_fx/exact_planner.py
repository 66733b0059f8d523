"""Plans proven best: over every closed set of the graph, all resolutions of layers, and all widths of what crosses."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError
from .held_head import held_by
from .node_work import NodeWork, Operators
from .noise import WIDTHS
from .pattern_table import PatternTable, Work, work_of
from .plan import MAKE_BY_CUT, Plan, PlannedLayer, unchecked
from .prices import Prices, download_price_per_bit, upload_price_per_bit
from .request import Request
from .resolution import width_of
from .solver.allocate import SLACK, PairAllocation, allocate_pairs
from .solver.choice import Choice, limits_overstepped
from .solver.patterns import Held, Network, PatternMaker
from .solver.whole_graph import WholeGraph
from .solver.width_speeds import solve

if TYPE_CHECKING:
    from .model_profile import LayerProfile, Profile

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_STEP = 0.8
"""How much less is planned for when a plan lost more than it should."""


class Machine(NamedTuple):
    """What of a device decides which patterns there are, and what they cost: the widths of weights, and of what
    crosses; whether values inside the head are rounded; and, where it is calibrated, its cycles for each kind of
    operator, and for a MAC."""

    weights: tuple[int, ...]
    values: tuple[int, ...]
    inside: bool = False
    operators: Operators | None = None
    cycles_per_mac: float = 1.0


class _Pattern(NamedTuple):
    """A cut, its resolutions and its widths: what one inference does, the memory it takes, the widths of what crosses,
    and the fields of plans that do not depend on the request."""

    cut: int
    work: Work[float]
    memory_bytes: float
    activation_bits: dict[str, int]
    fields: dict[str, Any]


@dataclass(frozen=True)
class ExactPlanner:
    """The patterns of each accuracy level once, and for every request a scan over those of its level; or patterns made
    for the request, where the device's speed depends on the width or it holds another head."""

    profile: Profile
    _makers: dict[Machine, PatternMaker] = field(default_factory=dict, init=False, repr=False)
    _tables: dict[tuple[Machine, float, int | None], PatternTable] = field(default_factory=dict, init=False, repr=False)
    _helds: dict[tuple[tuple[str, ...], tuple[PlannedLayer, ...]], Held] = field(
        default_factory=dict, init=False, repr=False
    )
    _networks: dict[tuple[bool, Operators | None, float], Network] = field(default_factory=dict, init=False, repr=False)
    _stored: dict[tuple[PatternTable, int], _Pattern] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def network(self) -> Network:
        """The profile in numbers."""
        profile = self.profile
        places = {value.name: index for index, value in enumerate(profile.values)}
        cuts = profile.closed_cuts
        on_device = [set(cut.device_nodes) for cut in cuts]
        resolutions = profile.rounding.resolutions
        shape = -1, len(resolutions)
        return Network(
            resolutions=resolutions,
            largest_width=profile.rounding.largest_width,
            weight_bits=np.array([[*layer.bits_by_resolution.values()] for layer in profile.layers]).reshape(shape),
            macs=np.array([layer.macs for layer in profile.layers], dtype=np.float64),
            noise=np.array([[*layer.noise_by_resolution.values()] for layer in profile.layers]).reshape(shape),
            value_sizes=np.array([value.elements for value in profile.values], dtype=np.float64),
            value_noise=np.array([value.noise_by_width for value in profile.values]).reshape(-1, len(WIDTHS)),
            layers=np.array([[layer.name in nodes for layer in profile.layers] for nodes in on_device]),
            values=tuple(tuple(places[name] for name in cut.crossing if name in places) for cut in cuts),
            device_macs=np.array([cut.device_macs for cut in cuts], dtype=np.float64),
            server_macs=np.array([cut.server_macs for cut in cuts], dtype=np.float64),
            exact_bits=np.array([cut.exact_bits for cut in cuts], dtype=np.float64),
            head_bits=np.array(profile.head_bits, dtype=np.float64),
            peak_bytes=np.array([cut.peak_bytes for cut in cuts], dtype=np.float64),
        )

    def _network_of(self, machine: Machine) -> Network:
        """The same for a device: each layer's noise with that of the values that are rounded for it, and in place of
        MACs what they and all else take, in MACs that would take as long."""
        key = machine.inside, machine.operators, machine.cycles_per_mac
        if key not in self._networks:
            network = self.network
            if machine.inside:
                network = replace(network, noise=network.noise + self._inside[:, None])
            if machine.operators is not None:
                of_layers, of_cuts = self._cycles(machine.operators)
                network = replace(
                    network, macs=of_layers / machine.cycles_per_mac, device_macs=of_cuts / machine.cycles_per_mac
                )
            self._networks[key] = network
        return self._networks[key]

    def _cycles(self, operators: Operators) -> tuple[Floats, Floats]:
        """Of each layer, and of all that the device runs at each cut, packing included."""
        profile = self.profile
        of_nodes = self._cycles_of_nodes(operators)
        sums = np.concatenate([[0.0], np.cumsum([of_nodes.get(name, 0.0) for name in profile.closed_cuts[0].order])])
        of_cuts = []
        for cut in profile.closed_cuts:
            ends = np.concatenate([[0], np.cumsum(cut.runs)])
            running = float((sums[ends[1::2]] - sums[ends[:-1:2]]).sum())
            packing = NodeWork("packing", 0, 4 * cut.elements, 0) if cut.elements else None
            once = NodeWork("call", 0, 0, 0) if running else None
            of_cuts.append(running + sum(operators.of(work) for work in (packing, once) if work is not None))
        return np.array([of_nodes.get(layer.name, 0.0) for layer in profile.layers]), np.array(of_cuts)

    def _cycles_of_nodes(self, operators: Operators) -> dict[str, float]:
        """By name.

        Raises:
            RequestError: the profile does not know what its nodes are made of.
        """
        if not self.profile.work:
            raise RequestError("device.operators: the profile's file is an old one: profile again, or leave them out")
        return {name: operators.of(work) for name, work in self.profile.work.items()}

    @cached_property
    def _inside(self) -> NDArray[np.float64]:
        """What rounding inside adds to each layer's noise, shape (layers,).

        Raises:
            RequestError: the profile does not know.
        """
        noise = [layer.noise_inside for layer in self.profile.layers]
        if None in noise:
            unknown = next(layer.name for layer in self.profile.layers if layer.noise_inside is None)
            raise RequestError(
                "device.activation_bits_inside: the profile does not know what rounding costs around the layer "
                f"'{unknown}': no gradient reaches it, or the profile's file is an old one; leave it out, or profile "
                "again"
            )
        return np.array(noise, dtype=np.float64)

    @cached_property
    def whole_graph(self) -> WholeGraph | None:
        """The graph with all its cuts, where the profile does not hold them all."""
        return self._whole_graph_of(Machine(WIDTHS, WIDTHS))

    def _whole_graph_of(self, machine: Machine) -> WholeGraph | None:
        """As a device runs it; what packing takes is left out, so that a lower bound is one still."""
        profile, network = self.profile, self._network_of(machine)
        if profile.cut_graph is None:
            return None
        device_macs = None
        if machine.operators is not None:
            cycles = self._cycles_of_nodes(machine.operators)
            device_macs = {name: each / machine.cycles_per_mac for name, each in cycles.items()}
        return WholeGraph.of(
            profile.cut_graph,
            profile.rounding.resolutions,
            profile.rounding.largest_width,
            weight_bits={layer.name: [*layer.bits_by_resolution.values()] for layer in profile.layers},
            noise={layer.name: row for layer, row in zip(profile.layers, network.noise.tolist(), strict=True)},
            value_noise={value.name: value.noise_by_width for value in profile.values},
            device_macs=device_macs,
        )

    @cached_property
    def _planned(self) -> list[dict[float | None, PlannedLayer]]:
        """Each layer in a plan, by its resolution: made once, since a plan has many."""

        def planned(layer: LayerProfile, resolution: float | None, coded: float | None) -> PlannedLayer:
            bits = None if resolution is None else width_of(resolution, self.profile.rounding.largest_width)
            return PlannedLayer(layer.name, layer.operation, layer.macs, layer.parameters, bits, coded, resolution)

        return [
            {None: planned(layer, None, None)}
            | {resolution: planned(layer, resolution, bits) for resolution, bits in layer.bits_by_resolution.items()}
            for layer in self.profile.layers
        ]

    def first_drop(self, asked: Request | Plan) -> float:
        """The largest of the profile's levels that a request, or the one that a plan is for, allows; a tenth of the
        first if it allows none."""
        levels = self.profile.levels
        allowed = bisect_right(levels, asked.max_accuracy_drop)
        return levels[allowed - 1] if allowed else levels[0] / 10

    def stricter_drop(self, drop: float) -> float | None:
        """What to plan for when plans for ``drop`` lose too much; None when that is next to nothing already."""
        strictest = self.profile.levels[0] / 10
        return max(_STEP * drop, strictest) if drop > strictest else None

    def best(self, request: Request, cut: int | None, drop: float) -> tuple[Plan, Choice]:
        """The best plan that meets ``request`` and is predicted to lose ``drop`` at most; the nearest if there is none.

        Args:
            cut: the place of a cut in ``profile.closed_cuts``, to plan for it alone.
        """
        if request.device.speed_depends_on_width or request.device_holds is not None:
            return self._best_anew(request, cut, drop)
        table = self.table(machine_of(request), drop, cut)
        if table.rows.size:
            pattern = self._pattern_of(table, int(table.cheapest(request)))
            prices = pattern.work.prices(request)
            limits = limits_overstepped(request, prices, pattern.memory_bytes)
            if not limits or (table.proven and max(limits.values()) <= 1):
                bound = self._lower_bound(request, table, prices)
                return self._plan(request, table, pattern, prices, bound), Choice(pattern.cut, 0)
        return self._best_under_limits(request, table)

    def stored(self, request: Request, table: PatternTable, row: int) -> Plan:
        """The plan with the pattern in a row of ``table``, the cheapest for ``request``."""
        pattern = self._pattern_of(table, row)
        prices = pattern.work.prices(request)
        return self._plan(request, table, pattern, prices, self._lower_bound(request, table, prices))

    def stores(self, table: PatternTable, plan: Plan) -> bool:
        """Whether the plan's cut, resolutions and widths are those of one of the patterns of ``table``."""
        cut = self._places.get(plan.cut)
        if cut is None:
            return False
        resolutions = np.array([layer.resolution or 0 for layer in plan.layers], dtype=np.float32)
        values = tuple(plan.activation_bits[self.profile.values[place].name] for place in self.network.values[cut])
        patterns = table.patterns
        same = (patterns.cut == cut) & (patterns.resolutions == resolutions).all(axis=1)
        return any(patterns.value_widths[row] == values for row in np.flatnonzero(same))

    @cached_property
    def _places(self) -> dict[tuple[str, ...], int]:
        """Where the profile has a cut, by the values that cross it."""
        return {cut.crossing: place for place, cut in enumerate(self.profile.closed_cuts)}

    def table(self, machine: Machine, drop: float, cut: int | None = None) -> PatternTable:
        """The patterns that are predicted to lose ``drop`` at most, of all cuts or of one; made once."""
        key = machine, drop, cut
        if key not in self._tables:
            budget = self.profile.noise_curve.noise_at(drop)
            patterns = self._maker(machine).patterns(budget, None if cut is None else [cut])
            complete = self.profile.complete or cut is not None
            self._tables[key] = PatternTable.of(self._network_of(machine), patterns, budget, complete)
        return self._tables[key]

    def _maker(self, machine: Machine) -> PatternMaker:
        if machine not in self._makers:
            self._makers[machine] = PatternMaker(self._network_of(machine), machine.weights, machine.values)
        return self._makers[machine]

    def _best_anew(self, request: Request, cut: int | None, drop: float) -> tuple[Plan, Choice]:
        """As ``best``, for a device whose speed depends on the width, or which holds another head: from patterns that
        are made for this request."""
        budget, complete = self.profile.noise_curve.noise_at(drop), self.profile.complete or cut is not None
        held = None if request.device_holds is None else self._held(request.device_holds)
        cuts: Sequence[int] = [cut] if cut is not None else range(len(self.network.head_bits))
        if cut is None and held is None:
            cuts = self._maker(machine_of(request)).undominated
        network = self._network_of(machine_of(request))
        solved = solve(request, network, cuts, budget, held)
        table = PatternTable.of(network, solved.patterns, budget, complete)
        work = replace(table.work, device_macs=solved.device_macs, download_bits=solved.download_bits)
        table = replace(table, work=work)
        if solved.found:
            row, choice = len(table.within) - 1, Choice(int(solved.patterns.cut[-1]), 0)
        else:
            near = table.work.prices(request)
            limits = limits_overstepped(request, near, table.memory_bytes)
            row, choice = table.nearest(near.objective(request), limits)
        pattern = self._read(table, row)
        prices = pattern.work.prices(request)
        bound = solved.lower_bound and min(solved.lower_bound, prices.objective(request))
        if not complete:
            known = bound is not None and not request.device.speed_depends_on_width
            bound = self._over_all_cuts(request, table, prices.objective(request), held) if known else None
        return self._plan(request, table, pattern, prices, bound), choice

    def _held(self, plan: Plan) -> Held:
        """What a device that holds the head of ``plan`` need not download; made once, since many may hold the same.

        Raises:
            RequestError: it is a plan for another model.
        """
        profile = self.profile
        same_layers = [layer.name for layer in plan.layers] == [layer.name for layer in profile.layers]
        if plan.model != profile.model or plan.weights_hash not in (None, profile.weights_hash) or not same_layers:
            raise RequestError(
                f"Request.device_holds: the plan is for a {plan.model} of other weights than those of the "
                f"{profile.model} profiled; a head of another model cannot be updated: leave it out"
            )
        key = plan.device_nodes, plan.layers
        if key not in self._helds:
            known = [of_layer.get(layer.resolution) for of_layer, layer in zip(self._planned, plan.layers, strict=True)]
            self._helds[key] = held_by(self.network, profile.closed_cuts, known, plan, profile.update_bits)
        return self._helds[key]

    def _lower_bound(self, request: Request, table: PatternTable, cheapest: Prices[float]) -> float | None:
        """What no pattern within the table's budget is below, ``cheapest`` being the least prices."""
        if table.complete:
            return table.lower_bound(request, cheapest)
        return self._over_all_cuts(request, table, cheapest.objective(request))

    def _over_all_cuts(
        self, request: Request, table: PatternTable, reached: float, held: Held | None = None
    ) -> float | None:
        """The same over cuts that the table has no patterns of; ``reached``: the objective of one of its patterns."""
        whole = self._whole_graph_of(machine_of(request))
        if whole is not None and held is not None:
            whole = replace(whole, weight_bits=whole.weight_bits - held.weight_bits)
        return None if whole is None else whole.lower_bound(request, table.budget, reached)

    def _best_under_limits(self, request: Request, table: PatternTable) -> tuple[Plan, Choice]:
        """As ``best``, where none keeps the budget, or the cheapest that does need not be the best in the limits."""
        patterns, kept = table.patterns, table.within
        prices = table.work.prices(request)
        objective = prices.objective(request)
        bounds = objective if table.proven else table.least_work.prices(request).objective(request)
        limits = limits_overstepped(request, prices, table.memory_bytes)
        met = table.met(limits)
        bound = float(bounds[kept].min()) if kept.any() else None
        if bound is not None and not table.complete:
            bound = self._over_all_cuts(request, table, float(objective[kept].min()))
        if met.any():
            row, reached = int(np.where(met, objective, np.inf).argmin()), float(objective[met].min())
            choice = Choice(int(patterns.cut[row]), 0)
        else:
            row, choice = table.nearest(objective, limits)
            reached = np.inf
        pattern = self._pattern_of(table, row)
        if limits and bool((bounds[kept] < reached * (1 - 1e-12)).any()):
            # A limit stands in the way of better patterns: what meets it may lie between the stored ones.
            open_cuts = np.unique(patterns.cut[kept & (bounds < reached)])
            better, least = self._within_limits(request, table.budget, open_cuts, reached)
            if better is not None:
                pattern, choice = better, Choice(better.cut, 0)
            # all other patterns cost as much as was reached at least
            if bound is not None and table.complete and least < np.inf:
                bound = least
        return self._plan(request, table, pattern, pattern.work.prices(request), bound), choice

    def _within_limits(
        self, request: Request, budget: float, cuts: Integers, reached: float
    ) -> tuple[_Pattern | None, float]:
        """The best pattern under the request's limits at one of ``cuts``, if it is better than ``reached``; and what no
        pattern there is below, nor below ``reached``."""
        maker, best, least = self._maker(machine_of(request)), None, reached
        no_bits = np.zeros(len(cuts))
        without_bits = work_of(self._network_of(machine_of(request)), cuts, no_bits, no_bits)
        fixed = without_bits.prices(request)
        times, energies, bases = fixed.time_s.tolist(), fixed.energy_j.tolist(), fixed.objective(request).tolist()
        bit = Work(0.0, 0.0, 1.0, 1.0).prices(request)
        prices = download_price_per_bit(request), upload_price_per_bit(request)
        for place, (cut, time_s, energy_j, base) in enumerate(zip(cuts.tolist(), times, energies, bases, strict=True)):
            rows = []
            if request.device.memory_bytes is not None:
                rows.append(
                    (
                        1 / 8,
                        0.0,
                        request.device.memory_bytes
                        - float(self.network.peak_bytes[cut])
                        - float(self.network.head_bits[cut]) / 8,
                    )
                )
            if request.deadline_s is not None:
                most = request.deadline_s * (1 + SLACK) - time_s
                rows.append((bit.download_time_s, bit.upload_time_s, most))
            if request.energy_budget_j is not None:
                most = request.energy_budget_j * (1 + SLACK) - energy_j
                rows.append((bit.receive_energy_j, bit.transmit_energy_j, most))
            weights, crossing = maker.least_bits(cut, budget)
            if any(a * weights + b * crossing > c + 1e-9 * abs(c) for a, b, c in rows):
                continue
            found = allocate_pairs(*maker.items(cut), budget, prices=prices, limits=rows)
            if not isinstance(found, PairAllocation):
                continue
            least = min(least, base + (found.objective if found.exact else found.lower_bound))
            objective = base + found.objective
            if objective < reached * (1 - 1e-12):
                reached = objective
                resolutions = maker.resolutions_of(cut, found.weight_options)
                value_widths = tuple(maker.value_widths[option] for option in found.crossing_options)
                of_cut = without_bits.of(place)
                work = replace(
                    of_cut,
                    download_bits=of_cut.download_bits + found.weight_bits,
                    upload_bits=of_cut.upload_bits + found.crossing_bits,
                )
                memory = work.download_bits / 8 + float(self.network.peak_bytes[cut])
                best = self._pattern(cut, resolutions, value_widths, work, found.noise, memory)
        return best, least

    def _pattern_of(self, table: PatternTable, row: int) -> _Pattern:
        """A row of ``table``; made once, since many requests are answered by the same."""
        key = table, row
        if key not in self._stored:
            self._stored[key] = self._read(table, row)
        return self._stored[key]

    def _read(self, table: PatternTable, row: int) -> _Pattern:
        patterns = table.patterns
        cut, noise = int(patterns.cut[row]), float(patterns.noise[row])
        memory = float(table.memory_bytes[row])
        return self._pattern(
            cut, patterns.resolutions[row], patterns.value_widths[row], table.work.of(row), noise, memory
        )

    def _pattern(
        self,
        cut: int,
        resolutions: NDArray[np.float32],
        value_widths: tuple[int, ...],
        work: Work[float],
        noise: float,
        memory_bytes: float,
    ) -> _Pattern:
        profile, network, place = self.profile, self.network, self.profile.closed_cuts[cut]
        activation_bits = {
            profile.values[value].name: width for value, width in zip(network.values[cut], value_widths, strict=True)
        }
        fields = {
            "model": profile.model,
            "method": "exact",
            "cut": place.crossing,
            "device_nodes": place.device_nodes,
            "layers": tuple(made[bits or None] for made, bits in zip(self._planned, resolutions.tolist(), strict=True)),
            "download_bytes": -(-int(work.download_bits) // 8),
            "upload_bytes": -(-int(work.upload_bits) // 8),
            "device_memory_bytes": math.ceil(memory_bytes),
            "predicted_drop": profile.noise_curve.drop_at(noise),
            "uncounted": tuple(profile.uncounted),
            "weights_hash": profile.weights_hash,
        }
        return _Pattern(cut, work, memory_bytes, activation_bits, fields)

    def _plan(
        self, request: Request, table: PatternTable, pattern: _Pattern, prices: Prices[float], bound: float | None
    ) -> Plan:
        return unchecked(
            Plan,
            **pattern.fields,
            activation_bits=dict(pattern.activation_bits),
            max_accuracy_drop=request.max_accuracy_drop,
            time_s=prices.time_s,
            energy_j=prices.energy_j,
            cost=prices.server_cost,
            objective=prices.objective(request),
            prices=prices.as_dict(),
            inferences_per_download=request.inferences_per_download,
            updates_held_head=request.device_holds is not None,
            activation_bits_inside=request.device.activation_bits_inside,
            lower_bound=bound,
            **{MAKE_BY_CUT: partial(table.by_cut, request, self.profile.closed_cuts)},
        )


def machine_of(request: Request) -> Machine:
    """What plans for it depend on."""
    device = request.device
    inside = device.activation_bits_inside is not None
    widths = device.storable_bits, device.crossing_bits, inside
    if device.operators is None:
        return Machine(*widths)
    return Machine(*widths, cast(Operators, device.operators), device.float_cycles_per_mac)  # as it was validated
