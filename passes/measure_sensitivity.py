"""Calibration: how much noise on the scores each weight and each value makes, from a handful of backward passes.

With independent random signs v for every score of every sample, the gradient g of sum <v, scores> has E[g_j^2] = the
squared norm of column j of the Jacobian, summed over the samples: for every weight and every value of the graph at
once. An error e then makes the noise sum_j E[g_j^2] e_j^2, while it is small and has no pattern of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Node

from qpart_fx.calibration import Batch
from qpart_fx.inputs import positional
from qpart_fx.interpreter import PlainInterpreter
from qpart_fx.noise import MEASURED, WIDTHS, between_measured
from qpart_fx.quantizer import UniformQuantizer
from qpart_fx.scores import Scorer

Floats = NDArray[np.float64]
Progress = Callable[[Sequence[Batch]], Iterable[Batch]]

CHUNK = 16
"""Samples a probe: the signs of one sample disturb those of another, the less the fewer there are."""

_VALUE_SAMPLES = 32
"""Samples that the values' errors are looked at on, element by element."""


@dataclass(frozen=True)
class Sensitivity:
    """Predicted noise, the mean squared L2 norm of the change of a sample's scores, at each of ``WIDTHS``.

    ``layers``: shape (layers, widths), 0 in a row that no gradient reaches. ``values``: of each value that a gradient
    reaches, shape (widths,).
    """

    layers: Floats
    values: Mapping[str, Floats]


def measure_sensitivity(
    graph_module: GraphModule,
    batches: Sequence[Batch],
    scorer: Scorer,
    *,
    layers: Mapping[str, Sequence[str]],
    ranges: Mapping[str, tuple[float, float]],
    seed: int,
    progress: Progress,
) -> Sensitivity:
    """Predict the noise of every layer's weights and of every value in ``ranges``, each quantized alone.

    Costs one forward and one backward pass over ``batches``. A model that runs forward only has no rows and values.

    Args:
        layers: node -> the names of its weights. ranges: of the values that may cross.
        seed: of the random signs.
    """
    names = [name for weights in layers.values() for name in weights]
    weights = [graph_module.get_parameter(name) for name in names]
    energy = [torch.zeros_like(weight, dtype=torch.float64) for weight in weights]
    generator = torch.Generator().manual_seed(seed)
    probe = _Probe(graph_module, ranges)
    samples = 0
    flags = [weight.requires_grad for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        for chunk in progress([chunk for batch in batches for chunk in batch.chunks(CHUNK)]):
            probe.enabled = samples < _VALUE_SAMPLES
            for total, gradient in zip(energy, _gradients(probe, chunk, scorer, weights, generator), strict=True):
                total += gradient.double().square()
            probe.samples += chunk.size if probe.enabled else 0
            samples += chunk.size
    except torch.OutOfMemoryError:  # a RuntimeError, but none of the model's
        raise
    except (RuntimeError, NotImplementedError):  # it runs forward only: writes to what the way back needs, for example
        return Sensitivity(np.zeros((len(layers), len(WIDTHS))), {})
    finally:
        for weight, flag in zip(weights, flags, strict=True):
            weight.requires_grad_(flag)
    sums = {name: each / samples for name, each in zip(names, energy, strict=True)}
    with torch.no_grad():
        rows = [[_noise(graph_module, own, sums, bits) for bits in WIDTHS] for own in layers.values()]
    table = np.array(rows, dtype=np.float64).reshape(len(layers), len(WIDTHS))
    table[~np.isfinite(table).all(axis=1)] = 0.0
    values = {
        name: between_measured(noise[None] / probe.samples)[0]
        for name, noise in probe.noise.items()
        if noise.any() and np.isfinite(noise).all()
    }
    return Sensitivity(table, values)


def _gradients(
    probe: _Probe, chunk: Batch, scorer: Scorer, weights: Sequence[Tensor], generator: torch.Generator
) -> Sequence[Tensor]:
    """Of the scores of a chunk, summed under random signs, in each of ``weights``."""
    with torch.enable_grad():
        scores = scorer.scores(probe.run(*positional(probe.graph_module, chunk.args, chunk.kwargs)))
    if not scores.requires_grad:
        return [torch.zeros_like(weight) for weight in weights]
    signs = torch.randint(0, 2, scores.shape, generator=generator).to(scores) * 2 - 1
    wanted = [*weights, *probe.inputs]  # asking for the inputs takes the way back to the values before the first weight
    found = torch.autograd.grad(scores, wanted, signs, allow_unused=True, materialize_grads=True)
    return found[: len(weights)]


def _noise(graph_module: GraphModule, names: Sequence[str], energy: Mapping[str, Tensor], bits: int) -> float:
    total = 0.0
    for name in names:
        weight = graph_module.get_parameter(name)
        error = (UniformQuantizer.of_tensor(weight, bits)(weight) - weight).double()
        total += float((energy[name] * error.square()).sum())
    return total


class _Probe(PlainInterpreter):
    """Runs the graph; on the way back, each value in ``ranges`` adds up the noise that its rounding would make."""

    def __init__(self, graph_module: GraphModule, ranges: Mapping[str, tuple[float, float]]) -> None:
        super().__init__(graph_module)
        self.graph_module = graph_module
        self.enabled, self.samples = True, 0
        self.inputs: list[Tensor] = []
        self.noise = {name: np.zeros(len(MEASURED)) for name in ranges}
        self._quantizers = {
            name: [UniformQuantizer.from_range(*ends, bits) for bits in MEASURED] for name, ends in ranges.items()
        }

    def run(self, *args: Any, **kwargs: Any) -> Any:
        self.inputs = []
        return super().run(*args, **kwargs)

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if not self.enabled or n.name not in self.noise or not isinstance(value, Tensor):
            return value
        if n.op == "placeholder":
            self.inputs.append(value.detach().requires_grad_(True))
            value = self.inputs[-1].clone()  # the model may write to what is no leaf
        if value.requires_grad:
            clean = value.detach().clone()  # it may be written to before the gradient comes
            value.register_hook(lambda gradient: self._add(n.name, clean, gradient))
        return value

    def _add(self, name: str, clean: Tensor, gradient: Tensor) -> None:
        energy = gradient.double().square()
        for place, quantizer in enumerate(self._quantizers[name]):
            self.noise[name][place] += float((energy * (quantizer(clean) - clean).double().square()).sum())
