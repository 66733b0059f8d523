"""A cut through a graph, in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Cut:
    """A set of device nodes closed under predecessors, named by the values that cross it.

    ``crossing``: names of the nodes whose values are sent, each once: those on the device that a node on the server, or
    the model's output, uses. ``elements``: quantized elements that cross. ``exact_bits``: bits of what crosses as it is
    (integers, masks). ``peak_bytes``: most bytes of activations that are alive at once on the device, which runs its
    nodes in the graph's order. All of them for one call with the example inputs.

    ``order``: the names of all nodes in the graph's order, one tuple for all cuts of a graph. ``runs``: how many of
    them in turn are on the device, on the server, on the device and so on; a prefix of the order has one run.
    """

    crossing: tuple[str, ...]
    elements: int
    exact_bits: int
    device_macs: int
    server_macs: int
    peak_bytes: int
    runs: tuple[int, ...]
    order: tuple[str, ...] = field(repr=False)

    @property
    def size(self) -> int:
        """How many nodes are on the device."""
        return sum(self.runs[::2])

    @property
    def device_nodes(self) -> tuple[str, ...]:
        """Every node on the device, in the graph's order."""
        bounds = [*pairwise(accumulate(self.runs, initial=0))]
        return tuple(name for start, stop in bounds[::2] for name in self.order[start:stop])


def runs_of(on_device: Sequence[bool] | NDArray[np.bool_]) -> tuple[int, ...]:
    """``Cut.runs`` of a flag for each node, in the graph's order.

    >>> runs_of([True, True, False, True, False]), runs_of([False, True])
    ((2, 1, 1), (0, 1, 1))
    """
    flags = np.asarray(on_device, dtype=np.bool_)
    turns = np.flatnonzero(np.diff(flags, prepend=True)).tolist()  # the first run is the device's, be it empty
    if len(turns) % 2 == 0:
        turns.append(len(flags))  # the last nodes are on the device
    return tuple(stop - start for start, stop in pairwise([0, *turns]))
