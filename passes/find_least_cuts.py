"""Analysis: the cuts that are best at some prices, for graphs that have too many to look at them all."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from torch.fx import GraphModule

from qpart_fx.cut import Cut
from qpart_fx.cut_table import cuts_of
from qpart_fx.solver.whole_graph import WholeGraph

_SENT = 10 ** np.arange(-3, 3.25, 0.5)
"""Prices of sending a value of mean size, a byte an element, where all MACs together cost 1 on one side."""

_DOWNLOADED = (0.0, 0.01, 0.1, 1.0, 10.0)
"""Prices of downloading all weights, a byte each."""


def find_least_cuts(
    graph_module: GraphModule, known: Sequence[Cut], whole: WholeGraph, budgets: Sequence[float]
) -> tuple[Cut, ...]:
    """The ``known`` cuts, and the legal ones that minimum cuts find on the way to the best plans within each of the
    noise ``budgets``, at many prices; all on the server first, and all on the device last.

    Takes a thousand minimum cuts: seconds for a graph of a hundred blocks.

    Args:
        graph_module: what ``whole`` was made from; annotated.
        known: as ``find_closed_cuts`` gives them.
    """
    graph, cuts = whole.graph, {cut.crossing: cut for cut in known}
    for cut in cuts_of(graph_module, graph, _least_sets(whole, budgets)):
        cuts.setdefault(cut.crossing, cut)
    return tuple(sorted(cuts.values(), key=lambda cut: (cut is known[-1], cut.size)))


def _least_sets(whole: WholeGraph, budgets: Sequence[float]) -> list[int]:
    """The closed sets, as bit masks."""
    graph = whole.graph
    macs = max(1, sum(block.macs for block in graph.blocks))
    weights = max(1.0, float(whole.weight_bits[:, whole.resolutions.index(8)].sum()))
    value = max(1.0, 8 * float(whole.value_sizes.mean()))
    found: dict[int, None] = {}
    for (device, server), sent, downloaded, budget in product(((1, 0), (0, 1)), _SENT, _DOWNLOADED, budgets):
        priced = whole.priced(
            device_mac=device / macs,
            server_mac=server / macs,
            weight_bit=downloaded / weights,
            crossing_bit=sent / value,
        )
        for flags in priced.dual(budget, priced.dearest).sets:
            found[graph.completed(sum(1 << index for index in np.flatnonzero(flags).tolist()))] = None
    return [inside for inside in found if (crossing := graph.crossing(inside)) and graph.legal(inside, crossing)]
