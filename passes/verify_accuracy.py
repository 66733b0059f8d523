"""What a split model really loses, measured against the float model, and how much it can lose at most."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from qpart_fx.calibration import Batch
from qpart_fx.confidence import drop_upper_bound, require_confidence
from qpart_fx.errors import CalibrationError
from qpart_fx.inputs import describe_inputs
from qpart_fx.scores import Scorer

CHUNK = 32
"""Samples run at once: large enough to be quick, small enough that their activations fit."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The measured loss of accuracy; fractions.

    ``drop``: ``reference`` (the float model's accuracy) less ``accuracy`` (the split's). ``upper_bound``: the true drop
    exceeds it with probability 1 - ``confidence`` at most, where the samples are independent. ``lost``, ``gained``:
    answers that were right and are no longer, and the other way round. All three are None for a metric, of which only
    the values of whole batches are known, and not even their range. ``labelled`` tells accuracy on targets from
    agreement with the float model.
    """

    drop: float
    upper_bound: float | None
    confidence: float
    samples: int
    reference: float
    accuracy: float
    labelled: bool
    lost: int | None
    gained: int | None


def verify_accuracy(
    model: Callable[..., Any],
    split: Callable[..., Any],
    batches: Iterable[Batch],
    scorer: Scorer,
    *,
    confidence: float = 0.95,
) -> Evidence:
    """Run ``split`` beside ``model`` and compare them sample by sample.

    The bound (:mod:`qpart_fx.confidence`) is one on the net drop, gains counted against losses; it is at least the drop
    measured here, at least 0 and at most 1. It takes the samples for independent draws of what the model will meet, of
    which none served to make the split, and as many as were meant beforehand: who adds samples until the bound suits
    has no such confidence. Nothing of this is checked, nor can be: samples that come twice, frames of one film, or
    several pictures of one object are worth fewer samples than they count as, and the bound is then too low.
    """
    require_confidence(confidence)
    reference = accuracy = 0.0
    samples = 0
    lost: int | None = 0
    gained: int | None = 0
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
                gained = None if gained is None or found.gained is None else gained + found.gained
    bound = None
    if lost is not None and gained is not None:
        bound = drop_upper_bound(lost, gained, samples, confidence)
    return Evidence(
        drop=(reference - accuracy) / samples,
        upper_bound=bound,
        confidence=confidence,
        samples=samples,
        reference=reference / samples,
        accuracy=accuracy / samples,
        labelled=labelled,
        lost=lost,
        gained=gained,
    )


def _run(model: Callable[..., Any], batch: Batch) -> Any:
    try:
        return model(*batch.args, **batch.kwargs)
    except (RuntimeError, TypeError, IndexError, ValueError, NotImplementedError) as error:
        given = describe_inputs(batch.args, batch.kwargs)
        raise CalibrationError(f"the model does not accept {given}: {error}") from error
