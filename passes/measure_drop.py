"""Calibration: what noise of quantized weights costs in accuracy, from a few plans of rising noise, run as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import GraphModule

from qpart_fx.calibration import Batch
from qpart_fx.drop_curve import DropCurve, curve_of_levels, curve_of_rivals
from qpart_fx.inputs import positional
from qpart_fx.quantized import rounded_weights
from qpart_fx.rounding import NEAREST, Rounding
from qpart_fx.scores import ClassScores, Scorer
from qpart_fx.solver.allocate import Relaxation

Floats = NDArray[np.float64]
Progress = Callable[[Sequence[Batch]], Iterable[Batch]]

_DROPS = (0.002, 0.006, 0.02, 0.06)
"""What the plans for class scores should about cost."""

_UNIFORM = (8, 6, 5, 4, 3)
"""Other scores have no margins to choose plans by: as much noise as these widths everywhere."""

_RIVALS = 10


@torch.no_grad()
def measure_drop(
    graph_module: GraphModule,
    batches: Sequence[Batch],
    scorer: Scorer,
    *,
    layers: Mapping[str, Sequence[str]],
    weight_bits: Floats,
    noise: Floats,
    white: DropCurve,
    progress: Progress,
    rounding: Rounding = NEAREST,
) -> DropCurve:
    """The accuracy that is lost over the noise that is predicted; ``white`` where that cannot be measured.

    Runs the network once for each plan, all layers quantized.

    Args:
        layers: node -> the names of its weights. weight_bits, noise: predicted, of each at each resolution of
            ``rounding``.
        white: what white noise would cost.
    """
    relaxation = Relaxation.of(weight_bits, noise)
    classes = isinstance(scorer, ClassScores)
    budgets = (
        [white.noise_at(drop) for drop in _DROPS]
        if classes
        else [float(noise[:, rounding.resolutions.index(bits)].sum()) for bits in _UNIFORM]
    )
    plans = [plan for budget in budgets if (plan := relaxation.rounded(budget)) is not None and plan.noise > 0]
    measured, drop = np.zeros(len(plans)), np.zeros(len(plans))
    margins: list[Floats] = []
    changes: list[list[Floats]] = [[] for _ in plans]
    samples = 0
    for batch in progress(batches):
        inputs = positional(graph_module, batch.args, batch.kwargs)
        clean = graph_module(*inputs)
        samples += batch.size
        if classes:
            scores = scorer.scores(clean).double()
            best = scores.topk(min(_RIVALS + 1, scores.shape[1]), dim=1)
            margins.append((best.values[:, :1] - best.values[:, 1:]).cpu().numpy())
        for place, plan in enumerate(plans):
            with ExitStack() as stack:
                for option, weights in zip(plan.options, layers.values(), strict=True):
                    resolution = rounding.resolutions[int(option)]
                    stack.enter_context(rounded_weights(graph_module, weights, resolution, rounding))
                output = graph_module(*positional(graph_module, batch.args, batch.kwargs))
            measured[place] += scorer.noise(clean, output).sum()
            drop[place] += scorer.drop(clean, output, batch) * batch.size
            if classes:
                change = (scorer.scores(output).double() - scores).gather(1, best.indices)
                changes[place].append((change[:, :1] - change[:, 1:]).cpu().numpy())
    measured, drop = measured / samples, drop / samples
    predicted = np.array([plan.noise for plan in plans])
    usable = [place for place in np.argsort(predicted) if measured[place] > 0 and np.isfinite(measured[place])]
    usable = [
        place for number, place in enumerate(usable) if not number or predicted[place] > predicted[usable[number - 1]]
    ]
    if not classes:
        return curve_of_levels(predicted[usable], drop[usable]) or white
    if not usable:
        return white
    seen = [np.concatenate(changes[place]) for place in usable]  # of the margins, shape (samples, rivals)
    spread = np.mean(
        [np.square(each).mean(axis=0) / measured[place] for each, place in zip(seen, usable, strict=True)], axis=0
    )
    if not (spread > 0).all():
        return white
    falls = [-each / np.sqrt(measured[place] * spread) for each, place in zip(seen, usable, strict=True)]
    return curve_of_rivals(
        np.concatenate(margins), spread, np.array(falls),
        predicted[usable], np.maximum.accumulate(measured[usable]), drop[usable],
    )  # fmt: skip
