"""Codes of a row of weights, the errors of each made up for by those after it, by a search over several paths.

To round to the nearest and let later weights make up for the error is greedy (Babai's nearest plane, as of GPTQ): now
and then the second nearest leaves the later ones a better place. So each row keeps the best few of its paths so far (an
M-algorithm, Anderson and Mohan, IEEE Transactions on Communications 32, 1984), each with its own errors made up for,
and the best of them is decided upon once a block of columns is done. Of a ResNet's layers, that takes a tenth of a bit
a weight off at the same error, whatever the step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .diagonal_rounding import drawn_to_zero

_PATHS = 8
"""Half as many gain a fifth less, twice as many a tenth more."""

_BLOCK = 64
"""Columns that are decided upon together, before the others learn of their errors."""


def searched_codes(
    weight: Tensor, steps: Tensor, most: Tensor, along: Tensor, between: Tensor | None, groups: int
) -> Tensor:
    """Codes at several resolutions, int16 of shape (resolutions, rows, columns); all as of
    :func:`~qpart_fx.diagonal_rounding.rounded_codes`."""
    wanted, drawn = weight[None].repeat(len(steps), 1, 1), drawn_to_zero(weight, steps)
    codes = torch.empty_like(wanted)
    size = len(weight) if between is None else -(-len(weight) // groups)
    for start in range(0, len(weight), size):
        here, after = slice(start, start + size), slice(start + size, None)
        own = along[here] if len(along) > 1 else along
        codes[:, here] = search_codes(wanted[:, here], steps[:, here], most, own, drawn[:, here])
        if between is not None:
            shares = torch.linalg.solve_triangular(between[here, here], between[here, after], upper=True)
            wanted[:, after] -= shares.T @ (wanted[:, here] - codes[:, here] * steps[:, here, None])
    return codes.to(torch.int16)


def search_codes(weight: Tensor, steps: Tensor, most: Tensor, factor: Tensor, drawn: Tensor) -> Tensor:
    """Codes of the shape (resolutions, rows, columns), whole numbers as floats.

    Args:
        steps: (resolutions, rows). most: the largest code, (resolutions, 1).
        factor: upper triangular, what each column's error adds to those after it; (1 or rows, columns, columns).
        drawn: by how much magnitudes are lowered, in steps, where errors matter half as much as elsewhere; of the shape
            of ``steps``.
    """
    wanted, codes = weight.clone(), torch.empty_like(weight)
    matters = factor.diagonal(dim1=1, dim2=2).square().reciprocal()  # what is left of each column's errors
    less = (matters.mean(dim=1, keepdim=True) / matters - 1).clamp_min(0)  # how much less than others' they matter
    lowered = drawn[:, :, None] * less
    for start in range(0, weight.shape[2], _BLOCK):
        here, after = slice(start, start + _BLOCK), slice(start + _BLOCK, None)
        codes[:, :, here] = _search_block(
            wanted[:, :, here], steps, most, factor[:, here, here], matters[:, here], lowered[:, :, here]
        )
        if start + _BLOCK < weight.shape[2]:
            error = wanted[:, :, here] - codes[:, :, here] * steps[:, :, None]
            shares = torch.linalg.solve_triangular(factor[:, here, here], factor[:, here, after], upper=True)
            # as one product for all rows where they have one factor
            wanted[:, :, after] -= (
                error @ shares[0] if len(shares) == 1 else torch.einsum("wrb,rbc->wrc", error, shares)
            )
    return codes


def _search_block(
    wanted: Tensor, steps: Tensor, most: Tensor, factor: Tensor, matters: Tensor, lowered: Tensor
) -> Tensor:
    """Codes of one block. ``lowered``: by how much each column's magnitudes are, of the shape of ``wanted``."""
    sizes = wanted.shape[:2]
    rows = torch.arange(sizes.numel()).reshape(*sizes, 1)
    step, most = steps[:, :, None], most[:, :, None]
    # Of every path, columns that are done hold its codes, and the others what is wanted of them.
    paths, cost = wanted[:, :, None], torch.zeros(*sizes, 1)
    for column in range(wanted.shape[2]):
        scaled = paths[..., column] / step
        size, lower = scaled.abs(), lowered[:, :, column, None]
        below = (size - lower).clamp_min(0).floor().minimum(most)
        choices = torch.cat([below, below + 1], dim=2)
        # (size - lower - choice)**2, but for what depends on the size alone, where nothing is clipped
        added = (torch.cat([size, size], dim=2) - choices).square() + 2 * lower * choices
        added = torch.where(choices > most, torch.inf, added * matters[:, column, None])
        count = cost.shape[2]
        cost, kept = (torch.cat([cost, cost], dim=2) + added).topk(min(_PATHS, 2 * count), dim=2, largest=False)
        origin = kept % count
        code = choices.gather(2, kept).copysign(scaled.gather(2, origin))
        paths = paths.reshape(-1, wanted.shape[2])[origin + rows * count]
        error = (paths[..., column] - code * step) / factor[:, column, column, None]
        paths[..., column + 1 :] -= error[..., None] * factor[:, None, column, column + 1 :]
        paths[..., column] = code
    best = cost.argmin(dim=2, keepdim=True)[..., None]
    return paths.gather(2, best.expand(-1, -1, 1, wanted.shape[2]))[:, :, 0]
