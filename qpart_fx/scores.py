"""What counts as accuracy: the share of right class scores, or the user's own metric."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .calibration import Batch
from .errors import CalibrationError, RequestError
from .structure import take_apart

Metric = Callable[[Any, Any], float]
"""``metric(outputs, targets)``: 1 for a perfect batch, less for a worse one; averaged over batches by their size."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The split against the model on one batch: sums over its samples.

    ``reference`` and ``accuracy``: right answers of the model and of the split. ``lost``: answers that were right and
    are no longer; ``gained``: that were wrong and are right. None for a metric, which does not say.
    """

    reference: float
    accuracy: float
    lost: int | None
    gained: int | None
    samples: int


class Scorer(ABC):
    """Compares outputs of the model with outputs of a quantized version of it."""

    @abstractmethod
    def scores(self, output: Any) -> Tensor:
        """What noise is measured on: floating point, shape (samples, scores)."""

    @abstractmethod
    def compare(self, clean: Any, output: Any, batch: Batch) -> Comparison:
        """The accuracy of ``output`` beside that of ``clean``, the model's own."""

    @abstractmethod
    def drop(self, clean: Any, output: Any, batch: Batch) -> float:
        """The accuracy that is lost at most, a fraction: what plans are made by."""

    def noise(self, clean: Any, output: Any) -> NDArray[np.float64]:
        """Squared L2 norm of the change of each sample's scores, shape (samples,)."""
        change = (self.scores(output) - self.scores(clean)).double()
        return np.asarray(change.square().sum(dim=1).cpu().numpy())


@dataclass(frozen=True, slots=True)
class ClassScores(Scorer):
    """The output, or the first tensor in it, scores classes: shape (samples, classes).

    Without targets, the model's own answers stand for the right ones.
    """

    def scores(self, output: Any) -> Tensor:
        scores = _first_tensor(output)
        if scores is None or scores.dim() != 2 or scores.shape[1] < 2 or not scores.is_floating_point():
            got = "no tensor" if scores is None else f"{str(scores.dtype).removeprefix('torch.')}{list(scores.shape)}"
            raise CalibrationError(
                f"the model's output is {got}, not class scores of shape (samples, classes): pass metric=, a function "
                "of (outputs, targets) that is 1 for a perfect batch and less for a worse one"
            )
        return scores

    def compare(self, clean: Any, output: Any, batch: Batch) -> Comparison:
        before, after = self.scores(clean).argmax(1), self.scores(output).argmax(1)
        right = before if batch.targets is None else self._labels(batch.targets, self.scores(clean))
        was, is_now = before == right, after == right
        return Comparison(
            reference=float(was.sum()),
            accuracy=float(is_now.sum()),
            lost=int((was & ~is_now).sum()),
            gained=int((~was & is_now).sum()),
            samples=len(right),
        )

    def drop(self, clean: Any, output: Any, batch: Batch) -> float:
        """The share of changed answers: the drop cannot be more, and it is a steadier figure than the drop itself."""
        return float((self.scores(clean).argmax(1) != self.scores(output).argmax(1)).double().mean())

    @staticmethod
    def _labels(targets: Tensor, scores: Tensor) -> Tensor:
        if targets.dim() != 1 or targets.is_floating_point() or targets.is_complex():
            raise CalibrationError(
                f"targets are {targets.dtype} of shape {list(targets.shape)}, not class indices of shape (samples,): "
                "convert them, or pass metric="
            )
        if targets.numel() and not 0 <= int(targets.min()) <= int(targets.max()) < scores.shape[1]:
            raise CalibrationError(
                f"targets run from {int(targets.min())} to {int(targets.max())}, but the model scores "
                f"{scores.shape[1]} classes, 0 and up"
            )
        return targets.to(scores.device)


@dataclass(frozen=True, slots=True)
class MetricScores(Scorer):
    """The user's own measure of accuracy. Noise is that of all outputs of as many samples as the first has."""

    metric: Metric

    def scores(self, output: Any) -> Tensor:
        tensors: list[Tensor] = []
        take_apart(output, tensors)
        scores = [each for each in tensors if each.is_floating_point() and each.dim()]
        if not scores:
            raise CalibrationError("the model's output holds no floating-point tensor with a batch dimension")
        rows = [each.reshape(len(each), -1) for each in scores if len(each) == len(scores[0])]
        return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)

    def compare(self, clean: Any, output: Any, batch: Batch) -> Comparison:
        return Comparison(
            reference=self._value(clean, batch) * batch.size,
            accuracy=self._value(output, batch) * batch.size,
            lost=None,
            gained=None,
            samples=batch.size,
        )

    def drop(self, clean: Any, output: Any, batch: Batch) -> float:
        return max(0.0, self._value(clean, batch) - self._value(output, batch))

    def _value(self, output: Any, batch: Batch) -> float:
        try:
            value = float(self.metric(output, batch.targets))
        except Exception as error:
            raise CalibrationError(f"the metric failed on a batch of {batch.size} samples: {error!r}") from error
        if not math.isfinite(value):
            raise CalibrationError(f"the metric returned {value} on a batch of {batch.size} samples: it must be finite")
        return value


def scorer_of(metric: Metric | None) -> Scorer:
    """What compares outputs: ``metric``, or class scores without one.

    Raises:
        RequestError: ``metric`` cannot be called.
    """
    if metric is None:
        return ClassScores()
    if not callable(metric):
        raise RequestError(f"metric is a {type(metric).__name__}: pass a function of (outputs, targets)")
    return MetricScores(metric)


def _first_tensor(output: Any) -> Tensor | None:
    tensors: list[Tensor] = []
    take_apart(output, tensors)
    return tensors[0] if tensors else None
