"""How many samples a graph is run on at once: as many as is quick, and so few that what is kept of them is small."""

from __future__ import annotations

from torch.fx import GraphModule

from .meta import info, tensors_in
from .scores import ClassScores, Scorer

MOST = 32
"""More are hardly quicker."""

_MEMORY = 192 * 2**20
"""Bytes that all values of one run may take: runs that are taken up again in their middle keep all of them. A sample at
a time of a MobileNet takes a third longer than four, which are as quick as more."""


def samples_at_once(graph: GraphModule, scorer: Scorer) -> int:
    """For a graph that was analysed for one sample. A metric may be of many samples together: it is given ``MOST``."""
    if not isinstance(scorer, ClassScores):
        return MOST
    one = sum(
        tensor.bytes
        for node in graph.graph.nodes
        if not info(node).constant
        for tensor in tensors_in(info(node).output)
    )
    return max(1, min(MOST, _MEMORY // max(one, 1)))
