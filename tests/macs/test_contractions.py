"""Linear, convolution, matrix products, tensordot and einsum: our count against torch's."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from qpart_fx.macs.einsum import einsum_macs
from qpart_fx.passes.count_macs import uncounted
from tests.macs.oracle import by_torch, one_call, ours

quick = settings(max_examples=60, deadline=None)
sizes = st.integers(1, 4)
r = torch.randn


def test_eq_1_counts_every_row() -> None:
    assert ours(nn.Linear(4, 7), r(2, 3, 4)) == 2 * 3 * 4 * 7
    assert ours(nn.Linear(4, 7, bias=False), r(4)) == 4 * 7
    assert ours(F.linear, r(3, 4), weight=r(5, 4)) == 3 * 4 * 5
    assert ours(F.linear, r(3, 4), r(4)) == 3 * 4


def test_eq_2_counts_output_positions_or_input_positions_where_transposed() -> None:
    x = r(5, 6, 9, 8)
    assert ours(nn.Conv2d(6, 4, (3, 2), stride=2, groups=2), x) == 5 * (6 // 2) * 4 * 3 * 2 * (4 * 4)
    assert ours(nn.ConvTranspose2d(6, 4, (3, 2), stride=2, groups=2), x) == 5 * 6 * (4 // 2) * 3 * 2 * (9 * 8)


def test_convolution_of_one_sample_without_a_batch() -> None:
    assert ours(nn.Conv2d(3, 4, 3), r(3, 6, 7)) == ours(nn.Conv2d(3, 4, 3), r(1, 3, 6, 7)) == 3 * 4 * 9 * 4 * 5


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Any, Tensor]:
    dims, transposed, groups = draw(st.integers(1, 3)), draw(st.booleans()), draw(st.integers(1, 3))
    kind = getattr(nn, f"Conv{'Transpose' if transposed else ''}{dims}d")
    channels, out = groups * draw(sizes), groups * draw(sizes)
    kernel, stride, dilation = (tuple(draw(st.integers(1, 3)) for _ in range(dims)) for _ in range(3))
    padding = tuple(draw(st.integers(0, size - 1)) for size in kernel)
    options = {"dilation": dilation, "groups": groups, "bias": draw(st.booleans())}
    x = r(draw(st.integers(1, 3)), channels, *(draw(st.integers(7, 9)) for _ in range(dims)))
    return kind(channels, out, kernel, stride, padding, **options), x


@quick
@given(convolutions())
def test_convolutions(case: tuple[Any, Tensor]) -> None:
    conv, x = case
    expected = by_torch(conv, x)
    assert ours(conv, x) == expected > 0
    function = getattr(F, type(conv).__name__.lower().replace("transpose", "_transpose"))
    options = {"stride": conv.stride, "padding": conv.padding, "groups": conv.groups, "dilation": conv.dilation}
    assert ours(function, x, conv.weight, **options) == expected
    geometry = conv.stride, conv.padding, conv.dilation, conv.transposed, conv.output_padding, conv.groups
    assert ours(torch.convolution, x, conv.weight, None, *geometry) == expected


@st.composite
def matrix_pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    rows, inner, columns, batch = draw(sizes), draw(sizes), draw(sizes), draw(st.lists(sizes, max_size=3))
    shapes = []
    for matrix, vector in (((rows, inner), (inner,)), ((inner, columns), (inner,))):
        broadcast = [draw(st.sampled_from([1, size])) for size in batch][draw(st.integers(0, len(batch))) :]
        shapes.append(vector if draw(st.integers(0, 3)) == 0 else (*broadcast, *matrix))
    return r(shapes[0]), r(shapes[1])


@quick
@given(matrix_pairs())
def test_matmul_of_any_shapes(pair: tuple[Tensor, Tensor]) -> None:
    left, right = pair
    rows, columns = left[None] if left.dim() == 1 else left, right[:, None] if right.dim() == 1 else right
    batch = np.broadcast_shapes(rows.shape[:-2], columns.shape[:-2])
    matrices = (operand.expand(*batch, *operand.shape[-2:])[None].flatten(0, -3) for operand in (rows, columns))
    expected = by_torch(torch.bmm, *matrices)
    assert expected > 0
    for product in (torch.matmul, operator.matmul, "matmul", torch.linalg.matmul, "__matmul__"):
        assert ours(product, left, right) == expected
    assert ours("__rmatmul__", right, left) == ours("matmul", left, other=right) == expected


PRODUCTS: list[tuple[Callable[..., Any] | str, tuple[Tensor, ...], int]] = [
    (torch.mm, (r(2, 3), r(3, 4)), 24),
    (torch.bmm, (r(5, 2, 3), r(5, 3, 4)), 120),
    (torch.mv, (r(2, 3), r(3)), 6),
    (torch.dot, (r(3), r(3)), 3),
    (torch.vdot, (r(3), r(3)), 3),
    (torch.addmm, (r(4), r(2, 3), r(3, 4)), 24),
    ("addmm_", (r(2, 4), r(2, 3), r(3, 4)), 24),
    (torch.addmv, (r(2), r(2, 3), r(3)), 6),
    (torch.baddbmm, (r(1, 1, 4), r(5, 2, 3), r(5, 3, 4)), 120),
    (torch.addbmm, (r(2, 4), r(5, 2, 3), r(5, 3, 4)), 120),
    (torch.inner, (r(2, 5, 3), r(4, 3)), 2 * 5 * 4 * 3),
    (torch.inner, (r(3), r(3)), 3),
    (torch.inner, (r(3), r(())), 0),
    (torch.linalg.vecdot, (r(2, 5, 3), r(5, 3)), 30),
    (torch.linalg.vecdot, (r(4, 1), r(4, 6)), 24),
    (F.bilinear, (r(2, 6, 3), r(2, 6, 4), r(5, 3, 4)), 12 * 5 * (3 + 1) * 4),
    (nn.Bilinear(3, 4, 5), (r(2, 6, 3), r(2, 6, 4)), 12 * 5 * (3 + 1) * 4),
]
SEEN_BY_TORCH = (torch.mm, torch.bmm, torch.addmm, torch.baddbmm)


@pytest.mark.parametrize(("product", "inputs", "expected"), PRODUCTS)
def test_products(product: Callable[..., Any] | str, inputs: tuple[Tensor, ...], expected: int) -> None:
    assert ours(product, *inputs) == expected
    name = getattr(product, "__name__", "")
    if hasattr(Tensor, name):
        assert ours(name, *inputs) == expected
    if product in SEEN_BY_TORCH:
        assert not isinstance(product, str)
        assert by_torch(product, *inputs) == expected


def test_products_by_the_names_of_their_arguments() -> None:
    assert ours(torch.mm, input=r(2, 3), mat2=r(3, 4)) == 24
    assert ours(torch.addmm, input=r(4), mat1=r(2, 3), mat2=r(3, 4), beta=2) == 24
    assert ours(torch.linalg.vecdot, x=r(4, 2), y=r(4, 2), dim=0) == 8
    assert ours(torch.tensordot, a=r(3, 4), b=r(4, 5), dims=1) == 60


def test_bilinear_is_the_two_products_it_is_made_of() -> None:
    x, y, weight = r(6, 3), r(6, 4), r(5, 3, 4)
    assert ours(F.bilinear, x, y, weight) == by_torch(torch.einsum, "bi,oij,bj->bo", x, weight, y) > 0


@pytest.mark.parametrize(
    ("left", "right", "dims"),
    [
        ((3, 4, 5), (4, 5, 2), 2),
        ((5, 4, 3), (4, 3, 2), 2),
        ((3, 4, 5), (5, 2), 1),
        ((3, 4), (5,), 0),
        ((3, 4, 5), (5, 4, 2), ([2, 1], [0, 1])),
        ((3, 4, 5), (3, 6), ([0], [-2])),
        ((3, 4), (1, 5), ([1], [0])),
        ((3, 1, 2), (4, 2, 5), ([1, 2], [0, 1])),
    ],
)
def test_tensordot(left: tuple[int, ...], right: tuple[int, ...], dims: Any) -> None:
    expected = by_torch(torch.tensordot, r(left), r(right), dims)
    assert ours(torch.tensordot, r(left), r(right), dims) == expected > 0


@st.composite
def einsums(draw: st.DrawFn) -> tuple[str, list[Tensor]]:
    size = {label: draw(sizes) for label in "abcde"}
    hidden = [draw(sizes) for _ in range(draw(st.integers(0, 2)))]
    terms, operands = [], []
    for _ in range(draw(st.integers(1, 4))):
        labels = draw(st.lists(st.sampled_from("abcde"), max_size=4, unique=draw(st.integers(0, 4)) > 0))
        shape = [size[label] for label in labels]
        if len(set(labels)) == len(labels):  # some that broadcast, which a repeated label may not
            shape = [draw(st.sampled_from([length, length, 1])) for length in shape]
        if draw(st.booleans()):
            place = draw(st.integers(0, len(labels)))
            labels[place:place], shape[place:place] = ["..."], hidden[draw(st.integers(0, len(hidden))) :]
        terms.append("".join(labels))
        operands.append(r(tuple(shape)))
    inputs = ",".join(terms)
    if draw(st.booleans()):
        return inputs, operands
    seen = sorted(set(inputs) - set(".,"))
    output = draw(st.permutations(seen))[draw(st.integers(0, len(seen))) :]
    ellipsis = draw(st.sampled_from(["...", ""])) if "..." in inputs else ""
    return f"{inputs} -> {ellipsis}{''.join(output)}", operands


@settings(quick, max_examples=300)
@given(einsums())
def test_einsum_of_any_equation(case: tuple[str, list[Tensor]]) -> None:
    equation, operands = case
    expected = by_torch(torch.einsum, equation, *operands)
    assert einsum_macs(equation, [tuple(operand.shape) for operand in operands]) == expected


@pytest.mark.parametrize(
    ("equation", "shapes", "expected"),
    [
        ("bqhd,bkhd->bhqk", [(2, 3, 4, 5), (2, 6, 4, 5)], 2 * 3 * 4 * 5 * 6),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)], 2 * 3 * 4 + 2 * 4 * 5),
        ("ij,ij->ij", [(2, 3), (2, 3)], 0),
        ("ij,kl->", [(2, 3), (4, 5)], 0),
        ("ii->i", [(4, 4)], 0),
        ("iij,j->i", [(4, 4, 3), (3,)], 12),
        ("...ij,...jk", [(7, 1, 2, 3), (5, 3, 4)], 7 * 5 * 2 * 3 * 4),
    ],
)
def test_einsum(equation: str, shapes: list[tuple[int, ...]], expected: int) -> None:
    operands = [r(shape) for shape in shapes]
    assert by_torch(torch.einsum, equation, *operands) == expected
    assert ours(torch.einsum, equation, *operands) == ours(torch.einsum, equation, operands) == expected


def test_einsum_by_lists_of_labels_is_unknown() -> None:
    graph_module = one_call(torch.einsum, r(2, 3), [0, 1], r(3, 4), [1, 2])
    assert uncounted(graph_module) == {"call": "torch.functional.einsum"}
