"""Policies that leave the network as it is: they choose a cut, and no bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qpart_fx.cut_graph import Value
from qpart_fx.passes.find_closed_cuts import cut_graph
from qpart_fx.solver.min_cut import least_closed_set

from ..cells import Cells
from ..networks import FLOAT_BITS, Network
from ..options import Decision, Options, least
from .policy import Policy, decision, where_it_fits


def float_cuts(network: Network) -> Options:
    """Each cut of the chain of layers, in float; the first is all on the server, the last all on the device."""
    return Options(
        [None] * len(network.layers),
        network.device_macs,
        network.server_macs,
        network.float_bits,
        FLOAT_BITS * network.elements + network.exact_bits,
        network.float_bits / 8 + network.peak_bytes,
        np.zeros(len(network.layers)),
    )


class NoOptimisation(Policy):
    """The paper's "no optimisation": the cut of least objective, in float. As in the paper."""

    def decide(self, network: Network, cells: Cells) -> Decision:
        options = float_cuts(network)
        return decision(options, least(cells.objective(options), cells.fits(options)), cells)


@dataclass(frozen=True)
class Neurosurgeon(Policy):
    """Neurosurgeon (ASPLOS'17): the cut of the chain of least latency, or of least energy of the device.

    Its regression models of layers are replaced by the price model, which is exact here. The head's download, which it
    does not know (the device has the network already), counts as for all others.
    """

    aim: Literal["latency", "energy"] = "latency"

    def decide(self, network: Network, cells: Cells) -> Decision:
        options = float_cuts(network)
        values = cells.time_s(options) if self.aim == "latency" else cells.energy_j(options)
        return decision(options, least(values, cells.fits(options)), cells)


class Dads(Policy):
    """DADS (INFOCOM'19): the minimum cut of the graph, in float, as its solver for a lightly loaded server finds it.

    Capacities are the objective's prices, which is kinder to it than its latency; of a head it pays the parameters, and
    not what its file holds beside them, which is no sum over nodes. What does not fit in the device's memory is
    refused: a minimum cut knows no limit.
    """

    def decide(self, network: Network, cells: Cells) -> Decision:
        graph = cut_graph(network.profile.graph).strict()
        macs = np.array([block.macs for block in graph.blocks], dtype=np.float64)
        weights = FLOAT_BITS * np.array([network.parameters_of(block.nodes) for block in graph.blocks])
        bits = np.array([FLOAT_BITS * value.elements + value.exact_bits for value in graph.values], dtype=np.float64)
        peaks = {frozenset(cut.device_nodes): float(cut.peak_bytes) for cut in network.profile.closed_cuts}
        places: dict[bytes, int] = {}
        rows: list[list[float]] = []
        chosen = []
        for device, server, down, up in cells.objective_prices.tolist():
            inside = least_closed_set(graph, macs * device + weights * down, macs * server, bits * up).inside
            if inside.tobytes() not in places:
                places[inside.tobytes()] = len(rows)
                sent = sum(size for value, size in zip(graph.values, bits, strict=True) if _crosses(value, inside))
                nodes = frozenset(name for place in np.flatnonzero(inside) for name in graph.blocks[place].nodes)
                # of a cut that no quantized plan would have, the peak of the whole network
                peak = peaks.get(nodes, float(network.peak_bytes.max()))
                head = float(weights[inside].sum())
                device_macs = float(macs[inside].sum())
                rows.append([device_macs, float(macs.sum()) - device_macs, head, sent, head / 8 + peak, 0.0])
            chosen.append(places[inside.tobytes()])
        options = Options.of_rows(rows, [None] * len(rows))
        return decision(options, where_it_fits(options, np.array(chosen), cells), cells)


def _crosses(value: Value, inside: NDArray[np.bool_]) -> bool:
    return bool(inside[value.producer]) and (value.output or not inside[list(value.users)].all())


@dataclass(frozen=True)
class OneSide(Policy):
    """All on the device, or all on the server, in float."""

    place: Literal["device", "server"] = "server"

    def decide(self, network: Network, cells: Cells) -> Decision:
        options = float_cuts(network)
        chosen = np.full(len(cells.requests), 0 if self.place == "server" else len(network.layers) - 1)
        return decision(options, where_it_fits(options, chosen, cells), cells)
