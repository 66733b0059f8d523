"""From closed sets of blocks to cuts: what each sends, computes and holds, for many sets at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.fx import GraphModule, Node

from .crossing import held_bytes
from .cut import Cut, runs_of
from .cut_graph import CutGraph
from .meta import constants_behind, info

_CHUNK = 4096
"""Sets whose nodes are held as one table of flags at a time."""


def cuts_of(graph_module: GraphModule, graph: CutGraph, sets: Sequence[int]) -> Iterator[Cut]:
    """The cut of each closed set of ``graph``, a bit mask of its blocks.

    Args:
        graph_module: what ``graph`` was made from; annotated.
    """
    nodes = [node for node in graph_module.graph.nodes if node.op != "output"]
    table = _Table(nodes, graph)
    for start in range(0, len(sets), _CHUNK):
        yield from table.cuts(sets[start : start + _CHUNK])


class _Table:
    """What the nodes of a graph cost, to be summed for many cuts at once."""

    def __init__(self, nodes: Sequence[Node], graph: CutGraph) -> None:
        place = {node: index for index, node in enumerate(nodes)}
        by_name = {node.name: index for index, node in enumerate(nodes)}
        self.graph = graph
        self.names = tuple(by_name)
        self.blocks = [np.array([by_name[name] for name in block.nodes], dtype=np.intp) for block in graph.blocks]
        self.values = np.array([by_name[value.name] for value in graph.values], dtype=np.intp)
        self.macs = np.array([info(node).macs or 0 for node in nodes], dtype=np.int64)
        self.bytes = [0 if info(node).constant else held_bytes(node) for node in nodes]
        self.freed: list[list[int]] = [[] for _ in nodes]  # by each node, if they are not sent
        for node, index in place.items():
            self.freed[max((place.get(user, index) for user in node.users), default=index)].append(index)
        behind: dict[int, set[int]] = {}  # the blocks that use a constant
        for number, block in enumerate(self.blocks):
            for index in block:
                for constant in constants_behind(nodes[index]):
                    behind.setdefault(place[constant], set()).add(number)
        self.constants = {constant: sorted(users) for constant, users in behind.items()}

    def cuts(self, sets: Sequence[int]) -> Iterator[Cut]:
        chosen = _flags(sets, len(self.graph.blocks))
        sent = np.zeros((len(self.graph.values), len(sets)), dtype=np.bool_)
        for index, value in enumerate(self.graph.values):
            sent[index] = chosen[value.producer] & (value.output | ~chosen[[*value.users]].all(axis=0))
        device = np.zeros((len(self.names), len(sets)), dtype=np.bool_)
        for number, block in enumerate(self.blocks):
            device[block] = chosen[number]
        for constant, users in self.constants.items():
            device[constant] = chosen[users].any(axis=0)
        kept = np.zeros_like(device)
        kept[self.values] = sent
        macs = self.macs @ device
        elements = np.array([value.elements for value in self.graph.values], dtype=np.int64) @ sent
        bits = np.array([value.exact_bits for value in self.graph.values], dtype=np.int64) @ sent
        names = np.array(self.names, dtype=object)[self.values]
        numbers = zip(elements.tolist(), bits.tolist(), macs.tolist(), self._peaks(device, kept).tolist(), strict=True)
        flags = np.ascontiguousarray(device.T)
        total = int(self.macs.sum())
        for column, (crossing_elements, exact, device_macs, peak) in enumerate(numbers):
            yield Cut(
                crossing=tuple(names[sent[:, column]].tolist()),
                elements=crossing_elements,
                exact_bits=exact,
                device_macs=device_macs,
                server_macs=total - device_macs,
                peak_bytes=peak,
                runs=runs_of(flags[column]),
                order=self.names,
            )

    def _peaks(self, device: NDArray[np.bool_], kept: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Most bytes alive at once, for each cut: nodes run in the graph's order, and what crosses stays to the end.

        A value that does not cross has all its users on the device, so that its last one is the same in every cut.
        """
        live = np.zeros(device.shape[1], dtype=np.int64)
        peak = np.zeros_like(live)
        for index, size in enumerate(self.bytes):
            if size:
                live += size * device[index]
                np.maximum(peak, live, out=peak)
            for value in self.freed[index]:
                if self.bytes[value]:
                    live -= self.bytes[value] * (device[value] & ~kept[value])
        return peak


def _flags(masks: Sequence[int], count: int) -> NDArray[np.bool_]:
    """A table of bit masks: shape (count, len(masks))."""
    width = count // 8 + 1
    packed = np.frombuffer(b"".join(mask.to_bytes(width, "little") for mask in masks), dtype=np.uint8)
    return np.unpackbits(packed.reshape(-1, width), axis=1, bitorder="little")[:, :count].T.astype(np.bool_)
