"""Calibration: what noise of quantized weights costs in accuracy, from a few plans of rising noise, run as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import GraphModule

from qpart_fx.answers import CERTAIN, Answers
from qpart_fx.answers_seen import losses
from qpart_fx.calibration import Batch
from qpart_fx.drop_curve import DropCurve, curve_of_answers, curve_of_levels
from qpart_fx.inputs import positional
from qpart_fx.quantized import rounded_weights
from qpart_fx.rounding import NEAREST, Rounding
from qpart_fx.scores import Scorer
from qpart_fx.solver.allocate import Relaxation

Floats = NDArray[np.float64]
Progress = Callable[[Sequence[Batch]], Iterable[Batch]]

_FLIPS = (0.002, 0.006, 0.02, 0.06)
"""The share of answers that the plans for class scores should about change."""

_FLIPS_OF_DOUBT = (0.006, 0.02, 0.06, 0.2)
"""The same where a change costs less than an answer: these lose between some tenths of a percent and some percent."""

_UNIFORM = (8, 6, 5, 4, 3)
"""Other scores have no margins to choose plans by: as much noise as these widths everywhere."""


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
    answers: Answers | None = None,
) -> DropCurve:
    """The accuracy that is lost over the noise that is predicted; ``white`` where that cannot be measured.

    Runs the network once for each plan, all layers quantized.

    Args:
        layers: node -> the names of its weights. weight_bits, noise: predicted, of each at each resolution of
            ``rounding``.
        white: the share of answers that white noise would change.
        answers: of the network, where it scores classes; to more samples than ``batches`` has.
    """
    relaxation = Relaxation.of(weight_bits, noise)
    budgets = (
        [white.noise_at(share) for share in (_FLIPS if answers.temperature == CERTAIN else _FLIPS_OF_DOUBT)]
        if answers is not None
        else [float(noise[:, rounding.resolutions.index(bits)].sum()) for bits in _UNIFORM]
    )
    plans = [plan for budget in budgets if (plan := relaxation.rounded(budget)) is not None and plan.noise > 0]
    measured, drop = np.zeros(len(plans)), np.zeros(len(plans))
    squares = np.zeros(len(plans))  # of what each answer loses, summed
    changes: list[list[Floats]] = [[] for _ in plans]
    samples = 0
    for batch in progress(batches):
        inputs = positional(graph_module, batch.args, batch.kwargs)
        clean = graph_module(*inputs)
        samples += batch.size
        if answers is not None:
            scores = scorer.scores(clean).double()
            best = scores.topk(1 + answers.margins.shape[1], dim=1).indices
        for place, plan in enumerate(plans):
            with ExitStack() as stack:
                for option, weights in zip(plan.options, layers.values(), strict=True):
                    resolution = rounding.resolutions[int(option)]
                    stack.enter_context(rounded_weights(graph_module, weights, resolution, rounding))
                output = graph_module(*positional(graph_module, batch.args, batch.kwargs))
            measured[place] += scorer.noise(clean, output).sum()
            if answers is None:
                drop[place] += scorer.drop(clean, output, batch) * batch.size
                continue
            noisy = scorer.scores(output).double()
            change = (noisy - scores).gather(1, best)
            changes[place].append((change[:, :1] - change[:, 1:]).cpu().numpy())
            lost = losses(scores, noisy, answers.temperature)
            drop[place] += float(lost.sum())
            squares[place] += float(lost.square().sum())
    measured, drop = measured / samples, drop / samples
    predicted = np.array([plan.noise for plan in plans])
    usable = [place for place in np.argsort(predicted) if measured[place] > 0 and np.isfinite(measured[place])]
    usable = [
        place for number, place in enumerate(usable) if not number or predicted[place] > predicted[usable[number - 1]]
    ]
    if answers is None:
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
    counts = np.square(drop * samples) / np.maximum(squares, 1e-300)
    return curve_of_answers(
        answers, spread, np.array(falls), predicted[usable], np.maximum.accumulate(measured[usable]),
        drop[usable], counts[usable],
    )  # fmt: skip
