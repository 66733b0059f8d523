"""Calibration: how much noise on the scores each weight and each value makes, from a handful of backward passes.

With independent random signs v for every score of a sample, the gradient g of <v, scores> in what a node makes has
E[<g, change>^2] = the squared norm of what ``change`` does to the scores, while it is small. So one run back, and each
layer run once more by itself with its weights rounded, predict the noise of rounding each layer: with the errors that
its quantizer really makes, however these hang together. Every sample draws for itself. Of a value that crosses, each
element errs on its own: E[g_j^2] times its squared error adds up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_aggregate

from qpart_fx.calibration import Batch
from qpart_fx.inputs import positional
from qpart_fx.interpreter import PlainInterpreter
from qpart_fx.meta import tensors_of
from qpart_fx.noise import WIDTHS, Estimate, by_width, continued
from qpart_fx.quantized import rounded_weights
from qpart_fx.quantizer import UniformQuantizer
from qpart_fx.replay import Replay
from qpart_fx.rounding import NEAREST, Rounding
from qpart_fx.scores import Scorer

Floats = NDArray[np.float64]
Progress = Callable[[Sequence[Batch]], Iterable[Batch]]

CHUNK = 8
"""Samples run at once: few, since the gradients of all layers are kept for them."""

_PROBES = 3
"""Draws of signs for a sample, hence runs back."""

_OF_LAYERS = (4, 5, 6, 7, 8, 9, 10, 12, 14)
"""The widths that layers are rounded to."""

_OF_VALUES = (4, 6, 9)
"""The widths that values are rounded to; their many errors average out, so that the widths between follow."""

_VALUE_SAMPLES = 16
"""Samples that the values' errors are looked at on, element by element."""


@dataclass(frozen=True)
class Sensitivity:
    """Predicted noise, from ``PREDICTED_FROM`` bits on.

    ``layers``: at each resolution of the rounding, shape (layers, resolutions), 0 in a row that no gradient reaches.
    ``values``: of each value that a gradient reaches, at each of :data:`~qpart_fx.noise.WIDTHS`. ``channels``: for
    every weight by name, the squared norm of the Jacobian of the scores in each channel's weights (S_c; mean over
    samples), along the weight's first dimension.
    """

    layers: Estimate
    values: Mapping[str, Estimate]
    channels: Mapping[str, Floats]


