"""From scores and labels to how sure a model is of its answers."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .answers import CERTAIN, Answers

Floats = NDArray[np.float64]

RIVALS = 10
"""Classes beside the best that are looked at, the nearest."""

_TRIED = np.logspace(-3, 2, 101)
"""Temperatures, in standard deviations of a sample's scores."""

_DOUBT = 0.5
"""The logarithm of the likelihood by which the least temperature lies below the best: one standard error."""


def chances(scores: Tensor, temperature: float) -> Tensor:
    """How likely each class is the right one; ``scores`` and what is returned: shape (samples, classes)."""
    scores = scores.double()
    if temperature == CERTAIN:
        return torch.nn.functional.one_hot(scores.argmax(1), scores.shape[1]).double()
    return torch.softmax(scores / temperature, dim=1)


def losses(scores: Tensor, noisy: Tensor, temperature: float) -> Tensor:
    """What each answer is likely to lose where ``scores`` become ``noisy``: nothing where it stays the same.

    Shapes (samples, classes), and of what is returned (samples,), fractions.
    """
    likely = chances(scores, temperature)
    kept = likely.gather(1, noisy.argmax(1, keepdim=True))
    return (likely.gather(1, scores.argmax(1, keepdim=True)) - kept)[:, 0]


class AnswersSeen:
    """Takes scores batch by batch, with labels if there are any.

    >>> seen = AnswersSeen()
    >>> scores = torch.tensor([[1.0, 0.0]]).expand(1000, 2)
    >>> seen.add(scores, torch.tensor([0] * 731 + [1] * 269))  # e / (1 + e) of them are right
    >>> answers = seen.answers()
    >>> 0.85 < answers.temperature < 1.0
    True
    >>> round(float(answers.worth[0, 0]), 1)  # tanh(1 / 2), about
    0.5
    """

    def __init__(self) -> None:
        self._tried = np.zeros(0)
        self._loss = np.zeros(len(_TRIED))
        self._best: list[Floats] = []
        self._sums: list[Floats] = []  # logarithms of sums of exp(scores / temperature)

    def add(self, scores: Tensor, labels: Tensor | None) -> None:
        """``scores``: floating point, shape (samples, classes); ``labels``: class indices, shape (samples,)."""
        scores = scores.double()
        self._best.append(scores.topk(min(RIVALS + 1, scores.shape[1]), dim=1).values.cpu().numpy())
        if labels is None:
            return
        if not len(self._tried):
            self._tried = _TRIED * (float(scores.std(dim=1).mean()) or 1.0)
        right = scores.gather(1, labels[:, None].to(scores.device))[:, 0].cpu().numpy()
        sums = [torch.logsumexp(scores / tried, dim=1).cpu().numpy() for tried in self._tried]
        self._sums.append(np.stack(sums, axis=1))
        self._loss += (self._sums[-1] - right[:, None] / self._tried).sum(axis=0)

    def answers(self) -> Answers:
        """With the least temperature that the labels do not speak against: the fewer there are, the surer the model
        seems, so that few of them make careful plans. ``CERTAIN`` without labels."""
        best = np.concatenate(self._best)
        margins = best[:, :1] - best[:, 1:]
        least = int(np.argmax(self._loss <= self._loss.min() + _DOUBT)) if self._sums else 0
        if not least:  # no labels, or all answers right, and surely
            return Answers(margins, np.ones(margins.shape), CERTAIN)
        temperature = float(self._tried[least])
        chances = np.exp(best / temperature - np.concatenate(self._sums)[:, least : least + 1])
        return Answers(margins, chances[:, :1] - chances[:, 1:], temperature)
