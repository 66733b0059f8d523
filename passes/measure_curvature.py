"""Calibration: how the scores answer to errors in every weight, from the gradients of single samples.

With random signs v for the scores of a sample, J = d<v, scores>/dW of a weight W of r rows and n columns says it all:
E[J_c . J_c] is what an error in channel c does (S_c), E[J' J] which errors of a row make up for each other, and E[J J']
which of a column do. That holds for whatever the model does with the weight, convolution, product or recurrence, and
takes one run back a sample.

A second moment of a thousand columns is not known from a hundred samples: rounding would rely on what these happen to
share. So it is shrunk towards a simpler one, by as much as samples differ (Ledoit and Wolf, Journal of Multivariate
Analysis 88, 2004).
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

_LONGEST_RUN = 1024
"""Longer rows and columns are taken in pieces, so that their curvature is not larger than they are."""

_MIXTURES = 64
"""Rows or columns of J are mixed with random signs to so many: as good for the second moment, and less work."""


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
        self._shape = len(weight), weight[0].numel() if len(weight) else 0
        rows, columns = self._shape
        self._alone = columns <= _FEW_COLUMNS
        self._channels = torch.zeros(rows, device=weight.device)
        self._columns = _Moments(rows if self._alone else 1, columns, weight.device)
        self._rows = _Moments(1, 0 if self._alone else rows, weight.device)

    def add(self, gradient: Tensor, generator: torch.Generator) -> None:
        matrix = gradient.detach().float().reshape(self._shape)
        self._channels += matrix.square().sum(dim=1)
        if self._alone:
            self._columns.add(matrix[:, None, :])
        else:
            self._columns.add(_mixed(matrix, generator)[None])
            self._rows.add(_mixed(matrix.T, generator)[None])

    @property
    def reached(self) -> bool:
        """Whether any gradient was more than zero, and all were finite."""
        return bool(torch.isfinite(self._channels).all()) and bool(self._channels.any())

    @property
    def curvature(self) -> Curvature:
        # Columns of a layer are much alike; rows differ in size, which is known better than what they share.
        rows = [block[0] for block in self._rows.shrunk(lambda mean: torch.diag_embed(_diagonal(mean)))]
        return Curvature(self._channels, tuple(self._columns.shrunk(_level)), tuple(rows))


class _Moments:
    """Second moments of vectors of ``size`` numbers, in runs that are not too long: of each of several matrices."""

    def __init__(self, matrices: int, size: int, device: torch.device) -> None:
        sizes = [min(_LONGEST_RUN, size - start) for start in range(0, size, _LONGEST_RUN)]
        self._samples = 0
        self._sums = [torch.zeros(matrices, length, length, device=device) for length in sizes]
        self._squares = [torch.zeros(matrices, device=device) for _ in sizes]
        """Of each sample's part in a sum, the squared norm, added up."""

    def add(self, vectors: Tensor) -> None:
        """Those of one sample, shape (matrices, vectors, size)."""
        self._samples += 1
        start = 0
        for total, squares in zip(self._sums, self._squares, strict=True):
            part = vectors[:, :, start : start + total.shape[-1]]
            start += total.shape[-1]
            total.baddbmm_(part.mT, part)
            squares += (part @ part.mT).square().sum(dim=(1, 2))

    def shrunk(self, centre: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """The means, each (matrices, run, run), drawn to a simpler matrix by as much as samples differ."""
        return [
            _shrunk(total / max(self._samples, 1), squares, self._samples, centre)
            for total, squares in zip(self._sums, self._squares, strict=True)
        ]


def _mixed(matrix: Tensor, generator: torch.Generator) -> Tensor:
    """Few rows with the second moment of the columns of many."""
    if len(matrix) <= _MIXTURES:
        return matrix
    mixed: Tensor = _signs((_MIXTURES, len(matrix)), generator).to(matrix) @ matrix / _MIXTURES**0.5
    return mixed


def _shrunk(mean: Tensor, squares: Tensor, samples: int, centre: Callable[[Tensor], Tensor]) -> Tensor:
    """``mean``, shape (matrices, size, size), drawn to its ``centre``.

    Args:
        squares: of the norms of what each sample added, summed; shape (matrices,).
    """
    simple = centre(mean)
    norm = mean.square().sum(dim=(1, 2))
    unsure = (squares / max(samples, 1) - norm).clamp_min(0) / max(samples - 1, 1)
    apart = (mean - simple).square().sum(dim=(1, 2))
    share = torch.where(apart > 0, unsure / apart.clamp_min(1e-30), 1.0).clamp(0, 1)[:, None, None]
    return (1 - share) * mean + share * simple


def _diagonal(matrices: Tensor) -> Tensor:
    found: Tensor = matrices.diagonal(dim1=1, dim2=2)
    return found


def _level(matrices: Tensor) -> Tensor:
    """Multiples of the identity of the same traces."""
    identity = torch.eye(matrices.shape[-1], device=matrices.device)
    return _diagonal(matrices).mean(dim=1)[:, None, None] * identity


def _signs(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, tuple(shape), generator=generator, dtype=torch.float32) * 2 - 1
