"""What a split model really loses, measured against the float model, and how much it can lose at most."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from qpart_fx.calibration import Batch
from qpart_fx.errors import CalibrationError, RequestError
from qpart_fx.inputs import describe_inputs
from qpart_fx.scores import Scorer

CHUNK = 32
"""Samples run at once: large enough to be quick, small enough that their activations fit."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The measured loss of accuracy; fractions.

    ``drop``: of ``reference`` (the float model's accuracy) less ``accuracy`` (the split's). ``upper_bound``: the true
    drop exceeds it with probability 1 - ``confidence`` at most; None for a metric, of which nothing is known.
    ``labelled`` tells accuracy on targets from agreement with the float model.
    """

    drop: float
    upper_bound: float | None
    confidence: float
    samples: int
    reference: float
    accuracy: float
    labelled: bool


def verify_accuracy(
    model: Callable[..., Any],
    split: Callable[..., Any],
    batches: Iterable[Batch],
    scorer: Scorer,
    *,
    confidence: float = 0.95,
) -> Evidence:
    """Run ``split`` beside ``model`` and compare them sample by sample.

    The bound is the exact one of Clopper and Pearson on the share of answers that were right and are no longer: the
    drop is that share less the answers won, so that it cannot be more. The samples must not have served to make the
    split.
    """
    if not 0 < confidence < 1:
        raise RequestError(f"confidence = {confidence!r}: must lie between 0 and 1")
    reference = accuracy = 0.0
    samples = 0
    lost: int | None = 0
    labelled = False
    with torch.no_grad():
        for batch in batches:
            labelled = batch.targets is not None
            for chunk in batch.chunks(CHUNK):
                clean, output = _run(model, chunk.copy()), _run(split, chunk.copy())
                found = scorer.compare(clean, output, chunk)
                reference += found.reference
                accuracy += found.accuracy
                samples += found.samples
                lost = None if lost is None or found.lost is None else lost + found.lost
    return Evidence(
        drop=(reference - accuracy) / samples,
        upper_bound=None if lost is None else share_upper_bound(lost, samples, confidence),
        confidence=confidence,
        samples=samples,
        reference=reference / samples,
        accuracy=accuracy / samples,
        labelled=labelled,
    )


def _run(model: Callable[..., Any], batch: Batch) -> Any:
    try:
        return model(*batch.args, **batch.kwargs)
    except (RuntimeError, TypeError, IndexError, ValueError, NotImplementedError) as error:
        given = describe_inputs(batch.args, batch.kwargs)
        raise CalibrationError(f"the model does not accept {given}: {error}") from error


def share_upper_bound(count: int, samples: int, confidence: float) -> float:
    """The exact upper confidence bound on a probability that showed ``count`` times in ``samples`` (Clopper, Pearson).

    >>> round(share_upper_bound(0, 300, 0.95), 4)
    0.0099
    """
    from scipy.stats import beta

    return 1.0 if count >= samples else float(beta.ppf(confidence, count + 1, samples - count))
