"""Rounding by diagonals of blocks gives what rounding one weight after the other gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import qpart_fx.diagonal_rounding as module
from qpart_fx.diagonal_rounding import rounded_codes


def factor_of(size: int, count: int, seed: int) -> Tensor:
    """Upper factors of the inverses of curvatures of correlated numbers, shape (count, size, size)."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(count, size, size, generator=generator, dtype=torch.float64)
    curvature = mixed @ mixed.mT / size + 0.2 * torch.eye(size)
    factor: Tensor = torch.linalg.cholesky(torch.linalg.inv(curvature), upper=True)
    return factor.float()


def one_by_one(weight: Tensor, steps: Tensor, most: Tensor, along: Tensor, between: Tensor, size: int) -> Tensor:
    """Codes of one resolution, with steps of shape (rows,), groups of ``size`` rows; all in plain loops."""
    rows, columns = weight.shape
    drawn = module.drawn_to_zero(weight, steps[None])[0].double()
    weight, steps, along, between = weight.double(), steps.double(), along.double(), between.double()
    wanted, codes = weight.clone(), torch.zeros(rows, columns, dtype=torch.float64)
    for start in range(0, rows, size):
        end = min(start + size, rows)
        for row in range(start, end):
            factor, value = along[row % len(along)], wanted[row].clone()
            left = 1 / factor.diagonal().square()
            excess = (left.mean() / left - 1).clamp_min(0)
            for column in range(columns):
                scaled = value[column] / steps[row]
                magnitude = (scaled.abs() - drawn[row] * excess[column]).clamp_min(0)
                codes[row, column] = magnitude.round().clamp_max(most).copysign(scaled)
                error = (value[column] - codes[row, column] * steps[row]) / factor[column, column]
                value[column + 1 :] -= error * factor[column, column + 1 :]
        error = wanted[start:end] - codes[start:end] * steps[start:end, None]
        shares = torch.linalg.solve(between[start:end, start:end], between[start:end, end:]).T
        wanted[end:] -= shares @ error
    return codes.to(torch.int16)


@pytest.mark.parametrize("together", [1, 1 << 20])
@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize(("rows", "columns", "groups"), [(1, 1, 4), (7, 5, 3), (12, 50, 4), (33, 32, 16), (5, 40, 16)])
def test_it_is_rounding_one_weight_after_the_other(
    rows: int, columns: int, groups: int, alone: bool, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", together)
    generator = torch.Generator().manual_seed(rows + columns)
    weight = torch.randn(rows, columns, generator=generator)
    steps = 0.2 * torch.rand(3, rows, generator=generator) + torch.tensor([0.9, 0.4, 0.1])[:, None]
    most = torch.tensor([1.0, 3.0, 127.0])[:, None]
    along, between = factor_of(columns, rows if alone else 1, seed=1), factor_of(rows, 1, seed=2)[0]
    found = rounded_codes(weight, steps, most, along, between, groups)
    size = -(-rows // groups)
    for place in range(3):
        expected = one_by_one(weight, steps[place], most[place], along, between, size)
        assert torch.equal(found[place], expected)


def test_rows_that_do_not_make_up_for_each_other_are_rounded_apart() -> None:
    weight, along = torch.randn(9, 40, generator=torch.Generator().manual_seed(0)), factor_of(40, 1, seed=1)
    steps, most = torch.full((1, 9), 0.3), torch.tensor([[7.0]])
    together = rounded_codes(weight, steps, most, along, None, 16)
    alone = [rounded_codes(weight[row : row + 1], steps[:, :1], most, along, None, 16) for row in range(9)]
    assert torch.equal(together, torch.cat(alone, dim=1))
