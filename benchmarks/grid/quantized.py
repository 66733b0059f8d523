"""Heads with given bits: their noise as predicted, and the head and tail as they really are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

import qpart_fx as qpart
from qpart_fx.lower import lower
from qpart_fx.noise import WIDTHS
from qpart_fx.resolution import width_of

from .networks import Floats, Network
from .options import Integers, Made

ANYTHING = qpart.Request.paper(0.05)


def crossing(network: Network, place: int) -> tuple[list[str], Floats, Floats]:
    """Names, sizes and noise at each width of the quantized values that cross a cut of the chain."""
    known = {value.name: value for value in network.profile.values}
    values = [known[name] for name in network.profile.cuts[place].cut.crossing if name in known]
    sizes = np.array([value.elements for value in values], dtype=np.float64)
    return (
        [value.name for value in values],
        sizes,
        np.array([value.noise_by_width for value in values]).reshape(-1, len(WIDTHS)),
    )


def layer_noise(network: Network) -> Floats:
    """Of each layer at each width, shape (layers, widths)."""
    return np.array([layer.noise_by_width for layer in network.profile.layers])


def chain_split(network: Network, place: int, widths: Integers, sent: Integers) -> Callable[[], Made]:
    """The split at a cut of the chain, with these widths of its layers and of what crosses."""

    def make() -> Made:
        cut = network.profile.cuts[place].cut.crossing
        plan = network.profile.plan(ANYTHING, cut=cut, method="paper")
        names = [layer.name for layer in network.profile.layers]
        return with_widths(
            network,
            plan,
            dict(zip(names, widths.tolist(), strict=False)),
            dict(zip(plan.activation_bits, sent.tolist(), strict=True)),
        )

    return make


def with_widths(network: Network, plan: qpart.Plan, weights: Mapping[str, float], sent: Mapping[str, int]) -> Made:
    """The split of a plan, with other widths, or resolutions, of its weights and other widths of what crosses."""
    largest = network.profile.rounding.largest_width
    layers = tuple(
        replace(layer, bits=None, resolution=None, coded_bits=None)
        if (resolution := weights.get(layer.name)) is None
        else replace(layer, bits=width_of(resolution, largest), resolution=float(resolution), coded_bits=None)
        for layer in plan.layers
    )
    return split_of(network, replace(plan, layers=layers, activation_bits=dict(sent)))


def split_of(network: Network, plan: qpart.Plan) -> Made:
    """Head and tail as one function."""
    profile = network.profile
    split = lower(profile.graph, plan, profile.ranges, profile.inside, profile.rounding, profile.scorer)

    def run(inputs: Tensor) -> Tensor:
        answer: Any = split.tail(*split.head(inputs))
        output: Tensor = answer
        return output

    return run
