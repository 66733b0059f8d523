"""Few samples at once where they are large, many where they are small."""

from __future__ import annotations

import torch
from torch import nn

from qpart_fx.compiler import analyse
from qpart_fx.passes.capture import capture
from qpart_fx.samples_at_once import MOST, samples_at_once
from qpart_fx.scores import ClassScores, MetricScores


def at_once(features: int, *, metric: bool = False) -> int:
    model, x = nn.Sequential(nn.ReLU(), nn.ReLU(), nn.ReLU()), torch.zeros(1, features)
    graph = capture(model, (x,), {})
    analyse(graph, (x,), {})
    return samples_at_once(graph, MetricScores(lambda *_: 1.0) if metric else ClassScores())


def test_small_samples_are_run_many_at_once() -> None:
    assert at_once(10) == MOST


def test_the_values_of_large_samples_take_little_memory_and_one_is_run_however_large() -> None:
    assert 1 < at_once(1_000_000) < MOST
    assert at_once(20_000_000) == 1


def test_a_metric_has_many_samples() -> None:
    assert at_once(20_000_000, metric=True) == MOST
