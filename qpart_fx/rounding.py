"""How weights become numbers of a few bits: the paper's rounding, and one that makes up for its own errors.

Both are a :class:`Rounding`: whatever profiles, lowers or packs asks it for the weight as it will be, and for the
quantizer that it lies on the grid of. The paper's is :class:`NearestRounding`. :class:`CompensatedRounding` has one
step a channel, chosen for an entropy coder: the step sets the bytes, the width hardly does, so that nothing is clipped,
and the best steps make the same noise with every weight (reverse water-filling: step_c ~ 1 / sqrt(S_c), S_c what
errors in channel c do to the output). It then rounds a channel's weights one after the other, each with the errors of
those before it made up for in so far as the output answers to both alike (GPTQ, Frantar et al., arXiv:2210.17323, which
is Babai's nearest plane); and what is left of some channels' errors is made up for by the channels after them (as by
YAQA, Tseng et al., arXiv:2505.22988, group by group). It needs a :class:`Curvature` of each weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

from .diagonal_rounding import rounded_codes
from .noise import WIDTHS
from .path_search import searched_codes
from .quantizer import STEPS_PER_OCTAVE, ChannelQuantizer, UniformQuantizer, WeightQuantizer
from .resolution import LARGEST_WIDTH, RESOLUTIONS, width_of

_COARSE = 4
"""Below so many bits most weights are zero, and errors are as large as what they are made in."""

_DAMPING, _COARSE_DAMPING = 0.05, 0.5
"""Added to the curvature's diagonal, as a share of its mean: it is of the float network, and errors elsewhere change
it. More is where layers are coarse: what comes into them is far from what it was, and errors that made up for each
other no longer do. With as little damping, an MLP of such layers makes two to five times the noise that they make one
by one."""

_LARGEST = 2.0
"""Unless it is coarse, no step is larger than so many times its channel's largest weight: such a channel is all zero,
but for errors that it makes up for. Below, all steps grow alike."""

_GROUPS = 16
"""Into so many groups channels are taken apart; those of a group do not make up for each other."""

_RELIED_ON = 0.5
"""How much of a correlation between channels is relied on. Which channels answer alike depends on the sample, by which
rectifiers are open, and so on the very inputs that their curvature along the columns is taken over: what holds for both
apart holds for both together in part. All of it would cost a ResNet's last layers a third of a bit, half costs none."""

_COMPENSATED = 10
"""Up to this resolution errors are made up for; beyond, they are too small to matter."""


RoundCodes = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None, int], Tensor]
"""As of :func:`~qpart_fx.diagonal_rounding.rounded_codes`."""


class Rounding(Protocol):
    """What stands for a weight at each of ``resolutions``."""

    @property
    def resolutions(self) -> tuple[float, ...]:
        """Those that weights can be rounded to, rising; all of :data:`~qpart_fx.noise.WIDTHS` are among them."""

    @property
    def largest_width(self) -> int:
        """No code of a weight is wider."""

    def quantizer(self, name: str, weight: Tensor, resolution: float) -> WeightQuantizer:
        """The quantizer of the weight ``name``, whose float values are ``weight``, at a resolution."""

    def rounded(self, name: str, weight: Tensor, resolution: float) -> Tensor:
        """The weight as its device has it: on the quantizer's grid, shape and dtype of ``weight``."""


@dataclass(frozen=True)
class NearestRounding:
    """The paper's: one step a tensor, each weight to the nearest number (eqs. 9, 10). Its steps fill a width, and so
    resolutions are widths."""

    @property
    def resolutions(self) -> tuple[float, ...]:
        return tuple(map(float, WIDTHS))

    @property
    def largest_width(self) -> int:
        return LARGEST_WIDTH

    def quantizer(self, name: str, weight: Tensor, resolution: float) -> WeightQuantizer:
        return UniformQuantizer.of_tensor(weight, width_of(resolution))

    def rounded(self, name: str, weight: Tensor, resolution: float) -> Tensor:
        return self.quantizer(name, weight, resolution)(weight)


NEAREST = NearestRounding()


