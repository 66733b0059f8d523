"""What a device that holds a head of an earlier plan need not download, in numbers, before any update is made.

A layer at the resolution that it is held at costs nothing; at another, its codes or their difference from those held,
whichever is less. What a file holds beside the weights (graph, biases, norms) is priced as what the new cut's has more
than that of the largest known cut inside both heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .cut import Cut
from .plan import Plan, PlannedLayer
from .solver.patterns import Held, Network

_UPDATE_BITS = 8.0 * 230
"""Of any update: its framing, the hashes of both files, the plan's summary, how what now crosses is rounded."""

_ROW_BITS = 8.0 * 16
"""Of a layer that is held at another resolution, beside its codes: what the update says of it."""


def held_by(
    network: Network,
    cuts: Sequence[Cut],
    known: Sequence[PlannedLayer | None],
    plan: Plan,
    update_bits: Callable[[str, float], Sequence[float]],
) -> Held:
    """What a device saves that holds the head of ``plan``.

    Args:
        known: each layer as it would stand in a plan of the profile at the resolution that ``plan`` gives it, None for
            one that is not in its head. One that differs was rounded otherwise, and is no use.
        update_bits: of a layer by name that is held at a resolution, what its difference takes at each.
    """
    saved = np.zeros_like(network.weight_bits)
    framed = bool(network.head_bits.any())
    for place, (layer, of_plan) in enumerate(zip(known, plan.layers, strict=True)):
        if layer is not None and layer.resolution is not None:
            saved[place] = -_ROW_BITS * framed
            if layer == of_plan:
                column, whole = network.resolutions.index(layer.resolution), network.weight_bits[place]
                saved[place] += np.maximum(whole - update_bits(layer.name, layer.resolution), 0.0)
                saved[place, column] = whole[column]
    beside = np.array(_inside_both(network.head_bits.tolist(), cuts, plan.device_nodes))
    return Held(saved, np.where(beside > 0, beside - _UPDATE_BITS, 0.0))


def _inside_both(head_bits: Sequence[float], cuts: Sequence[Cut], held: Sequence[str]) -> list[float]:
    """For each cut, the bits beside the weights at the largest known cut with no nodes but those of both heads."""
    every = dict.fromkeys((*held, *(name for cut in cuts for name in cut.device_nodes)))
    places = {name: place for place, name in enumerate(every)}

    def as_bits(nodes: Sequence[str]) -> int:
        return sum(1 << places[name] for name in nodes)

    heads, own = [as_bits(cut.device_nodes) for cut in cuts], as_bits(held)
    by_nodes = dict(zip(heads, head_bits, strict=True))
    inside = sorted(((bits, nodes) for nodes, bits in by_nodes.items() if not nodes & ~own), reverse=True)
    found = []
    for nodes in heads:
        both = nodes & own
        bits = by_nodes.get(both)
        found.append(next((size for size, each in inside if not each & ~both), 0.0) if bits is None else bits)
    return found
