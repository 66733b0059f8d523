"""The evidence: what was lost and gained beside the float model, and the bound that follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from qpart_fx import RequestError
from qpart_fx.calibration import Batch
from qpart_fx.confidence import drop_upper_bound
from qpart_fx.passes.verify_accuracy import CHUNK, verify_accuracy
from qpart_fx.scores import ClassScores, MetricScores


def answers(column: int) -> Any:
    """A model that answers with the classes in ``column`` of its input."""
    return lambda x: torch.nn.functional.one_hot(x[:, column], 3).float()


def batches(before: Sequence[int], after: Sequence[int], right: Sequence[int] | None, size: int = 1000) -> list[Batch]:
    """The classes that the float model answers, those that the split does, and the targets."""
    parts = torch.tensor([before, after]).T.split(size)
    targets: Sequence[Tensor | None] = [None] * len(parts) if right is None else torch.tensor(right).split(size)
    return [Batch((part,), {}, target, len(part)) for part, target in zip(parts, targets, strict=True)]


@pytest.mark.parametrize("size", [7, 1000])
def test_lost_and_gained_are_told_apart(size: int) -> None:
    repeat = CHUNK  # so that there is more than a chunk
    before, after, right = [0, 0, 1, 1, 2, 2, 0], [0, 1, 0, 1, 1, 2, 2], [0, 0, 0, 1, 0, 1, 0]
    data = batches(before * repeat, after * repeat, right * repeat, size)
    found = verify_accuracy(answers(0), answers(1), data, ClassScores(), confidence=0.9)
    assert (found.lost, found.gained, found.samples) == (2 * repeat, repeat, 7 * repeat)
    assert (found.reference, found.accuracy) == pytest.approx((4 / 7, 3 / 7))
    assert found.drop == pytest.approx(1 / 7)
    assert found.upper_bound == drop_upper_bound(2 * repeat, repeat, 7 * repeat, 0.9)
    assert found.upper_bound > found.drop
    assert found.labelled


def test_without_labels_every_change_is_a_loss() -> None:
    found = verify_accuracy(answers(0), answers(1), batches([0, 1, 2, 0], [0, 1, 1, 1], None), ClassScores())
    assert (found.lost, found.gained, found.drop, found.labelled) == (2, 0, 0.5, False)


def test_a_split_that_gains_is_not_said_to_lose_less_than_nothing() -> None:
    found = verify_accuracy(answers(0), answers(1), batches([1] * 50, [0] * 50, [0] * 50), ClassScores())
    assert (found.drop, found.upper_bound, found.gained) == (-1.0, 0.0, 50)


def test_a_split_that_loses_everything() -> None:
    found = verify_accuracy(answers(0), answers(1), batches([0] * 50, [1] * 50, [0] * 50), ClassScores())
    assert (found.drop, found.upper_bound, found.lost) == (1.0, 1.0, 50)


def test_of_a_metric_only_the_values_are_known() -> None:
    scorer = MetricScores(lambda outputs, targets: float((outputs.argmax(1) == targets).float().mean()))
    found = verify_accuracy(answers(0), answers(1), batches([0, 0, 1, 1], [0, 1, 0, 0], [0, 0, 1, 1]), scorer)
    assert found.drop == pytest.approx(0.75)
    assert (found.lost, found.gained, found.upper_bound) == (None, None, None)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 2.0])
def test_no_confidence_is_refused_before_anything_runs(confidence: float) -> None:
    def never(_: Any) -> Any:
        raise AssertionError

    with pytest.raises(RequestError, match="confidence"):
        verify_accuracy(never, never, batches([0], [0], None), ClassScores(), confidence=confidence)