@dataclass(frozen=True)
class Curvature:
    """How the scores answer to errors in a weight of ``rows`` channels, along its first dimension, of n weights each.

    ``channels``: the mean squared norm of the Jacobian of the scores in each channel, shape (rows,). ``columns``: for
    runs of columns, one after the other, the second moment of the gradient over the columns, shape (1, length,
    length), or of each channel by itself, (rows, length, length). ``rows``: the same over the rows, shape (length,
    length); none where channels are not to make up for each other. Of both only the shape counts, not the size.
    """

    channels: Tensor
    columns: tuple[Tensor, ...]
    rows: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class CompensatedRounding:
    """Rounds by ``codes`` and steps that were worked out before, for every weight by name.

    ``exponents``: of the steps at each of ``RESOLUTIONS``, in eighths of an octave, int16 of shape (resolutions,
    channels). ``codes``: at those whose errors are made up for, the first, int16 of shape (resolutions, channels, n).
    ``largest_width``: steps are no finer than codes of this width allow.
    """

    exponents: Mapping[str, Tensor] = field(repr=False)
    codes: Mapping[str, Tensor] = field(repr=False)
    largest_width: int = LARGEST_WIDTH

    @property
    def resolutions(self) -> tuple[float, ...]:
        return RESOLUTIONS

    def quantizer(self, name: str, weight: Tensor, resolution: float) -> WeightQuantizer:
        if name not in self.exponents:
            return NEAREST.quantizer(name, weight, resolution)
        return ChannelQuantizer(
            width_of(resolution, self.largest_width), self.exponents[name][RESOLUTIONS.index(resolution)]
        )

    def rounded(self, name: str, weight: Tensor, resolution: float) -> Tensor:
        quantizer, place = self.quantizer(name, weight, resolution), RESOLUTIONS.index(resolution)
        if not isinstance(quantizer, ChannelQuantizer) or place >= len(self.codes[name]):
            return quantizer(weight)
        codes = self.codes[name][place].to(weight.device).reshape(weight.shape)
        return quantizer.decode(codes, weight.dtype)

    @classmethod
    def of(
        cls,
        weights: Mapping[str, Tensor],
        curvatures: Mapping[str, Curvature],
        largest_width: int = LARGEST_WIDTH,
        *,
        search: bool = False,
    ) -> CompensatedRounding:
        """Round ``weights`` at every resolution. One without a curvature is rounded as the paper does.

        Args:
            search: over several ways to round each row, which takes several times as long.
        """
        exponents: dict[str, Tensor] = {}
        codes: dict[str, Tensor] = {}
        for name, curvature in curvatures.items():
            weight = weights[name].detach().reshape(len(weights[name]), -1).float().cpu()
            if weight.numel():
                exponents[name], codes[name] = _compensated(
                    weight, curvature, largest_width, searched_codes if search else rounded_codes
                )
        return cls(exponents, codes, largest_width)


def _compensated(
    weight: Tensor, curvature: Curvature, largest_width: int, rounded: RoundCodes
) -> tuple[Tensor, Tensor]:
    """Exponents and codes of one weight, shape (rows, n)."""
    columns, rows = _factors(curvature, _DAMPING)
    # What is left of each weight's error once those after it have made up for it, as a share of the whole.
    left = torch.cat([1 / _diagonal(factor).square() for factor in columns], dim=1).mean(dim=1)
    if rows:
        left = left * torch.cat([_left_of_rows(factor) for factor in rows])
    exponents = _exponents(weight, curvature.channels.float().cpu() * left, largest_width)
    coarse = sum(resolution < _COARSE for resolution in RESOLUTIONS)
    capped = largest_width < LARGEST_WIDTH  # errors never are too small to matter then
    compensated = sum(capped or resolution <= _COMPENSATED for resolution in RESOLUTIONS)
    most = torch.tensor([2.0 ** (width_of(resolution, largest_width) - 1) - 1 for resolution in RESOLUTIONS])
    codes = [
        _codes(rounded, weight, exponents[:coarse], most[:coarse], *_factors(curvature, _COARSE_DAMPING)),
        _codes(rounded, weight, exponents[coarse:compensated], most[coarse:compensated], columns, rows),
    ]
    return exponents, torch.cat(codes)


def _factors(curvature: Curvature, damping: float) -> tuple[list[Tensor], list[Tensor]]:
    """Of the columns and of the rows."""
    columns = [_factor(_level(block), damping) for block in curvature.columns]
    return columns, [_factor(_correlation(block)[None], damping)[0] for block in curvature.rows]


