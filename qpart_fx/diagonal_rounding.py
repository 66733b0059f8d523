"""Rounding a matrix weight by weight, each with the errors of those before it made up for: block by block.

A weight's error is taken off those after it in its row, and off those in its column in the groups of rows after its
own. So blocks of a group and some columns, each further to the left than that of the group above it, do not touch each
other: they are rounded together, all of them at several resolutions, from the upper left corner to the lower right.

What comes from the left is the error in a number that was itself changed to make up for others; what comes from above
is all by which a number differs from what the groups above it asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

_BLOCK = 16
"""Columns that are rounded before the others learn of their errors."""

_AT_ONCE = 1 << 21
"""Weights times resolutions that are rounded at once, about: they take 14 bytes each."""


def rounded_codes(
    weight: Tensor, steps: Tensor, most: Tensor, along: Tensor, between: Tensor | None, groups: int
) -> Tensor:
    """Codes at several resolutions, int16 of shape (resolutions, rows, columns).

    Args:
        weight: float32, shape (rows, columns).
        steps: of each row at each resolution, shape (resolutions, rows). most: the largest code at each, likewise.
        along: upper factors of the inverse of the curvature along the columns, shape (1 or rows, columns, columns).
        between: that of the rows; None where they do not make up for each other.
        groups: rows are taken apart into so many at most; those of a group do not make up for each other.
    """
    some = max(1, _AT_ONCE // weight.numel())
    found = [
        _Blocks.of(weight, *pair, along, between, groups if between is not None else 1).rounded()
        for pair in zip(steps.split(some), most.split(some), strict=True)
    ]
    return torch.cat(found)


@dataclass(frozen=True)
class _Blocks:
    """The matrix in ``groups`` of ``size`` rows and blocks of ``width`` columns, what is missing filled up.

    ``wanted``: shape (groups, blocks, width, resolutions, size), the weights with the errors above made up for; of a
    block that is rounded, how far it is from them. ``errors``: as large, of a block that is rounded, how far it is from
    what makes up for the errors to the left as well. ``steps``: (groups, resolutions, size), as ``drawn``, by how much
    of a step magnitudes are lowered where errors matter half as much as elsewhere. ``most``: (resolutions, 1).

    ``takes``: what a column takes of the errors of those before it, (1 or rows, columns, columns). ``excess``: how much
    less its errors matter than others', (1 or rows, columns). ``shares``: what the rows of a group take of the errors
    in a group above, shape (groups, groups above, rows above, rows).
    """

    shape: tuple[int, int]
    wanted: Tensor
    errors: Tensor
    steps: Tensor
    most: Tensor
    drawn: Tensor
    takes: Tensor
    excess: Tensor
    shares: Tensor | None

    @classmethod
    def of(
        cls, weight: Tensor, steps: Tensor, most: Tensor, along: Tensor, between: Tensor | None, groups: int
    ) -> _Blocks:
        rows, columns = weight.shape
        size, width = -(-rows // groups), columns if len(along) > 1 else min(_BLOCK, columns)
        groups, blocks = -(-rows // size), -(-columns // width)
        more_rows, more_columns = groups * size - rows, blocks * width - columns

        def by_group(of_rows: Tensor) -> Tensor:
            full = pad(of_rows, (0, more_rows), value=1.0)
            return full.reshape(-1, groups, size).transpose(0, 1).contiguous()

        full = pad(weight, (0, more_columns, 0, more_rows)).reshape(groups, size, blocks, width)
        diagonal = along.diagonal(dim1=1, dim2=2)
        left = 1 / diagonal.square()  # of each column's errors, once those after it have made up for them
        excess = (left.mean(dim=1, keepdim=True) / left - 1).clamp_min(0)
        more_alone = more_rows if len(along) > 1 else 0
        wanted = full.permute(0, 2, 3, 1)[:, :, :, None].repeat(1, 1, 1, len(steps), 1)
        return cls(
            shape=(rows, columns),
            wanted=wanted,
            errors=torch.empty_like(wanted),
            steps=by_group(steps),
            most=most,
            drawn=by_group(drawn_to_zero(weight, steps)),
            takes=pad(along / diagonal[:, :, None], (0, more_columns, 0, more_columns, 0, more_alone)),
            excess=pad(excess, (0, more_columns, 0, more_alone)),
            shares=None if between is None else _shares(between, groups, size),
        )

    def rounded(self) -> Tensor:
        """The codes of all."""
        groups, blocks, width, resolutions, size = self.wanted.shape
        codes = torch.empty(self.wanted.shape, dtype=torch.int16)
        for diagonal in range(groups + blocks - 1):
            reached = range(max(0, diagonal - blocks + 1), min(groups, diagonal + 1))
            values = [self._made_up(group, diagonal - group) for group in reached]
            of_groups = torch.tensor(reached)
            of_blocks = diagonal - of_groups
            codes[of_groups, of_blocks] = self._round(torch.stack(values, dim=1), of_groups, of_blocks)
        rows, columns = self.shape
        return codes.permute(3, 0, 4, 1, 2).reshape(resolutions, groups * size, blocks * width)[:, :rows, :columns]

    def _made_up(self, group: int, block: int) -> Tensor:
        """A block with the errors in those above and to the left made up for, shape (width, resolutions, size)."""
        wanted = self.wanted[group, block]
        width = len(wanted)
        if group and self.shares is not None:
            above = self.wanted[:group, block].flatten(1, 2)
            wanted.flatten(0, 1).addbmm_(above, self.shares[group, :group], alpha=-1)
        if not block:
            return wanted
        start, end = block * width, (block + 1) * width
        errors = self.errors[group, :block].view(start, -1)
        return wanted.view(width, -1).addmm(self.takes[0, :start, start:end].T, errors, alpha=-1).view_as(wanted)

    def _round(self, value: Tensor, groups: Tensor, blocks: Tensor) -> Tensor:
        """The codes of some blocks, shape (blocks, width, resolutions, size); each column's errors are made up for by
        those after it.

        Args:
            value: what to round, shape (width, blocks, resolutions, size).
        """
        width, size = len(value), value.shape[3]
        if len(self.takes) > 1:
            takes = self.takes.reshape(-1, size, width, width)[groups]
            excess = self.excess.reshape(-1, size, width)[groups]
        else:
            starts = torch.arange(0, self.excess.shape[1], width)
            inside = (starts[:, None] + torch.arange(width))[blocks]
            takes = self.takes[0, inside[:, :, None], inside[:, None, :]][:, None]
            excess = self.excess[0, inside][:, None]
        takes = takes.permute(2, 3, 0, 1)[:, :, :, None].contiguous()
        steps, codes = self.steps[groups], torch.empty_like(value)
        drawn = self.drawn[groups] * excess.permute(2, 0, 1)[:, :, None]
        least = -drawn
        for column in range(width):
            scaled = value[column] / steps
            lowered = torch.sub(scaled, scaled.clamp(least[column], drawn[column]), out=codes[column])
            code = lowered.round_().clamp_(-self.most, self.most)
            value[column].addcmul_(code, steps, value=-1)
            value[column + 1 :].addcmul_(takes[column, column + 1 :], value[column], value=-1)
        self.errors[groups, blocks] = value.transpose(0, 1)
        self.wanted[groups, blocks] -= (codes * steps).transpose(0, 1)
        return codes.transpose(0, 1).to(torch.int16)


def _shares(factor: Tensor, groups: int, size: int) -> Tensor:
    """What each row takes of the errors in the groups above its own, as :class:`_Blocks` keeps it."""
    shares = torch.zeros(groups * size, groups * size)
    for start in range(0, len(factor), size):
        end = min(start + size, len(factor))
        group, after = slice(start, end), slice(end, len(factor))
        shares[group, after] = torch.linalg.solve_triangular(factor[group, group], factor[group, after], upper=True)
    return shares.reshape(groups, size, groups, size).permute(2, 0, 1, 3).contiguous()


def drawn_to_zero(weight: Tensor, steps: Tensor) -> Tensor:
    """By how much of a step magnitudes are lowered before rounding, where errors matter half as much as elsewhere.

    A magnitude of k takes -k log2(t) bits by a Laplace model p(k) ~ t**|k|. Where noise costs 6 dB a bit, the k that is
    best for both is the nearest to a magnitude lowered by that slope. Shape (resolutions, rows).
    """
    mean = (weight.abs().mean(dim=1) / steps).clamp(1e-3, 1e3)
    slope = -((mean.square() + 1).sqrt() - 1).div(mean).log2()
    return math.log(2) / 12 * slope
