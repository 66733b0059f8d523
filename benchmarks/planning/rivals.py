"""Other ways to choose a cut and widths, as policies over the same noise tables, quantizer, prices and noise budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

import qpart_fx as qpart
from qpart_fx.cut_graph import CutGraph
from qpart_fx.exact_planner import ExactPlanner
from qpart_fx.meta import info
from qpart_fx.noise import WIDTHS
from qpart_fx.passes.find_closed_cuts import cut_graph
from qpart_fx.prices import (
    device_price_per_mac,
    download_price_per_bit,
    price,
    server_price_per_mac,
    upload_price_per_bit,
)
from qpart_fx.quantizer import UniformQuantizer
from qpart_fx.replay import Replay
from qpart_fx.solver.closed_form import narrowest, round_up, shares
from qpart_fx.solver.min_cut import least_closed_set

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

FLOAT_BITS = 32
AUTO_SPLIT_WIDTHS = (2, 4, 6, 8)
_STEPS = 400
"""Budgets, or multipliers, that a policy tries."""


class Candidate(NamedTuple):
    """What a policy may answer with, in the numbers that decide its price, and whether it keeps a noise budget."""

    device_macs: float
    server_macs: float
    download_bits: float
    upload_bits: float
    noise: float


@dataclass(frozen=True)
class Rivals:
    """The candidates of each policy, made once. Every policy may take the candidate that suits a request best."""

    profile: qpart.Profile

    def objectives(self, request: qpart.Request) -> dict[str, float]:
        """The objective of each policy's best plan within the request's noise budget; infinite where it has none."""
        budget = self.profile.noise_curve.noise_at(request.max_accuracy_drop)
        found = {name: _least(request, table, budget) for name, table in self._tables.items()}
        return {"DADS": self._dads(request), **found}

    @cached_property
    def _tables(self) -> dict[str, Floats]:
        server = [self._chain(0, np.zeros(0), FLOAT_BITS)]
        made = {
            "the paper": self._paper(),
            "Neurosurgeon": [
                self._chain(place, np.full(cut.layers, FLOAT_BITS), FLOAT_BITS)
                for place, cut in enumerate(self.profile.cuts)
            ],
            "Auto-Split": [*server, *self._auto_split()],
            "uniform widths": self._uniform(),
            "all on the server, float": server,
            "all on the server, 8 bits": [self._chain(0, np.zeros(0), 8)],
        }
        return {name: np.array(sorted(set(candidates))) for name, candidates in made.items()}

    def _chain(self, place: int, bits: NDArray[np.generic], crossing: int | Integers) -> Candidate:
        """The chain's cut at ``place`` with ``bits`` for its layers, and ``crossing`` for what crosses.

        Float makes no noise.
        """
        cut, layers = self.profile.cuts[place], len(bits)
        sizes, noise = self._layers
        values, value_sizes, value_noise = self._crossing(place)
        widths = [*bits.tolist(), *np.broadcast_to(crossing, len(values)).tolist()]
        tables = [*noise[:layers], *value_noise]
        return Candidate(
            cut.cut.device_macs,
            cut.cut.server_macs,
            float(sizes[:layers] @ bits.astype(np.float64)),
            float((value_sizes * crossing).sum()) + cut.cut.exact_bits,
            sum((float(row[width - WIDTHS[0]]) for row, width in zip(tables, widths, strict=True) if width <= 16), 0.0),
        )

    def _paper(self) -> list[Candidate]:
        """The closed form (eqs. 27, 39, 40), rounded up, on the chain: one width for layer p and what crosses after it.

        Delta is not the paper's, but any that keeps the budget.
        """
        found = []
        sizes, noise = self._layers
        robustness = np.array([layer.robustness for layer in self.profile.layers])
        for place, cut in enumerate(self.profile.cuts):
            p = cut.layers
            _, value_sizes, value_noise = self._crossing(place)
            z, table = sizes[:p].copy(), noise[:p] / robustness[:p, None]
            if p:
                z[-1] += value_sizes.sum()
                table[-1] += value_noise.sum(axis=0) / cut.robustness
            elif len(value_sizes):
                z, table = value_sizes.sum(keepdims=True), value_noise.sum(axis=0, keepdims=True) / cut.robustness
            else:
                found.append(self._chain(place, np.zeros(0), 0))
                continue
            for delta in np.geomspace(max(table.sum(axis=0).min(), 1e-30) / 10, 10 * table.sum(axis=0).max(), _STEPS):
                bits = round_up(narrowest(table, shares(z, float(delta)), WIDTHS), WIDTHS)
                found.append(self._chain(place, bits[:p], int(bits[-1])))
        return found

    def _auto_split(self) -> list[Candidate]:
        """Widths of 2, 4, 6 or 8 bits of least error for their size (Auto-Split, KDD'21), at each cut of the chain.

        Its error is the sum of mean squared errors; the sum of squared errors is tried as well, and any multiplier.
        Where 8 bits everywhere are too noisy, all on the server in float is left.
        """
        found = []
        bits = np.array(AUTO_SPLIT_WIDTHS, dtype=np.int64)
        weight_errors, value_errors = self._squared_errors
        sizes, _ = self._layers
        for place, cut in enumerate(self.profile.cuts):
            p = cut.layers
            values, value_sizes, _ = self._crossing(place)
            z = np.concatenate([sizes[:p], value_sizes])
            squared = np.concatenate(
                [weight_errors[:p], np.array([value_errors[name] for name in values]).reshape(-1, 4)]
            )
            for error in (squared, squared / z[:, None]) if len(z) else ():
                slopes = error / z[:, None]
                for multiplier in np.geomspace(slopes[slopes > 0].min() / 100, slopes.max() * 100, _STEPS):
                    widths = bits[(error + multiplier * z[:, None] * bits).argmin(axis=1)]
                    found.append(self._chain(place, widths[:p], widths[p:]))
        return found

    def _uniform(self) -> list[Candidate]:
        """One width everywhere, at every cut of the graph."""
        network = ExactPlanner(self.profile).network
        found = []
        for cut in range(len(network.layers)):
            layers, values = network.layers[cut], list(network.values[cut])
            for column, bits in enumerate(WIDTHS):
                place = network.resolutions.index(bits)
                noise = network.noise[layers, place].sum() + network.value_noise[values, column].sum()
                found.append(
                    Candidate(
                        float(network.device_macs[cut]),
                        float(network.server_macs[cut]),
                        float(network.weight_bits[layers, place].sum() + network.head_bits[cut]),
                        float(network.value_sizes[values].sum() * bits + network.exact_bits[cut]),
                        float(noise),
                    )
                )
        return found

    def _dads(self, request: qpart.Request) -> float:
        """The least float cut of the graph, by a minimum cut; it makes no noise."""
        graph, weights = self._graph
        macs = np.array([block.macs for block in graph.blocks], dtype=np.float64)
        bits = np.array([FLOAT_BITS * value.elements + value.exact_bits for value in graph.values], dtype=np.float64)
        download = FLOAT_BITS * weights * download_price_per_bit(request)
        return least_closed_set(
            graph,
            macs * device_price_per_mac(request) + download,
            macs * server_price_per_mac(request),
            bits * upload_price_per_bit(request),
        ).cost

    @cached_property
    def _graph(self) -> tuple[CutGraph, Floats]:
        """The graph's closed sets, and the weights of each block."""
        graph = cut_graph(self.profile.graph).strict()
        sizes = {node.name: info(node).parameters for node in self.profile.graph.graph.nodes}
        return graph, np.array([sum(sizes[name] for name in block.nodes) for block in graph.blocks], dtype=np.float64)

    @cached_property
    def _layers(self) -> tuple[Floats, Floats]:
        """Sizes and noise of all layers, the latter at each of ``WIDTHS``."""
        layers = self.profile.layers
        sizes = np.array([layer.parameters for layer in layers], dtype=np.float64)
        return sizes, np.array([layer.noise_by_width for layer in layers])

    def _crossing(self, place: int) -> tuple[list[str], Floats, Floats]:
        """Names, sizes and noise of the quantized values that cross the chain's cut at ``place``."""
        known = {value.name: value for value in self.profile.values}
        values = [known[name] for name in self.profile.cuts[place].cut.crossing if name in known]
        sizes = np.array([value.elements for value in values], dtype=np.float64)
        noise = np.array([value.noise_by_width for value in values]).reshape(-1, len(WIDTHS))
        return [value.name for value in values], sizes, noise

    @cached_property
    def _squared_errors(self) -> tuple[Floats, dict[str, list[float]]]:
        """Summed squared errors at Auto-Split's widths: of each layer's weights, and of a sample of each value."""
        profile = self.profile
        batch = profile.check[0]
        replay = Replay(profile.graph, batch)
        owned = {node.name: [*info(node).weights] for node in profile.graph.graph.nodes}
        weights = [
            [
                sum(
                    _squared_error(profile.graph.get_parameter(name), UniformQuantizer.of_tensor, bits)
                    for name in owned[layer.name]
                )
                for bits in AUTO_SPLIT_WIDTHS
            ]
            for layer in profile.layers
        ]
        values = {
            value.name: [
                _squared_error(replay.value(value.name), partial(_from_range, profile.ranges[value.name]), bits)
                / batch.size
                for bits in AUTO_SPLIT_WIDTHS
            ]
            for value in profile.values
        }
        return np.array(weights), values


def _least(request: qpart.Request, table: Floats, budget: float) -> float:
    """The least objective of the candidates that keep the budget."""
    device, server, download, upload, noise = table.T
    prices = price(request, device_macs=device, server_macs=server, download_bits=download, upload_bits=upload)
    return float(np.where(noise <= budget, prices.objective(request), np.inf).min())


def _squared_error(values: Tensor, quantizer: Callable[[Tensor, int], UniformQuantizer], bits: int) -> float:
    values = values.detach()
    return float((quantizer(values, bits)(values) - values).double().square().sum())


def _from_range(ends: tuple[float, float], _: Tensor, bits: int) -> UniformQuantizer:
    return UniformQuantizer.from_range(*ends, bits)
