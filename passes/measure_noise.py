"""Calibration: what quantizing one layer, or what crosses one cut, alone does to the class scores (eqs. 18, 19).

As the paper measures it: one run over the calibration data for every layer and width, each from the changed node on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.fx import GraphModule

from qpart_fx.calibration import Batch
from qpart_fx.noise import MEASURED, NoiseTable
from qpart_fx.quantized import rounded_weights
from qpart_fx.quantizer import UniformQuantizer
from qpart_fx.replay import Replay
from qpart_fx.scores import Scorer

Range = tuple[float, float]
Progress = Callable[[Sequence[Batch]], Iterable[Batch]]


@torch.no_grad()
def measure_noise(
    graph_module: GraphModule,
    batches: Sequence[Batch],
    scorer: Scorer,
    *,
    layers: Mapping[str, Sequence[str]],
    crossings: Sequence[Mapping[str, Range]],
    progress: Progress,
    widths: Sequence[int] = MEASURED,
) -> tuple[NoiseTable, NoiseTable]:
    """The noise of each layer's weights, and of what crosses each cut, at each of ``widths``.

    Args:
        layers: node -> the names of its weights.
        crossings: for each cut, the quantized values that cross it and their ranges; all are quantized together.
    """
    shape = (len(layers) + len(crossings), len(widths))
    noise, drop, samples = np.zeros(shape), np.zeros(shape), 0
    for batch in progress(batches):
        replay = Replay(graph_module, batch)
        samples += batch.size

        def add(row: int, column: int, output: Any, batch: Batch = batch, clean: Any = replay.output) -> None:
            noise[row, column] += scorer.noise(clean, output)
            drop[row, column] += scorer.drop(clean, output, batch) * batch.size

        for column, bits in enumerate(widths):
            for row, (name, weights) in enumerate(layers.items()):
                with rounded_weights(graph_module, weights, bits):
                    add(row, column, replay.from_node(name))
            for row, ranges in enumerate(crossings, start=len(layers)):
                if ranges:
                    values = {
                        name: UniformQuantizer.from_range(*ends, bits)(replay.value(name))
                        for name, ends in ranges.items()
                    }
                    add(row, column, replay.with_values(values))
    noise, drop, split = noise / samples, drop / samples, len(layers)
    return NoiseTable(noise[:split], drop[:split], samples), NoiseTable(noise[split:], drop[split:], samples)
