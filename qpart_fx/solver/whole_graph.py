"""A graph with all its closed sets in numbers, and what no plan for a request is below, wherever it cuts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qpart_fx.cut_graph import CutGraph
from qpart_fx.noise import WIDTHS
from qpart_fx.prices import (
    device_price_per_mac,
    download_price_per_bit,
    server_price_per_mac,
    upload_price_per_bit,
)
from qpart_fx.request import Request
from qpart_fx.resolution import places_of

from .dual import PricedGraph

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class WholeGraph:
    """The blocks and values of ``graph``, and the noise of its layers and values.

    ``home``: the block of each layer, (L,); ``weight_bits`` and ``noise`` at each of R ``resolutions``, (L, R).
    ``value_sizes`` in quantized elements, (V,), and ``value_noise`` at each of ``WIDTHS``, (V, W): of the values of
    ``graph``. ``device_macs``: of each block, as many as would take the device as long, (B,).
    """

    graph: CutGraph
    resolutions: tuple[float, ...]
    largest_width: int
    home: Integers
    weight_bits: Floats
    noise: Floats
    value_sizes: Floats
    value_noise: Floats
    device_macs: Floats

    @classmethod
    def of(
        cls,
        graph: CutGraph,
        resolutions: tuple[float, ...],
        largest_width: int,
        weight_bits: Mapping[str, Sequence[float]],
        noise: Mapping[str, Sequence[float]],
        value_noise: Mapping[str, Sequence[float]],
        device_macs: Mapping[str, float] | None = None,
    ) -> WholeGraph:
        """From the bits and the noise of each layer at each of ``resolutions``, and the noise of each value, by name.

        A value whose noise is not known makes none and costs nothing: a lower bound is still one.

        Args:
            device_macs: of nodes, by name, where those of a device are others than the graph's.
        """
        of_blocks = [
            block.macs if device_macs is None else sum(device_macs.get(name, 0.0) for name in block.nodes)
            for block in graph.blocks
        ]
        block_of = {name: index for index, block in enumerate(graph.blocks) for name in block.nodes}
        silent = (0.0,) * len(WIDTHS)
        return cls(
            graph,
            resolutions,
            largest_width,
            home=np.array([block_of[name] for name in weight_bits], dtype=np.int64),
            weight_bits=np.array([*weight_bits.values()], dtype=np.float64).reshape(-1, len(resolutions)),
            noise=np.array([noise[name] for name in weight_bits]).reshape(-1, len(resolutions)),
            value_sizes=np.array([value.elements * (value.name in value_noise) for value in graph.values], dtype=float),
            value_noise=np.array([value_noise.get(value.name, silent) for value in graph.values]),
            device_macs=np.array(of_blocks, dtype=np.float64),
        )

    def lower_bound(self, request: Request, budget: float, reached: float) -> float:
        """What no pattern with noise within ``budget`` is below under ``request``'s objective.

        Limits of the request are not looked at, and so can only add to it. Takes a handful of minimum cuts: some
        milliseconds for a hundred blocks, some tens for a thousand.

        Args:
            reached: the objective of a pattern that keeps the budget.
        """
        fixed = request.objective.time * request.link.round_trip_s
        priced = self.priced(
            device_mac=device_price_per_mac(request),
            server_mac=server_price_per_mac(request),
            weight_bit=download_price_per_bit(request),
            crossing_bit=upload_price_per_bit(request),
            widths=request.device.storable_bits,
            value_widths=request.device.crossing_bits,
        )
        return fixed + priced.dual(budget, reached - fixed).bound

    def priced(
        self,
        *,
        device_mac: float,
        server_mac: float,
        weight_bit: float,
        crossing_bit: float,
        widths: Sequence[int] = WIDTHS,
        value_widths: Sequence[int] = WIDTHS,
    ) -> PricedGraph:
        """At what a MAC on either side, a bit of weights and a bit that crosses add to an objective (eqs. 24 to 26)."""
        of_layers = places_of(widths, self.resolutions, self.largest_width)
        of_values = np.array(value_widths, dtype=np.int64)
        macs = np.array([block.macs for block in self.graph.blocks], dtype=np.float64)
        exact_bits = np.array([value.exact_bits for value in self.graph.values], dtype=np.float64)
        return PricedGraph(
            self.graph,
            device=device_mac * self.device_macs,
            server=server_mac * macs,
            crossing=crossing_bit * exact_bits,
            home=self.home,
            layer_cost=weight_bit * self.weight_bits[:, of_layers],
            layer_noise=self.noise[:, of_layers],
            value_cost=crossing_bit * self.value_sizes[:, None] * of_values,
            value_noise=self.value_noise[:, of_values - WIDTHS[0]],
        )
