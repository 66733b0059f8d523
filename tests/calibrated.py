"""What the measuring passes are given: a captured graph, batches, and the weights and ranges of its nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

from qpart_fx.calibration import Batch
from qpart_fx.compiler import analyse
from qpart_fx.meta import info
from qpart_fx.noise import NoiseTable
from qpart_fx.passes.capture import capture
from qpart_fx.passes.measure_noise import measure_noise
from qpart_fx.passes.measure_ranges import Range, widen_ranges
from qpart_fx.passes.measure_sensitivity import Sensitivity, measure_sensitivity
from qpart_fx.replay import Replay
from qpart_fx.scores import ClassScores, Scorer

CLASS_SCORES = ClassScores()


def as_they_are(batches: Sequence[Batch]) -> Iterable[Batch]:
    """No progress bar."""
    return batches


@dataclass(frozen=True)
class Calibrated:
    """A graph, batches, the names of the weights of each weighted node, and the ranges of its values."""

    graph: GraphModule
    batches: list[Batch]
    layers: dict[str, tuple[str, ...]]
    ranges: dict[str, Range]

    def sensitivity(self, scorer: Scorer = CLASS_SCORES, seed: int = 0) -> Sensitivity:
        return measure_sensitivity(
            self.graph,
            self.batches,
            scorer,
            layers=self.layers,
            ranges=self.ranges,
            seed=seed,
            progress=as_they_are,
        )

    def measured(self, values: Iterable[str] = (), scorer: Scorer = CLASS_SCORES) -> tuple[NoiseTable, NoiseTable]:
        """The noise of every layer, and of each of ``values``."""
        return measure_noise(
            self.graph,
            self.batches,
            scorer,
            layers=self.layers,
            crossings=[{name: self.ranges[name]} for name in values],
            progress=as_they_are,
        )


def calibrated(model: nn.Module, *inputs: Tensor, batch: int = 64) -> Calibrated:
    """``model`` captured, and ``inputs`` in batches of ``batch`` samples."""
    graph = capture(model.eval(), tuple(each[:2] for each in inputs))
    analyse(graph, tuple(each[:1] for each in inputs), {})
    parts = zip(*(each.split(batch) for each in inputs), strict=True)
    batches = [Batch(part, {}, None, len(part[0])) for part in parts]
    may_cross = [node.name for node in graph.graph.nodes if node.op != "output" and not info(node).constant]
    ranges: dict[str, Range] = {}
    for each in batches:
        widen_ranges(ranges, Replay(graph, each), may_cross)
    layers = {node.name: tuple(info(node).weights) for node in graph.graph.nodes if info(node).weights}
    return Calibrated(graph, batches, layers, ranges)


class Attention(nn.Module):
    """Eight tokens into class scores by one block of a transformer."""

    places: Tensor

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, width)
        self.register_buffer("places", torch.randn(8, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.up, self.down, self.head = nn.Linear(width, 64), nn.Linear(64, width), nn.Linear(width, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.places
        y = self.norm1(x)
        x = x + F.scaled_dot_product_attention(self.query(y), self.key(y), self.value(y))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        scores: Tensor = self.head(x.mean(dim=1))
        return scores


def trained(model: nn.Module, inputs: Tensor, targets: Tensor, steps: int) -> nn.Module:
    """``model`` after ``steps`` on one batch: so that its weights and scores are no longer those of chance."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    return model.eval()
