"""The noise of every layer and value, however coarse: predicted by backward passes, measured where these may fail.

Also the cuts that are worth a look: which they are depends on the noise of what crosses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch.fx import GraphModule, Node

from .calibration import Batch, spread
from .crossing import quantized_elements
from .cut import Cut
from .drop_curve import DropCurve
from .meta import info
from .noise import (
    LOW,
    MEASURED,
    PREDICTED_FROM,
    WIDTHS,
    Booleans,
    Estimate,
    Floats,
    NoiseTable,
    combined,
    noise_by_width,
)
from .passes.find_closed_cuts import ClosedCuts, find_closed_cuts
from .passes.measure_noise import measure_noise
from .passes.measure_ranges import Range
from .passes.measure_sensitivity import measure_sensitivity
from .rounding import Rounding
from .scores import Scorer

_PROBED, _LEAST_PROBED = 1 / 7, 16
"""The share of the samples, and their least number, that backward passes run over: with all that follows, a run of
them costs as much as some 25 runs forward."""

_RUNS_OF_LAYERS, _RUNS_OF_VALUES, _LEAST_MEASURED = 3, 2, 7
"""Times the calibration data, samples that measuring the noise may run, but for the least number of samples; a run from
a layer on is half of one on average."""

_KEPT_BACK = 4
"""A run back keeps so many times what one forward does: its own values, copies of them, and gradients."""

_HOPELESS = 0.5
"""Where noise is predicted to change so many answers at ``PREDICTED_FROM`` bits, fewer are not measured."""

Progress = Callable[[Sequence[Batch], str], Iterable[Batch]]


@dataclass(frozen=True)
class NoiseTables:
    """Noise, the mean squared L2 norm of the change of a sample's scores.

    ``layers``: at each resolution of the rounding, shape (layers, resolutions). ``values``: of those that may cross one
    of the cuts ``closed``, by name, at each of :data:`~qpart_fx.noise.WIDTHS`; ``predicted``: the same of all that a
    gradient reaches, as predicted. ``ranges``: of all values that can be quantized. ``channels``: S_c of every weight.
    ``of_layers``: as measured at ``MEASURED``; ``of_input``: the same of what crosses when all is on the server.
    """

    layers: Floats
    values: dict[str, Floats]
    channels: Mapping[str, Floats]
    predicted: Mapping[str, Floats]
    ranges: Mapping[str, Range]
    closed: ClosedCuts
    of_layers: NoiseTable
    of_input: NoiseTable

    def of_cut(self, cut: Cut) -> Floats:
        """The noise of all that crosses, each value quantized alone; shape (widths,)."""
        found = [self.values[name] for name in cut.crossing if name in self.values]
        return np.sum(found, axis=0) if found else np.zeros(len(WIDTHS))


def noise_tables(
    graph: GraphModule,
    batches: Sequence[Batch],
    scorer: Scorer,
    *,
    layers: Mapping[str, Sequence[str]],
    first: Cut,
    ranges: Mapping[str, Range],
    white: DropCurve | None,
    rounding: Rounding,
    at_once: int,
    runs_over: int,
    seed: int,
    progress: Progress,
) -> NoiseTables:
    """Predict, measure, and put both together.

    Args:
        layers: node -> the names of its weights. first: the cut before all of them. ranges: of the values that may
            cross. white: what white noise would cost, if that is known. at_once: samples of one batch. runs_over:
            samples of one run, in which the cost is counted: as many as ``batches`` hold, or more. seed: of the random
            signs of the probes.
    """
    unbounded = [name for name, ends in ranges.items() if not np.isfinite(ends).all()]  # masked by -inf, for example
    ranges = {name: ends for name, ends in ranges.items() if name not in unbounded}
    sensitivity = measure_sensitivity(
        graph, spread(batches, max(_LEAST_PROBED, int(_PROBED * runs_over)), max(1, at_once // _KEPT_BACK)), scorer,
        layers=layers, ranges=ranges, seed=seed, rounding=rounding,
        progress=lambda items: progress(items, "sensitivity"),
    )  # fmt: skip
    predicted = sensitivity.values
    never_best = _never_best(graph, {name: each.noise for name, each in predicted.items()})
    closed = find_closed_cuts(graph, together=[*unbounded, *never_best])
    crossing = {name for cut in (*closed.cuts, first) for name in cut.crossing}
    if not closed.complete:
        crossing |= {value.name for value in closed.graph.values}
    values = sorted(crossing & ranges.keys())
    hopeless = np.inf if white is None else white.noise_at(_HOPELESS)
    measure = partial(
        measure_noise, graph, scorer=scorer, rounding=rounding, progress=lambda items: progress(items, "noise")
    )

    def samples(runs: int, disturbed: int, widths: Sequence[int]) -> int:
        return max(_LEAST_MEASURED, int(runs * runs_over / (max(1, disturbed) * len(widths) / 2)))

    every = rounding.resolutions
    many = spread(batches, samples(_RUNS_OF_LAYERS, len(layers), MEASURED), at_once)
    at_four = sensitivity.layers.noise[:, every.index(PREDICTED_FROM)]
    of_layers, _ = measure(
        many, layers=layers, crossings=[], wanted=_worth_measuring(at_four, MEASURED, hopeless),
    )  # fmt: skip
    _, of_input = measure(
        many,
        layers={},
        crossings=[{name: ranges[name] for name in first.crossing if name in ranges}],
    )
    known = [name for name in values if name in predicted]
    of_known = Estimate.stack([predicted[name] for name in known])
    few = spread(batches, samples(_RUNS_OF_VALUES, len(known), LOW), at_once)
    _, measured = measure(
        few,
        layers={}, crossings=[{name: ranges[name]} for name in known], widths=LOW,
        wanted=_worth_measuring(of_known.noise[:, WIDTHS.index(PREDICTED_FROM)], LOW, hopeless),
    )  # fmt: skip
    table = dict(zip(known, combined(of_known, measured, LOW), strict=True))
    others = [name for name in values if name not in predicted]
    _, of_others = measure(few, layers={}, crossings=[{name: ranges[name]} for name in others])
    table |= dict(zip(others, noise_by_width(of_others.noise), strict=True))
    reached = (sensitivity.layers.noise[:, every.index(PREDICTED_FROM) :] > 0).all(axis=1, keepdims=True)
    of_reached = combined(sensitivity.layers, of_layers, MEASURED, every)
    return NoiseTables(
        layers=np.where(reached, of_reached, noise_by_width(of_layers.noise, every)),
        values=table,
        channels=sensitivity.channels,
        predicted={name: each.noise for name, each in predicted.items()},
        ranges=ranges,
        closed=closed,
        of_layers=of_layers,
        of_input=of_input,
    )


def may_cross(node: Node) -> bool:
    """Whether what the node makes is a value that could be sent quantized."""
    return node.op != "output" and not info(node).constant and quantized_elements(node) > 0


def _worth_measuring(predicted: Floats, widths: Sequence[int], hopeless: float) -> Booleans:
    """Which widths to measure at, shape (rows, widths): not below ``PREDICTED_FROM`` where that breaks the model.

    Args:
        predicted: the noise at ``PREDICTED_FROM``, shape (rows,).
    """
    return ~(predicted >= hopeless)[:, None] | (np.array(widths) >= PREDICTED_FROM)


def _never_best(graph: GraphModule, noise: Mapping[str, Floats]) -> list[str]:
    """Values at which a cut is never better than behind the one node that uses them, whatever the request.

    That node has no weights and no MACs, and what it makes is no larger and, as predicted, disturbs no more at any
    width. A plan's bound is one over the other cuts.
    """
    found = []
    for node in graph.graph.nodes:
        if node.name not in noise or len(node.users) != 1:
            continue
        (user,) = node.users
        record = info(user)
        free = user.op != "output" and not record.weights and record.macs == 0 and not record.opaque
        smaller = 0 < quantized_elements(user) <= quantized_elements(node)
        if free and smaller and user.name in noise and (noise[user.name] <= noise[node.name]).all():
            found.append(node.name)
    return found
