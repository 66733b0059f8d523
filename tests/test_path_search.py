"""The search over paths: better than rounding one weight after the other, and the best there is for short rows."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from qpart_fx.diagonal_rounding import rounded_codes
from qpart_fx.path_search import search_codes, searched_codes


def factor_of(columns: int, seed: int) -> Tensor:
    """The upper Cholesky factor of the inverse of a random curvature, shape (1, columns, columns)."""
    mixed = torch.randn(columns // 2 + 1, columns, generator=torch.Generator().manual_seed(seed)).double()
    curvature = mixed.T @ mixed / columns + 0.05 * torch.eye(columns)
    factor: Tensor = torch.linalg.cholesky(torch.linalg.inv(curvature), upper=True)
    return factor.float()[None]


def weight_of(rows: int, columns: int, seed: int) -> Tensor:
    """Shape (2 resolutions, rows, columns)."""
    return 3 * torch.randn(2, rows, columns, generator=torch.Generator().manual_seed(seed + 1000))


def greedy(weight: Tensor, steps: Tensor, factor: Tensor) -> Tensor:
    """Each column to the nearest, its error made up for by those after it."""
    wanted, codes = weight.clone(), torch.empty_like(weight)
    for column in range(weight.shape[2]):
        codes[:, :, column] = (wanted[:, :, column] / steps).round()
        error = wanted[:, :, column] - codes[:, :, column] * steps
        wanted[:, :, column:] -= error[:, :, None] * factor[0, column, column:] / factor[0, column, column]
    return codes


def noise(weight: Tensor, steps: Tensor, codes: Tensor, factor: Tensor) -> Tensor:
    """Of each row in steps, shape (resolutions, rows): the quadratic form of the curvature."""
    error = (weight / steps[:, :, None] - codes).double()
    found: Tensor = torch.linalg.solve_triangular(factor[0].double(), error, upper=True, left=False)
    return found.square().sum(dim=2)


@pytest.mark.parametrize("columns", [40, 64, 65, 200])
def test_a_search_leaves_less_noise_than_rounding_one_weight_after_the_other(columns: int) -> None:
    weight, factor = weight_of(12, columns, 0), factor_of(columns, 0)
    steps = torch.tensor([1.0, 0.25])[:, None].repeat(1, 12)
    most = torch.full((2, 1), 1e4)
    found = noise(weight, steps, search_codes(weight, steps, most, factor, torch.zeros(2, 12)), factor)
    assert float(found.sum()) < 0.92 * float(noise(weight, steps, greedy(weight, steps, factor), factor).sum())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("columns", [1, 2, 3])
def test_short_rows_are_rounded_as_well_as_can_be(columns: int, seed: int) -> None:
    """Up or down each, with the errors of those before it made up for."""
    weight, factor = weight_of(6, columns, seed), factor_of(columns, seed)
    steps, most = torch.ones(2, 6), torch.full((2, 1), 1e4)
    found = noise(weight, steps, search_codes(weight, steps, most, factor, torch.zeros(2, 6)), factor)
    every = []
    for directions in product((torch.floor, torch.ceil), repeat=columns):
        wanted, codes = weight.clone(), torch.empty_like(weight)
        for column, direction in enumerate(directions):
            codes[:, :, column] = direction(wanted[:, :, column])
            error = wanted[:, :, column] - codes[:, :, column]
            wanted[:, :, column:] -= error[:, :, None] * factor[0, column, column:] / factor[0, column, column]
        every.append(noise(weight, steps, codes, factor))
    torch.testing.assert_close(found, torch.stack(every).amin(dim=0), rtol=1e-4, atol=1e-6)


def test_rows_with_a_factor_each_are_those_rounded_by_themselves() -> None:
    weight, factors = weight_of(3, 70, 0), torch.cat([factor_of(70, seed) for seed in range(3)])
    steps, most, drawn = torch.full((2, 3), 0.5), torch.full((2, 1), 7.0), torch.full((2, 3), 0.1)
    together = search_codes(weight, steps, most, factors, drawn)
    for row in range(3):
        one = slice(row, row + 1)
        alone = search_codes(weight[:, one], steps[:, one], most, factors[one], drawn[:, one])
        assert float((together[:, one] != alone).double().mean()) < 0.02  # products of another shape round otherwise


def test_no_code_is_beyond_the_largest() -> None:
    weight, factor = weight_of(4, 80, 0), factor_of(80, 0)
    most = torch.tensor([[1.0], [3.0]])
    codes = search_codes(weight, torch.full((2, 4), 0.5), most, factor, torch.zeros(2, 4))
    assert codes.abs().amax(dim=(1, 2)).tolist() == [1, 3]


def test_magnitudes_are_lowered_only_where_errors_matter_less_than_elsewhere() -> None:
    factor = torch.diag(torch.tensor([1.0, 1.0, 3.0]))[None]  # errors of the last column matter a ninth as much
    weight = torch.tensor([[[0.8, -0.8, 0.8]]])
    codes = search_codes(weight, torch.ones(1, 1), torch.full((1, 1), 7.0), factor, torch.full((1, 1), 0.1))
    assert codes.tolist() == [[[1, -1, 0]]]


@pytest.mark.parametrize("between", [False, True])
def test_a_search_leaves_less_noise_where_rows_make_up_for_each_other_or_not(between: bool) -> None:
    weight = weight_of(24, 48, 0)[0]
    along, rows = factor_of(48, 0), factor_of(24, 1)[0] if between else None
    steps, most = torch.tensor([[1.0], [0.25]]).repeat(1, 24), torch.full((2, 1), 1e4)
    errors = []
    for rounded in (rounded_codes, searched_codes):
        codes = rounded(weight, steps, most, along, rows, 8)
        assert codes.dtype == torch.int16
        error = (weight - codes * steps[:, :, None]).double()
        left = torch.linalg.solve_triangular(along[0].double(), error, upper=True, left=False)
        if rows is not None:
            left = torch.linalg.solve_triangular(rows.double().T, left, upper=False)
        errors.append(float((left / steps[:, :, None]).square().sum()))
    assert errors[1] < 0.97 * errors[0]
