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
from qpart_fx.noise import MEASURED, Booleans, Estimate, Floats, NoiseTable
from qpart_fx.quantized import rounded_weights
from qpart_fx.quantizer import UniformQuantizer
from qpart_fx.replay import Replay
from qpart_fx.rounding import NEAREST, Rounding
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
    rounding: Rounding = NEAREST,
    widths: Sequence[int] = MEASURED,
    wanted: Booleans | None = None,
) -> tuple[NoiseTable, NoiseTable]:
    """The noise of each layer's weights, and of what crosses each cut, at each of ``widths``.

    Args:
        layers: node -> the names of its weights.
        crossings: for each cut, the quantized values that cross it and their ranges; all are quantized together.
        wanted: which to measure, shape (layers + cuts, widths); the others are NaN. By default all.
    """
    rows = len(layers) + len(crossings)
    wanted = np.ones((rows, len(widths)), dtype=np.bool_) if wanted is None else wanted
    noise: list[Floats] = []
    drop = np.where(wanted, 0.0, np.nan)
    for batch in progress(batches):
        replay = Replay(graph_module, batch)
        noise.append(np.where(wanted, 0.0, np.nan)[None].repeat(batch.size, axis=0))

        def add(row: int, column: int, output: Any, batch: Batch = batch, clean: Any = replay.output) -> None:
            noise[-1][:, row, column] = scorer.noise(clean, output)
            drop[row, column] += scorer.drop(clean, output, batch) * batch.size

        for column, bits in enumerate(widths):
            for row, (name, weights) in enumerate(layers.items()):
                if wanted[row, column]:
                    with rounded_weights(graph_module, weights, bits, rounding):
                        add(row, column, replay.from_node(name))
            for row, ranges in enumerate(crossings, start=len(layers)):
                if ranges and wanted[row, column]:
                    values = {
                        name: UniformQuantizer.from_range(*ends, bits)(replay.value(name))
                        for name, ends in ranges.items()
                    }
                    add(row, column, replay.with_values(values))
    draws = np.concatenate(noise)
    found, drop, split = Estimate.of(draws), drop / len(draws), len(layers)
    return (
        NoiseTable(found.noise[:split], found.error[:split], drop[:split], len(draws)),
        NoiseTable(found.noise[split:], found.error[split:], drop[split:], len(draws)),
    )
