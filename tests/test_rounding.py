"""Compensated rounding: within its width, on its grid, with less noise than rounding to nearest on the same grid."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qpart_fx.quantizer import STEPS_PER_OCTAVE, ChannelQuantizer, UniformQuantizer
from qpart_fx.resolution import RESOLUTIONS, width_of
from qpart_fx.rounding import CompensatedRounding, Curvature, NearestRounding

WITH_CODES = [bits for bits in RESOLUTIONS if bits <= 10]


def random_weight(rows: int, columns: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scales = torch.exp(torch.randn(rows, 1, generator=generator))
    return torch.randn(rows, columns, generator=generator) * scales


def random_curvature(rows: int, columns: int, seed: int = 0, *, alone: bool = False) -> Curvature:
    """Of correlated columns: some directions count much more than others."""
    generator = torch.Generator().manual_seed(seed + 1000)
    blocks = []
    for _ in range(rows if alone else 1):
        mixed = torch.randn(max(columns // 3, 1), columns, generator=generator)
        drift = torch.linspace(0, 1, columns).exp()
        blocks.append((mixed * drift).T @ (mixed * drift) + 0.1 * torch.eye(columns))
    channels = torch.exp(torch.randn(rows, generator=generator))
    return Curvature(channels, (torch.stack(blocks),))


def rounding_of(weight: Tensor, curvature: Curvature) -> CompensatedRounding:
    return CompensatedRounding.of({"w": weight}, {"w": curvature})


def noise(error: Tensor, curvature: Curvature) -> float:
    """The curvature's own quadratic form, summed over rows."""
    total, start = 0.0, 0
    rows = error.reshape(len(error), -1).double()
    for block in curvature.columns:
        part = rows[:, start : start + block.shape[-1]]
        start += block.shape[-1]
        total += float(torch.einsum("rc,rcd,rd->", part, block.double().expand(len(rows), -1, -1), part))
    return total


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 90), st.integers(0, 1000), st.booleans())
def test_codes_are_within_their_width_and_what_is_rounded_lies_on_the_grid(
    rows: int, columns: int, seed: int, alone: bool
) -> None:
    weight = random_weight(rows, columns, seed)
    rounding = rounding_of(weight, random_curvature(rows, columns, seed, alone=alone))
    assert rounding.codes["w"].shape == (len(WITH_CODES), rows, columns)
    for bits in RESOLUTIONS:
        quantizer = rounding.quantizer("w", weight, bits)
        assert isinstance(quantizer, ChannelQuantizer)
        rounded = rounding.rounded("w", weight, bits)
        assert (rounded.shape, rounded.dtype) == (weight.shape, weight.dtype)
        codes = quantizer.encode(rounded)
        assert float(codes.abs().max()) <= 2 ** (width_of(bits) - 1) - 1
        assert torch.equal(quantizer.decode(codes), rounded)
        if bits in WITH_CODES:
            assert torch.equal(codes.to(torch.int16), rounding.codes["w"][RESOLUTIONS.index(bits)])


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 40), st.integers(0, 1000))
def test_a_step_falls_by_an_octave_a_bit_unless_it_is_larger_than_the_channel_needs(
    rows: int, columns: int, seed: int
) -> None:
    weight = random_weight(rows, columns, seed)
    exponents = rounding_of(weight, random_curvature(rows, columns, seed)).exponents["w"].int()
    assert exponents.shape == (len(RESOLUTIONS), rows)
    falls = exponents[:-1] - exponents[1:]
    assert bool((falls >= 0).all())
    steps = ChannelQuantizer.steps_of(exponents.to(torch.int16))
    bound = steps[:-1] >= 2 * weight.abs().amax(dim=1)  # all of the channel is zero, or was until now
    narrow = torch.tensor([bits < 11 for bits in RESOLUTIONS[:-1]])[:, None]
    octaves = (torch.tensor(RESOLUTIONS).diff() * STEPS_PER_OCTAVE)[:, None]
    assert bool((falls == octaves)[narrow & ~bound].all())
    assert bool((falls >= octaves)[~bound].all())


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("columns", [16, 30, 64, 65, 200])
def test_its_noise_is_below_that_of_rounding_to_nearest_with_the_same_steps(columns: int, alone: bool) -> None:
    for bits in [bits for bits in WITH_CODES if bits >= 4]:
        ours = nearest = 0.0
        for seed in range(6):
            weight, curvature = random_weight(16, columns, seed), random_curvature(16, columns, seed, alone=alone)
            rounding = rounding_of(weight, curvature)
            ours += noise(rounding.rounded("w", weight, bits) - weight, curvature)
            nearest += noise(rounding.quantizer("w", weight, bits)(weight) - weight, curvature)
        assert ours < 0.9 * nearest


