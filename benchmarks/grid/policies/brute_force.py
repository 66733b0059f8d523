"""Every choice looked at: the measure of solvers, on networks small enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np

from qpart_fx.exact_planner import ExactPlanner
from qpart_fx.noise import WIDTHS
from qpart_fx.resolution import width_of

from ..cells import BUDGETS, Cells
from ..networks import Network
from ..options import Decision, Integers, Made, Options, least
from ..quantized import ANYTHING, with_widths
from .policy import Policy, decision

MOST = 1_000_000
"""Choices of widths at a cut."""


@dataclass(frozen=True)
class BruteForce(Policy):
    """Every cut of the graph and every choice of some widths, for each weight and each value that crosses, with the
    steps between them; noise and coded bytes are those that our solver plans by.

    A network that has too many choices, it refuses.
    """

    widths: tuple[int, ...] = (2, 4, 6, 8)

    def decide(self, network: Network, cells: Cells) -> Decision:
        options = self._options(network)
        if options is None:
            return Decision(
                Options.of_rows([], []), np.full(len(cells.requests), -1), np.full(len(cells.requests), np.inf)
            )
        return decision(options, least(cells.objective(options), cells.fits(options) & cells.keeps(options)), cells)

    def _options(self, network: Network) -> Options | None:
        """Of each cut, budget and choice of widths for what crosses the choice of weights of fewest bits: whatever the
        prices, none of the others is better."""
        table = ExactPlanner(network.profile).network
        places = [
            place
            for place, resolution in enumerate(table.resolutions)
            if width_of(resolution, table.largest_width) in self.widths
        ]
        if len(places) ** len(table.noise) > MOST:
            return None
        resolutions = np.array(table.resolutions)[places]
        columns = [width - WIDTHS[0] for width in self.widths]
        rows: list[list[float]] = []
        made: list[Callable[[], Made] | None] = []
        for cut, (layers, values) in enumerate(zip(table.layers, table.values, strict=True)):
            choices = _all(len(places), int(layers.sum()))
            which = np.arange(choices.shape[1])[None, :]
            bits = table.weight_bits[layers][:, places][which, choices].sum(axis=1)
            noise = table.noise[layers][:, places][which, choices].sum(axis=1)
            order = np.argsort(bits, kind="stable")
            for sent in product(range(len(columns)), repeat=len(values)):
                extra = sum(table.value_noise[value, columns[each]] for value, each in zip(values, sent, strict=True))
                up = sum(table.value_sizes[value] * self.widths[each] for value, each in zip(values, sent, strict=True))
                for budget in BUDGETS:
                    within = noise[order] + extra <= network.profile.noise_curve.noise_at(budget)
                    if not within.any():
                        continue
                    best = order[int(within.argmax())]
                    head = float(bits[best] + table.head_bits[cut])
                    memory = head / 8 + table.peak_bytes[cut]
                    work = table.device_macs[cut], table.server_macs[cut], head, float(up) + table.exact_bits[cut]
                    rows.append([*work, memory, budget])
                    made.append(partial(self._split, network, cut, resolutions[choices[best]].tolist(), sent))
        return Options.of_rows(rows, made)

    def _split(self, network: Network, cut: int, chosen: list[float], sent: tuple[int, ...]) -> Made:
        plan = network.profile.plan(ANYTHING, cut=network.profile.closed_cuts[cut].crossing)
        weights = dict(zip(plan.weight_bits, chosen, strict=True))
        crossing = dict(zip(plan.activation_bits, (self.widths[each] for each in sent), strict=True))
        return with_widths(network, plan, weights, crossing)


_NOTHING = np.zeros((1, 0), dtype=np.int64)


def _all(options: int, places: int) -> Integers:
    """Every choice of one of ``options`` at each of ``places``; shape (choices, places)."""
    return np.stack(np.unravel_index(np.arange(options**places), (options,) * places), axis=-1) if places else _NOTHING