def _codes(
    rounded: RoundCodes, weight: Tensor, exponents: Tensor, most: Tensor, columns: list[Tensor], rows: list[Tensor]
) -> Tensor:
    """At some resolutions, int16 of shape (resolutions, rows, n), by the factors of the curvature.

    Args:
        most: the largest code at each.
    """
    steps = ChannelQuantizer.steps_of(exponents)  # (resolutions, rows)
    codes = torch.empty(len(steps), *weight.shape, dtype=torch.int16)
    apart: list[Tensor | None] = [*rows] or [None]
    for run, along in zip(_runs([factor.shape[-1] for factor in columns]), columns, strict=True):
        for here, between in zip(_runs([len(each) for each in rows] or [len(weight)]), apart, strict=True):
            codes[:, here, run] = rounded(
                weight[here, run], steps[:, here], most[:, None], _of(along, here), between, _GROUPS
            )
    return codes


def _runs(lengths: Sequence[int]) -> list[slice]:
    """One after the other."""
    return [slice(end - length, end) for end, length in zip(accumulate(lengths), lengths, strict=True)]


def _groups(rows: int) -> list[slice]:
    size = -(-rows // _GROUPS)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _left_of_rows(factor: Tensor) -> Tensor:
    """What is left of each row's error once the groups after its own have made up for it, as a share; (rows,)."""
    inverses = [torch.linalg.inv(factor[group, group].double()) for group in _groups(len(factor))]
    return torch.cat([inverse.square().sum(dim=1) for inverse in inverses]).float()


def _level(block: Tensor) -> Tensor:
    """Curvatures of mean diagonal 1, float64."""
    curvature = block.double().cpu()
    mean = _diagonal(curvature).mean(dim=1)[:, None, None]
    return torch.where(mean > 0, curvature / mean.clamp_min(1e-300), 0.0)


def _correlation(block: Tensor) -> Tensor:
    """A curvature between rows as if all mattered alike, which is the steps' concern; as far as it is relied on."""
    curvature = block.double().cpu()
    reached = curvature.diagonal() > 0
    scale = torch.where(reached, curvature.diagonal().clamp_min(1e-300).rsqrt(), 0.0)
    return _RELIED_ON * curvature * scale * scale[:, None] + (1 - _RELIED_ON) * torch.diag(reached.double())


def _factor(curvature: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factors of the inverses of damped curvatures of mean diagonal 1, float32."""
    curvature = (curvature + damping * torch.eye(curvature.shape[-1], dtype=torch.float64)) / (1 + damping)
    factor: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(curvature)), upper=True)
    return factor.float()


def _diagonal(matrices: Tensor) -> Tensor:
    found: Tensor = matrices.diagonal(dim1=1, dim2=2)
    return found


def _of(factor: Tensor, rows: slice) -> Tensor:
    """That of some rows, where each has its own."""
    return factor[rows] if len(factor) > 1 else factor


def _exponents(weight: Tensor, sensitivity: Tensor, largest_width: int) -> Tensor:
    """Of each channel's step at each of ``RESOLUTIONS``: halved with every bit; at 2 bits, none clips its channel."""
    largest = weight.abs().amax(dim=1).double()
    known = sensitivity.double()
    least = known.amax() * 1e-12  # what no gradient reached may err by much, not by infinitely much
    relative = known.clamp_min(least if least > 0 else 1.0).rsqrt()
    widest = (largest / relative).amax() / 1.5 if largest.any() else torch.tensor(1.0, dtype=torch.float64)
    bits = torch.tensor(RESOLUTIONS, dtype=torch.float64)[:, None]
    most = _LARGEST * largest * 2 ** (_COARSE - bits).clamp_min(0)
    # Wide codes are asked for when next to no noise is allowed: they are fine in every channel, whatever it costs.
    most = most * 2 ** (-3 * (bits - _COMPENSATED - 1).clamp_min(0))
    steps = torch.minimum(widest * relative * 2 ** (2 - bits), most)
    if largest_width < LARGEST_WIDTH:
        steps = torch.maximum(steps, largest / (2 ** (largest_width - 1) - 1))
    octaves = torch.where(steps > 0, steps, 1.0).log2()
    return (octaves * STEPS_PER_OCTAVE).ceil().clamp(-126 * STEPS_PER_OCTAVE, 126 * STEPS_PER_OCTAVE).to(torch.int16)
