"""Calibration: how the scores answer to errors in every weight, from the gradients of single samples.

With random signs v for the scores of a sample, J = d<v, scores>/dW of a weight W of r rows and n columns says it all:
E[J_c . J_c] is what an error in channel c does (S_c), and E[J' J] which errors of a row make up for each other. That
holds for whatever the model does with the weight, convolution, product or recurrence, and takes one run back a sample.

A second moment of a thousand columns is not known from a hundred samples: rounding would rely on what these happen to
share. So it is shrunk towards a multiple of the identity, by as much as samples differ (Ledoit and Wolf, Journal of
Multivariate Analysis 88, 2004).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule

from qpart_fx.calibration import Batch
from qpart_fx.inputs import positional
from qpart_fx.interpreter import PlainInterpreter
from qpart_fx.rounding import Curvature
from qpart_fx.scores import Scorer

Progress = Callable[[Sequence[Batch]], Iterable[Batch]]

_FEW_COLUMNS = 32
"""Rows of so few weights, those of a depthwise convolution for example, have a curvature each."""

_MOST_COLUMNS = 1024
"""Longer rows are taken in pieces, so that their curvature is not larger than they are."""

_MIXTURES = 64
"""Rows of J are mixed with random signs to so many: as good for their second moment, and less work."""


def measure_curvature(
    graph_module: GraphModule,
    samples: Sequence[Batch],
    scorer: Scorer,
    *,
    weights: Sequence[str],
    seed: int,
    progress: Progress,
) -> dict[str, Curvature]:
    """The curvature of each of ``weights`` that a gradient reaches; none of a model that runs forward only.

    Args:
        samples: batches of one sample each.
        seed: of the random signs.
    """
    parameters = {name: graph_module.get_parameter(name) for name in weights}
    flags = {name: parameter.requires_grad for name, parameter in parameters.items()}
    sums = {name: _Sums(parameter) for name, parameter in parameters.items()}
    generator = torch.Generator().manual_seed(seed)
    interpreter = PlainInterpreter(graph_module)
    try:
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        for sample in progress(samples):
            with torch.enable_grad():
                scores = scorer.scores(interpreter.run(*positional(graph_module, sample.args, sample.kwargs)))
                if not scores.requires_grad:
                    return {}
                signs = _signs(scores.shape, generator).to(scores)
                found = torch.autograd.grad(scores, list(parameters.values()), signs, allow_unused=True)
            for total, gradient in zip(sums.values(), found, strict=True):
                if gradient is not None:
                    total.add(gradient, generator)
    except torch.OutOfMemoryError:  # a RuntimeError, but none of the model's
        raise
    except (RuntimeError, NotImplementedError):  # it runs forward only: writes to what the way back needs, for example
        return {}
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(flags[name])
    return {name: total.curvature for name, total in sums.items() if total.reached}


class _Sums:
    """Second moments of one weight's gradients, added up."""

    def __init__(self, weight: Tensor) -> None:
        self._rows, self._columns = len(weight), weight[0].numel() if len(weight) else 0
        self._alone = self._columns <= _FEW_COLUMNS
        sizes = [min(_MOST_COLUMNS, self._columns - start) for start in range(0, self._columns, _MOST_COLUMNS)]
        self._samples = 0
        self._channels = torch.zeros(self._rows, device=weight.device)
        self._blocks = [
            torch.zeros(self._rows if self._alone else 1, size, size, device=weight.device) for size in sizes
        ]
        self._between = [torch.zeros(0, 0)] if self._alone else [
            torch.zeros(min(_MOST_COLUMNS, self._rows - start), min(_MOST_COLUMNS, self._rows - start), device=weight.device)
            for start in range(0, self._rows, _MOST_COLUMNS)]
        self._between_squares = [0.0 for _ in self._between]
        self._squares = [torch.zeros(len(block), device=weight.device) for block in self._blocks]
        """Of each sample's part in a block, the squared norm, added up."""

    def add(self, gradient: Tensor, generator: torch.Generator) -> None:
        rows = gradient.detach().float().reshape(self._rows, self._columns)
        self._channels += rows.square().sum(dim=1)
        if not self._alone:
            mixed = rows @ _signs((self._columns, _MIXTURES), generator).to(rows) / _MIXTURES**0.5 if self._columns > _MIXTURES else rows
            start = 0
            for place, block in enumerate(self._between):
                part = mixed[start : start + len(block)]
                start += len(block)
                h = part @ part.T
                block += h
                self._between_squares[place] += float(h.square().sum())
        if not self._alone and self._rows > _MIXTURES:
            rows = _signs((_MIXTURES, self._rows), generator).to(rows) @ rows
        start = 0
        self._samples += 1
        for block, squares in zip(self._blocks, self._squares, strict=True):
            part = rows[:, start : start + block.shape[-1]]
            start += block.shape[-1]
            if self._alone:
                block.baddbmm_(part[:, :, None], part[:, None, :])
                squares += part.square().sum(dim=1).square()
            else:
                block[0].addmm_(part.T, part)
                squares += (part @ part.T).square().sum()

    @property
    def reached(self) -> bool:
        """Whether any gradient was more than zero, and all were finite."""
        return bool(torch.isfinite(self._channels).all()) and bool(self._channels.any())

    @property
    def curvature(self) -> Curvature:
        pairs = zip(self._blocks, self._squares, strict=True)
        rows = () if self._alone else tuple(_shrunk_rows(b, s, self._samples) for b, s in zip(self._between, self._between_squares))
        return Curvature(self._channels, tuple(_shrunk(block, squares, self._samples) for block, squares in pairs), rows)


def _shrunk_rows(block, squares, samples):
    mean = block / max(samples, 1)
    centre = torch.diag(mean.diagonal())
    unsure = max(squares / max(samples, 1) - float(mean.square().sum()), 0) / max(samples - 1, 1)
    apart = float((mean - centre).square().sum())
    share = min(unsure / apart, 1.0) if apart > 0 else 1.0
    return (1 - share) * mean + share * centre


def _shrunk(block: Tensor, squares: Tensor, samples: int) -> Tensor:
    """The mean of what ``samples`` added to ``block``, shape (matrices, columns, columns), drawn to the identity.

    Args:
        squares: of the norms of what each sample added, summed; shape (matrices,).
    """
    mean = block / max(samples, 1)
    identity = torch.eye(block.shape[-1], device=block.device)
    centre = mean.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None] * identity
    norm = mean.square().sum(dim=(1, 2))
    unsure = (squares / max(samples, 1) - norm).clamp_min(0) / max(samples - 1, 1)
    apart = (mean - centre).square().sum(dim=(1, 2))
    share = torch.where(apart > 0, unsure / apart.clamp_min(1e-30), 1.0).clamp(0, 1)[:, None, None]
    return (1 - share) * mean + share * centre


def _signs(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, tuple(shape), generator=generator, dtype=torch.float32) * 2 - 1