def measure_sensitivity(
    graph_module: GraphModule,
    batches: Sequence[Batch],
    scorer: Scorer,
    *,
    layers: Mapping[str, Sequence[str]],
    ranges: Mapping[str, tuple[float, float]],
    seed: int,
    progress: Progress,
    rounding: Rounding = NEAREST,
) -> Sensitivity:
    """Predict the noise of every layer's weights and of every value in ``ranges``, each quantized alone.

    A model that runs forward only has no rows, values and channels.

    Args:
        layers: node -> the names of its weights. ranges: of the values that may cross.
        seed: of the random signs.
    """
    names = [name for weights in layers.values() for name in weights]
    weights = [graph_module.get_parameter(name) for name in names]
    energy = [torch.zeros(len(weight) if weight.dim() else 1, dtype=torch.float64) for weight in weights]
    generator = torch.Generator().manual_seed(seed)
    probe = _Probe(graph_module, layers, ranges)
    of_layers: list[Floats] = []
    flags = [weight.requires_grad for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        for chunk in progress([chunk for batch in batches for chunk in batch.chunks(CHUNK)]):
            for total, gradient in zip(energy, probe.gradients(chunk, scorer, weights, generator), strict=True):
                total += gradient.double().square().reshape(len(total), -1).sum(1).cpu()
            of_layers.append(_of_layers(graph_module, chunk, layers, probe.found, rounding))
    except torch.OutOfMemoryError:  # a RuntimeError, but none of the model's
        raise
    except (RuntimeError, NotImplementedError):  # it runs forward only: writes to what the way back needs, for example
        nothing = np.zeros((len(layers), len(rounding.resolutions)))
        return Sensitivity(Estimate(nothing, nothing), {}, {})
    finally:
        for weight, flag in zip(weights, flags, strict=True):
            weight.requires_grad_(flag)
    values = {
        name: _by_width(np.concatenate(draws)[:, None], _OF_VALUES, WIDTHS)
        for name, draws in probe.noise.items()
        if draws
    }
    samples = sum(len(draws) for draws in of_layers)
    return Sensitivity(
        layers=_by_width(np.concatenate(of_layers), _OF_LAYERS, rounding.resolutions),
        values={name: Estimate(each.noise[0], each.error[0]) for name, each in values.items() if each.noise.any()},
        channels={name: np.asarray(each.numpy() / samples) for name, each in zip(names, energy, strict=True)},
    )


def _by_width(draws: Floats, widths: Sequence[int], columns: Sequence[float]) -> Estimate:
    """The estimate at all ``columns``, from draws of shape (draws, rows, len(widths)); rows with holes are all 0."""
    found = Estimate.of(draws)
    noise = continued(found.noise, widths)
    sound = (np.isfinite(noise) & (noise > 0)).all(axis=1, keepdims=True)
    error = np.array([np.interp(columns, widths, row) for row in found.error]).reshape(-1, len(columns))
    return Estimate(np.where(sound, by_width(noise, widths, columns), 0.0), error)


@torch.no_grad()
def _of_layers(
    graph_module: GraphModule,
    chunk: Batch,
    layers: Mapping[str, Sequence[str]],
    gradients: Mapping[str, list[list[Tensor | None]]],
    rounding: Rounding,
) -> Floats:
    """For each sample, layer and width, what rounding the layer does to the scores; shape (samples, layers, widths)."""
    replay = Replay(graph_module, chunk)
    draws = np.zeros((chunk.size, len(layers), len(_OF_LAYERS)))
    for row, (name, weights) in enumerate(layers.items()):
        if name not in gradients:
            continue
        clean = tensors_of(replay.value(name))
        apart = all(each.dim() and len(each) % chunk.size == 0 for each in clean)
        parts = (
            chunk.size if apart else 1
        )  # what does not lie along the first dimension cannot be told apart by samples
        found = [
            _stacked(each, along, parts) for each, along in zip(clean, zip(*gradients[name], strict=True), strict=True)
        ]
        changes = [torch.empty(parts, len(_OF_LAYERS), each.numel() // parts).to(each) for each in clean]
        for column, bits in enumerate(_OF_LAYERS):
            with rounded_weights(graph_module, weights, bits, rounding):
                changed = tensors_of(replay.alone(name))
            for before, after, change in zip(clean, changed, changes, strict=True):
                torch.sub(_flat(after, before, parts), _flat(before, before, parts), out=change[:, column])
        total = np.zeros((parts, len(_OF_LAYERS), _PROBES))
        for each, change in zip(found, changes, strict=True):
            if each is not None:
                total += torch.bmm(change, each.transpose(1, 2)).double().cpu().numpy()
        draws[:, row] = np.square(total).mean(axis=2) / (1 if apart else chunk.size)
    return draws


def _stacked(clean: Tensor, gradients: Sequence[Tensor | None], parts: int) -> Tensor | None:
    """The gradients of all probes in what a layer made, shape (parts, probes, elements); None if there are none."""
    found = [_flat(each, clean, parts) for each in gradients if each is not None]
    return torch.stack(found, dim=1) if len(found) == len(gradients) else None


def _flat(values: Tensor, like: Tensor, parts: int) -> Tensor:
    """``values`` in the shape (parts, elements), the elements in the order in which ``like`` lies in memory."""
    inner = sorted(range(1, like.dim()), key=like.stride, reverse=True)
    return values.permute(0, *inner).reshape(parts, -1) if like.dim() else values.reshape(parts, -1)


class _Tap(torch.autograd.Function):
    """The identity; hands over the gradient that comes back through it, whenever the anchor's is asked for."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, anchor: Tensor, keep: Callable[[Tensor], None]) -> Tensor:
        ctx.keep, ctx.anchor = keep, anchor
        return value.clone()  # the model may write to it

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        ctx.keep(gradient)
        return gradient, torch.zeros_like(ctx.anchor), None


_tap: Callable[[Tensor, Tensor, Callable[[Tensor], None]], Tensor] = _Tap.apply


class _Probe(PlainInterpreter):
    """Runs the graph; on the way back, keeps the gradients in what layers make, and adds up the noise of values."""

    def __init__(
        self, graph_module: GraphModule, layers: Mapping[str, Any], ranges: Mapping[str, tuple[float, float]]
    ) -> None:
        super().__init__(graph_module)
        self.graph_module = graph_module
        self.found: dict[str, list[list[Tensor | None]]] = {}
        """For each layer and probe, the gradient in each tensor that the layer makes."""
        self.noise: dict[str, list[Floats]] = {name: [] for name in ranges}
        """For each value, arrays of shape (samples, widths)."""
        self._layers = set(layers)
        self._quantizers = {
            name: [UniformQuantizer.from_range(*ends, bits) for bits in _OF_VALUES] for name, ends in ranges.items()
        }
        self._inputs: list[Tensor] = []
        self._anchor = torch.zeros((), requires_grad=True)
        self._size = self._samples = self._number = 0

    def gradients(
        self, chunk: Batch, scorer: Scorer, weights: Sequence[Tensor], generator: torch.Generator
    ) -> Sequence[Tensor]:
        """Run back for each probe; gives the first's gradients in ``weights``."""
        self.found, self._inputs, self._size = {}, [], chunk.size
        with torch.enable_grad():
            scores = scorer.scores(self.run(*positional(self.graph_module, chunk.args, chunk.kwargs)))
        if not scores.requires_grad:
            return [torch.zeros_like(weight) for weight in weights]
        first: Sequence[Tensor] = []
        for self._number in range(_PROBES):
            signs = torch.randint(0, 2, scores.shape, generator=generator).to(scores) * 2 - 1
            # Asking for the inputs takes the way back to the values before the first weight; to the anchor alone, it
            # needs no gradients in weights.
            wanted = [self._anchor] if self._number else [*weights, self._anchor, *self._inputs]
            found = torch.autograd.grad(
                scores,
                wanted,
                signs,
                allow_unused=True,
                materialize_grads=True,
                retain_graph=self._number < _PROBES - 1,
            )
            first = first or found[: len(weights)]
        self._samples += chunk.size
        self.env.clear()  # values hold on to all that the way back took
        return first

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.name in self._layers:
            value = self._tapped(n.name, value)
        if isinstance(value, Tensor) and n.name in self.noise and self._samples < _VALUE_SAMPLES:
            if n.op == "placeholder":
                self._inputs.append(value.detach().requires_grad_(True))
                value = self._inputs[-1].clone()  # the model may write to what is no leaf
            if value.requires_grad:
                clean = value.detach().clone()  # it may be written to before the gradient comes
                value.register_hook(lambda gradient: self._add_noise(n.name, clean, gradient))
        return value

    def _tapped(self, name: str, value: Any) -> Any:
        """What a layer makes, such that its gradient is kept."""
        tensors = tensors_of(value)
        places = iter(range(len(tensors)))

        def tap(item: Any) -> Any:
            if not isinstance(item, Tensor):
                return item
            place = next(places)
            keep = partial(self._keep, name, place, len(tensors))
            return _tap(item, self._anchor, keep) if item.is_floating_point() else item

        return map_aggregate(value, tap)

    def _keep(self, name: str, place: int, count: int, gradient: Tensor) -> None:
        probes = self.found.setdefault(name, [[None] * count for _ in range(_PROBES)])
        probes[self._number][place] = gradient

    def _add_noise(self, name: str, clean: Tensor, gradient: Tensor) -> None:
        if self._number:
            return
        parts = self._size if clean.dim() and len(clean) % self._size == 0 else 1
        sums = []
        for quantizer in self._quantizers[name]:
            made = (gradient * (quantizer(clean) - clean)).reshape(parts, -1)
            sums.append(np.square(torch.linalg.vector_norm(made, dim=1).double().cpu().numpy()))
        draws = np.stack(sums, axis=1)
        self.noise[name].append(draws if parts > 1 else np.repeat(draws / self._size, self._size, axis=0))