def of_pairs(error: Tensor, curvature: Curvature) -> float:
    """The quadratic form of rows and columns together, the Kronecker product of their curvatures."""
    rows, columns = torch.block_diag(*curvature.rows).double(), torch.block_diag(*(one[0] for one in curvature.columns))
    return float(((rows @ error.double()) * (error.double() @ columns.double())).sum())


def correlated_rows(rows: int, seed: int) -> Tensor:
    """All answer to much the same few directions, and to different extents."""
    mixed = torch.randn(max(rows // 4, 1), rows, generator=torch.Generator().manual_seed(seed + 2000))
    mixed = mixed * torch.linspace(-1, 1, rows).exp()
    return mixed.T @ mixed + 0.1 * torch.eye(rows)


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize("rows", [16, 50])
def test_channels_make_up_for_each_other(rows: int, runs: int) -> None:
    """At the same steps: those for channels by themselves are other ones."""
    for bits in [bits for bits in WITH_CODES if bits >= 4]:
        ours = nearest = 0.0
        for seed in range(6):
            weight = random_weight(rows * runs, 40, seed)
            between = tuple(correlated_rows(rows, seed + run) for run in range(runs))
            curvature = Curvature(torch.block_diag(*between).diagonal(), (torch.eye(40)[None],), between)
            rounding = rounding_of(weight, curvature)
            ours += of_pairs(rounding.rounded("w", weight, bits) - weight, curvature)
            nearest += of_pairs(rounding.quantizer("w", weight, bits)(weight) - weight, curvature)
        assert ours < 0.95 * nearest


def test_channels_that_answer_apart_are_rounded_by_themselves() -> None:
    weight, curvature = random_weight(40, 30), random_curvature(40, 30)
    alone = rounding_of(weight, curvature)
    apart = rounding_of(weight, Curvature(curvature.channels, curvature.columns, (torch.diag(curvature.channels),)))
    assert torch.equal(alone.exponents["w"], apart.exponents["w"])
    assert torch.equal(alone.codes["w"], apart.codes["w"])


def test_without_correlations_it_is_rounding_to_nearest() -> None:
    weight = random_weight(5, 40)
    rounding = rounding_of(weight, Curvature(torch.ones(5), (torch.eye(40)[None],)))
    for bits in RESOLUTIONS:
        assert torch.equal(rounding.rounded("w", weight, bits), rounding.quantizer("w", weight, bits)(weight))


def test_only_the_shape_of_the_curvature_counts() -> None:
    weight, curvature = random_weight(6, 30), random_curvature(6, 30)
    rows = correlated_rows(6, 0)
    first = rounding_of(weight, Curvature(curvature.channels, curvature.columns, (rows,)))
    columns = tuple(block * 2.0**30 for block in curvature.columns)
    scaled = Curvature(curvature.channels * 2.0**-40, columns, (rows * 2.0**20,))
    second = rounding_of(weight, scaled)
    assert torch.equal(first.exponents["w"], second.exponents["w"])
    assert torch.equal(first.codes["w"], second.codes["w"])


def test_blocks_of_columns_are_rounded_one_by_one() -> None:
    """A row in two pieces is two weights of half as many columns."""
    weight = random_weight(4, 50)
    left, right = random_curvature(4, 30, 1).columns[0], random_curvature(4, 20, 2).columns[0]
    rounding = rounding_of(weight, Curvature(torch.ones(4), (left, right)))
    joined = torch.block_diag(left[0] / left[0].diagonal().mean(), right[0] / right[0].diagonal().mean())
    whole = rounding_of(weight, Curvature(torch.ones(4), (joined[None],)))
    assert torch.equal(rounding.exponents["w"], whole.exponents["w"])
    assert float((rounding.codes["w"] != whole.codes["w"]).double().mean()) < 0.05  # rounded in another order


def test_channels_that_matter_more_have_smaller_steps() -> None:
    """Steps go by one over the root of the sensitivity: 16 times the sensitivity, two octaves."""
    torch.manual_seed(0)
    weight = torch.rand(2, 50) + 1
    exponents = rounding_of(weight, Curvature(torch.tensor([1.0, 16.0]), (torch.eye(50)[None],))).exponents["w"].int()
    at = RESOLUTIONS.index(8)
    assert abs(int(exponents[at, 0] - exponents[at, 1]) - 2 * STEPS_PER_OCTAVE) <= 1


def test_the_finest_steps_leave_an_error_of_a_few_thousandths_at_most() -> None:
    weight = random_weight(8, 60)
    rounded = rounding_of(weight, random_curvature(8, 60)).rounded("w", weight, 16)
    largest = weight.abs().amax(dim=1, keepdim=True)
    assert float(((rounded - weight).abs() / largest).max()) < 2.0**-12


@pytest.mark.parametrize("sensitivity", [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1e-30, 1.0, 1e30], [1e38, 1e-38, 0.0]])
def test_rows_without_sensitivity_are_rounded_to_something_finite(sensitivity: list[float]) -> None:
    weight = random_weight(3, 20)
    rounding = rounding_of(weight, Curvature(torch.tensor(sensitivity), random_curvature(3, 20).columns))
    for bits in RESOLUTIONS:
        rounded = rounding.rounded("w", weight, bits)
        assert torch.isfinite(rounded).all()
        assert float(rounding.quantizer("w", weight, bits).encode(rounded).abs().max()) <= 2 ** (width_of(bits) - 1) - 1


def test_a_curvature_of_zero_is_rounding_to_nearest() -> None:
    weight = random_weight(3, 20)
    rounding = rounding_of(weight, Curvature(torch.zeros(3), (torch.zeros(1, 20, 20),)))
    for bits in RESOLUTIONS:
        assert torch.equal(rounding.rounded("w", weight, bits), rounding.quantizer("w", weight, bits)(weight))


def test_rows_of_zeros_stay_zero_and_the_others_are_rounded() -> None:
    weight = random_weight(4, 20)
    weight[1] = 0
    rounding = rounding_of(weight, random_curvature(4, 20))
    for bits in RESOLUTIONS:
        assert not rounding.rounded("w", weight, bits)[1].any()
    assert float((rounding.rounded("w", weight, 16) - weight).abs().max()) < 1e-2


def test_a_weight_of_zeros_stays_zero() -> None:
    weight = torch.zeros(3, 7)
    rounding = rounding_of(weight, random_curvature(3, 7))
    for bits in RESOLUTIONS:
        assert torch.equal(rounding.rounded("w", weight, bits), weight)


@pytest.mark.parametrize("power", [-90, -20, 20, 100])
def test_weights_of_any_size_are_rounded_alike(power: int) -> None:
    weight, curvature = random_weight(4, 20), random_curvature(4, 20)
    small, large = rounding_of(weight, curvature), rounding_of(weight * 2.0**power, curvature)
    for bits in RESOLUTIONS:
        expected = small.rounded("w", weight, bits) * 2.0**power
        assert torch.equal(large.rounded("w", weight * 2.0**power, bits), expected)


def test_a_weight_without_a_curvature_is_rounded_as_the_paper_does() -> None:
    weights = {"other": random_weight(3, 4), "w": random_weight(2, 5)}
    rounding = CompensatedRounding.of(weights, {"w": random_curvature(2, 5)})
    other = weights["other"]
    quantizer = rounding.quantizer("other", other, 5)
    assert isinstance(quantizer, UniformQuantizer)
    assert quantizer == NearestRounding().quantizer("other", other, 5)
    assert torch.equal(rounding.rounded("other", other, 5), NearestRounding().rounded("other", other, 5))
    assert isinstance(rounding.quantizer("w", weights["w"], 5), ChannelQuantizer)


@pytest.mark.parametrize("shape", [(4, 3, 2, 2), (4,), (4, 1), (1, 12)])
def test_the_shape_and_dtype_of_a_weight_are_kept(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    rows, columns = shape[0], weight[0].numel()
    rounding = rounding_of(weight, random_curvature(rows, columns))
    for bits in (2, 8, 16):
        rounded = rounding.rounded("w", weight, bits)
        assert (rounded.shape, rounded.dtype) == (weight.shape, weight.dtype)


def test_the_weight_itself_is_left_as_it_was() -> None:
    weight = random_weight(4, 20)
    before = weight.clone()
    rounding_of(weight, random_curvature(4, 20)).rounded("w", weight, 3)
    assert torch.equal(weight, before)


exponents = st.integers(-126 * STEPS_PER_OCTAVE, 126 * STEPS_PER_OCTAVE)


@settings(max_examples=200, deadline=None)
@given(exponents, st.integers(2, 16), st.lists(st.integers(-(2**15), 2**15), min_size=1, max_size=30))
def test_a_value_on_the_grid_of_channels_gives_its_code_back(exponent: int, bits: int, numbers: list[int]) -> None:
    most = 2 ** (bits - 1) - 1
    quantizer = ChannelQuantizer(bits, torch.tensor([exponent], dtype=torch.int16))
    codes = torch.tensor([numbers], dtype=torch.float32).clamp(-most, most)
    values = quantizer.decode(codes)
    finite = torch.isfinite(values)
    normal = finite & ((values == 0) | (values.abs() >= torch.finfo(torch.float32).tiny))
    assert torch.equal(quantizer.encode(values)[normal], codes[normal])
    assert torch.equal(quantizer(values)[normal], values[normal])


def test_steps_are_eighths_of_an_octave_and_double_exactly() -> None:
    steps = ChannelQuantizer.steps_of(torch.arange(-1008, 1009, dtype=torch.int16))
    assert torch.equal(steps[8:], 2 * steps[:-8])
    torch.testing.assert_close(steps.double(), 2 ** (torch.arange(-1008, 1009).double() / 8), rtol=1e-7, atol=0)


def test_quantizers_of_channels_are_equal_by_their_steps_and_width() -> None:
    first, second = (ChannelQuantizer(4, torch.tensor([1, -3], dtype=torch.int16)) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert first != ChannelQuantizer(5, first.exponents)
    assert first != ChannelQuantizer(4, torch.tensor([1, 3], dtype=torch.int16))
    assert first != UniformQuantizer(4, 1.0, 0)


def test_where_a_layer_is_coarse_the_steps_of_all_channels_grow() -> None:
    """Also those that are twice a channel's largest weight already."""
    weight = random_weight(6, 40)
    exponents = rounding_of(weight, Curvature(10.0 ** torch.arange(6), (torch.eye(40)[None],))).exponents["w"].int()
    two, four = exponents[RESOLUTIONS.index(2)], exponents[RESOLUTIONS.index(4)]
    assert (two - four).tolist() == [2 * STEPS_PER_OCTAVE] * 6
    largest = weight.abs().amax(dim=1)
    assert bool((ChannelQuantizer.steps_of(four.to(torch.int16)) >= 2 * largest).any())
