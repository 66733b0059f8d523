"""The cheapest cut when every block and every crossing value has a price of its own: one minimum cut of a network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from qpart_fx.cut_graph import CutGraph

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_UNITS = 2.0**29
"""The most flow of one round, in its units. SciPy's flows are int32, and a residual may be three times as large."""

_GAP = 1e-13
"""The gap between cost and bound, relative to the sum of all prices, at which rounding is all that is left."""

_ROUNDS = 10


@dataclass(frozen=True, slots=True)
class LeastClosedSet:
    """The cheapest closed set.

    ``inside``: whether each block is on the device, shape (blocks,). ``cost``: what that costs in all; infinite when
    every closed set does, and ``inside`` then means nothing. ``bound``: no closed set costs less; but for the rounding
    of floats it equals ``cost``.
    """

    inside: Flags
    cost: float
    bound: float


def least_closed_set(
    graph: CutGraph, device_cost: Floats, server_cost: Floats, crossing_cost: Floats
) -> LeastClosedSet:
    """The closed set of ``graph`` with the least total cost.

    The minimum cut of a network; what is on the source's side is on the device. A block is joined to the sink at its
    price on the device, to the source at its price on the server, and without limit to what it needs. A value that goes
    to several blocks is a node of its own, joined from its producer at its price, and without limit to its users: it is
    paid for once, however many of them are on the server. Clashes are not looked at (``graph.strict()`` has none).

    The flow is found in integers, in rounds: each scales up what the last one left, so that it is exact to the rounding
    of floats. Takes milliseconds for a thousand blocks.

    Args:
        device_cost, server_cost: price of each block on either side, of any sign, ``inf`` where it cannot be; shape
            (blocks,). Whatever the prices, the first block is on the device, and a ``server_only`` one on the server.
        crossing_cost: price of sending each value, not negative; shape (values,).

    Raises:
        ValueError: a price is NaN or minus infinity, or that of a value is negative or infinite.
    """
    device, server, crossing = (np.array(cost, dtype=np.float64) for cost in (device_cost, server_cost, crossing_cost))
    if np.isnan([device, server]).any() or np.isneginf([device, server]).any():
        raise ValueError("the price of a block is not a number, or minus infinity")
    if not np.isfinite(crossing).all() or (crossing < 0).any():
        raise ValueError("the price of a crossing value is negative, or not finite")
    server[0] = math.inf
    device[[block.server_only for block in graph.blocks]] = math.inf
    anyway = np.minimum(device, server)
    anyway[np.isinf(anyway)] = 0
    inside, flow, left = _minimum_cut(_network(graph, device - anyway, server - anyway, crossing))
    base = float(anyway.sum())
    return LeastClosedSet(inside[: len(graph.blocks)], base + flow + left, base + flow)


def _network(graph: CutGraph, device: Floats, server: Floats, crossing: Floats) -> csr_array:
    """Capacities, with an entry for the reverse of every arc. The last two nodes are the source and the sink."""
    count = len(graph.blocks)
    fans = [index for index, value in enumerate(graph.values) if len(value.users) > 1 and not value.output]
    fan = {index: count + position for position, index in enumerate(fans)}
    source = count + len(fans)
    sink = source + 1
    arcs: list[tuple[int, int, float]] = []
    for index, block in enumerate(graph.blocks):
        arcs += [(source, index, server[index]), (index, sink, device[index])]
        arcs += [(index, need, math.inf) for need in block.needs]
    for index, value in enumerate(graph.values):
        if value.output:
            arcs.append((value.producer, sink, crossing[index]))
        elif index in fan:
            arcs.append((value.producer, fan[index], crossing[index]))
            arcs += [(fan[index], user, math.inf) for user in value.users]
        else:
            arcs.append((value.producer, value.users[0], crossing[index]))
    tails, heads = np.array([arc[:2] for arc in arcs], dtype=np.int32).T
    capacities = np.array([arc[2] for arc in arcs])
    ends = np.concatenate([tails, heads]), np.concatenate([heads, tails])
    return csr_array((np.concatenate([capacities, np.zeros_like(capacities)]), ends), shape=(sink + 1, sink + 1))


def _minimum_cut(network: csr_array) -> tuple[Flags, float, float]:
    """The source's side of a minimum cut, the flow, and how much more than the flow the cut lets through."""
    source, sink = network.shape[0] - 2, network.shape[0] - 1
    heads, tails = network.indices, np.repeat(np.arange(network.shape[0]), np.diff(network.indptr))

    def cut(side: Flags, capacities: Floats) -> float:
        return float(capacities[side[tails] & ~side[heads]].sum())

    def reached(capacities: NDArray[Any], start: int, *, backwards: bool = False) -> Flags:
        arcs = csr_array((capacities > 0, heads, network.indptr), shape=network.shape, copy=True)
        arcs.eliminate_zeros()
        found = np.zeros(network.shape[0], dtype=np.bool_)
        found[breadth_first_order(arcs.T.tocsr() if backwards else arcs, start, return_predecessors=False)] = True
        return found

    residual = network.data.copy()
    endless = np.isinf(residual)
    least, most = reached(endless, source), ~reached(endless, sink, backwards=True)
    if least[sink]:
        return least, math.inf, 0.0
    side, left = min(((side, cut(side, residual)) for side in (least, most)), key=lambda pair: pair[1])
    flow, enough = 0.0, _GAP * float(residual[~endless].sum())
    for _ in range(_ROUNDS):
        if left <= enough:
            break
        unit = 2.0 ** math.ceil(math.log2(left / _UNITS))
        capacities = np.minimum(residual / unit, 2 * _UNITS).astype(np.int32)  # rounded down
        found = maximum_flow(csr_array((capacities, heads, network.indptr), shape=network.shape), source, sink)
        pushed = found.flow.data  # entry for entry, since the network has the reverse of every arc
        flow += found.flow_value * unit
        residual = np.maximum(residual - pushed * unit, 0)
        side = reached(capacities - pushed, source)
        left = cut(side, residual)
    return side, flow, left
