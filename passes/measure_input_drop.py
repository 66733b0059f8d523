"""Calibration: the accuracy that is lost where nothing but the input is quantized, since the server does all the rest.

Then there is one pattern a width, few enough to run each: what it loses need not be predicted from its noise by the
curve that was found with the noise of weights. It is the plan of all devices that are too slow to do anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import GraphModule

from qpart_fx.answers import Answers
from qpart_fx.answers_seen import losses
from qpart_fx.calibration import Batch
from qpart_fx.drop_curve import DropCurve, unexplained
from qpart_fx.noise import WIDTHS
from qpart_fx.quantizer import UniformQuantizer
from qpart_fx.replay import Replay
from qpart_fx.scores import Scorer

Floats = NDArray[np.float64]
Range = tuple[float, float]
Progress = Callable[[Sequence[Batch]], Iterable[Batch]]

_LEAST, _MOST = 5e-4, 0.2
"""Widths that are predicted to lose less, or more, are not run: few budgets are so small, or so large."""


@torch.no_grad()
def measure_input_drop(
    graph_module: GraphModule,
    batches: Sequence[Batch],
    scorer: Scorer,
    *,
    ranges: Mapping[str, Range],
    noise: Mapping[str, Floats],
    curve: DropCurve,
    progress: Progress,
    answers: Answers | None = None,
) -> dict[str, Floats]:
    """The noise at which ``curve`` says what was lost, in place of ``noise``, which the inputs make.

    Args:
        ranges: of the inputs that cross quantized where all is on the server, together; there may be none.
        noise: of each of them at each of ``WIDTHS``, shape (widths,).
        answers: of the network, where it scores classes.
    """
    together = np.sum([*noise.values()], axis=0) if noise else np.zeros(len(WIDTHS))
    expected = np.array([curve.drop_at(each) for each in together])
    run = np.flatnonzero((expected >= _LEAST) & (expected <= _MOST))
    if not len(run):
        return dict(noise)
    lost: list[list[Floats]] = [[] for _ in run]
    sizes: list[int] = []  # a metric speaks of batches, class scores of samples
    for batch in progress(batches):
        replay = Replay(graph_module, batch)
        sizes += [1] * batch.size if answers is not None else [batch.size]
        for found, column in zip(lost, run, strict=True):
            output = replay.with_values({
                name: UniformQuantizer.from_range(*ends, WIDTHS[column])(replay.value(name))
                for name, ends in ranges.items()
            })  # fmt: skip
            if answers is None:
                seen = scorer.compare(replay.output, output, batch)
                found.append(np.array([(seen.reference - seen.accuracy) / batch.size]))
            else:
                scores = scorer.scores(replay.output), scorer.scores(output)
                found.append(losses(*scores, answers.temperature).cpu().numpy())
    means, errors = _means(np.array([np.concatenate(found) for found in lost]), np.array(sizes, dtype=np.float64))
    # A metric may gain by chance, or what it loses may not be told from nothing: then it is taken to be as much as its
    # error.
    likely = np.maximum(means, errors) if answers is None else means
    counts = np.square(likely / np.maximum(errors, 1e-300))
    off = np.interp(np.arange(len(WIDTHS)), run, unexplained(likely, counts, expected[run]))
    taken = np.array([
        before * curve.noise_at(min(drop * factor, 1.0)) / curve.noise_at(drop)
        for before, drop, factor in zip(together, expected, np.exp(off), strict=True)
    ])  # fmt: skip
    taken = np.maximum.accumulate(taken[::-1])[::-1]  # a wider one does not lose more but by chance
    factors = np.divide(taken, together, out=np.ones_like(taken), where=together > 0)
    return {name: each * factors for name, each in noise.items()}


def _means(values: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Weighted means along axis 1 and their standard errors; of a single value, as large as the value."""
    share = weights / weights.sum()
    means = values @ share
    if len(share) < 2:
        return means, np.abs(means)
    return means, np.sqrt(np.square(values - means[:, None]) @ share / (len(share) - 1))
