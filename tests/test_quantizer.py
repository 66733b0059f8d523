"""The uniform asymmetric quantizer, whatever the range."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from qpart_fx import CalibrationError
from qpart_fx.quantizer import FakeQuantize, UniformQuantizer

LARGEST = 1.75 * 2.0**127
TINY = torch.finfo(torch.float32).tiny
finite = st.floats(-LARGEST, LARGEST, width=32)
near_one = st.floats(-8.0, 8.0, width=32)
widths = st.integers(2, 16)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[float, float]:
    """Any range: of any size, anywhere, a sliver far from zero among them."""
    ends = draw(st.one_of(st.tuples(finite, finite), st.tuples(near_one, near_one)))
    if draw(st.booleans()):
        ends = (ends[0], float(torch.tensor(ends[0] * (1 + draw(st.floats(0, 1e-3))), dtype=torch.float32)))
    return min(ends), max(ends)


def spread(low: float, high: float, count: int = 257) -> Tensor:
    """Values of float32 from ``low`` to ``high``, both among them."""
    place = torch.linspace(0, 1, count, dtype=torch.float64)
    return (low * (1 - place) + high * place).to(torch.float32).clamp(low, high)


@settings(max_examples=300, deadline=None)
@given(ranges(), widths)
@example((-LARGEST, LARGEST), 2)
@example((1000.0, 1000.001), 16)
@example((0.0, 1e-45), 2)
def test_the_error_is_half_a_step_at_most(ends: tuple[float, float], bits: int) -> None:
    quantizer = UniformQuantizer.from_range(*ends, bits)
    assert math.isfinite(quantizer.step)
    assert quantizer.step > 0
    values = spread(*ends)
    rounded = quantizer(values).double()
    # a product and a quotient of float32 each err by 2^-24 of the value
    tolerance = 4 * 2.0**-24 * max(abs(ends[0]), abs(ends[1]), TINY) + 0.5 * quantizer.step * 1e-6
    assert float((rounded - values.double()).abs().max()) <= quantizer.step / 2 + tolerance


@settings(max_examples=200, deadline=None)
@given(ranges(), widths)
def test_the_step_divides_the_range_into_the_codes(ends: tuple[float, float], bits: int) -> None:
    low, high = ends
    assume(high - low > 2**bits * max(abs(low), abs(high)) * 2.0**-19)
    assume(high - low > 2**bits * TINY)
    step = UniformQuantizer.from_range(low, high, bits).step
    assert step == pytest.approx((high - low) / (2**bits - 1), rel=1e-6)


@settings(max_examples=300, deadline=None)
@given(ranges(), widths)
@example((3.25, 3.25315260887146), 13)  # more steps from zero than float32 can count
@example((0.9975, 1.0025), 16)
def test_quantizing_twice_is_quantizing_once(ends: tuple[float, float], bits: int) -> None:
    quantizer = UniformQuantizer.from_range(*ends, bits)
    once = quantizer(spread(*ends))
    assert torch.equal(quantizer(once), once)


@settings(max_examples=100, deadline=None)
@given(ranges(), widths, st.lists(finite, min_size=1, max_size=20))
def test_codes_are_integers_below_two_to_the_bits(ends: tuple[float, float], bits: int, others: list[float]) -> None:
    """Values outside the range among them."""
    codes = UniformQuantizer.from_range(*ends, bits).encode(torch.cat([spread(*ends), torch.tensor(others)]))
    assert torch.equal(codes, codes.round())
    assert float(codes.min()) >= 0
    assert float(codes.max()) <= 2**bits - 1


@settings(max_examples=100, deadline=None)
@given(ranges(), widths)
def test_decoding_what_was_encoded_is_quantizing(ends: tuple[float, float], bits: int) -> None:
    quantizer, values = UniformQuantizer.from_range(*ends, bits), spread(*ends)
    assert torch.equal(quantizer.decode(quantizer.encode(values)), quantizer(values))


@settings(max_examples=100, deadline=None)
@given(finite, widths)
def test_a_constant_is_exact(value: float, bits: int) -> None:
    assume(value == 0 or abs(value) >= TINY)
    values = torch.full((3, 2), value)
    assert torch.equal(UniformQuantizer.of_tensor(values, bits)(values), values)


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 1e6), st.floats(0, 1e6), st.integers(2, 8))
def test_it_is_torch_s_where_torch_has_one(below: float, above: float, bits: int) -> None:
    """Zero lies within the range, so that the zero point is one of the codes."""
    assume(below + above > 1e-6)
    quantizer = UniformQuantizer.from_range(-below, above, bits)
    values = spread(-below, above)
    theirs = torch.fake_quantize_per_tensor_affine(values, quantizer.step, quantizer.zero_point, 0, 2**bits - 1)
    ours = quantizer(values)
    # torch multiplies by the reciprocal of the step: a value halfway between two codes may go the other way
    assert float((ours - theirs).abs().max()) <= quantizer.step * 1.001
    assert float((ours != theirs).double().mean()) <= 0.02


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bits", range(2, 17))
def test_dtype_and_shape_are_kept(dtype: torch.dtype, bits: int) -> None:
    values = torch.linspace(-1, 3, 24, dtype=dtype).reshape(2, 3, 4)
    quantizer = UniformQuantizer.of_tensor(values, bits)
    rounded = quantizer(values)
    assert (rounded.dtype, rounded.shape) == (values.dtype, values.shape)
    tolerance = quantizer.step / 2 + 4 * torch.finfo(torch.float32).eps + 2 * torch.finfo(dtype).eps
    assert float((rounded.double() - values.double()).abs().max()) <= tolerance


@pytest.mark.parametrize(
    ("largest", "dtype"),
    [(65504.0, torch.float16), (3.3e38, torch.bfloat16), (3.4e38, torch.float32), (3.4e38, torch.float64)],
)
@pytest.mark.parametrize("bits", [2, 3, 16])
def test_the_largest_values_stay_finite(largest: float, dtype: torch.dtype, bits: int) -> None:
    """The grid reaches half a step beyond the range, and must not reach beyond the dtype."""
    values = torch.tensor([-largest, 0.0, largest], dtype=dtype)
    assert torch.isfinite(UniformQuantizer.of_tensor(values, bits)(values)).all()


@pytest.mark.parametrize(("low", "high"), [(-1e300, 1e300), (0.0, 1e39), (-1e308, 1.7e308), (1e300, 1e300)])
def test_a_range_beyond_float32_is_refused(low: float, high: float) -> None:
    with pytest.raises(CalibrationError, match="range"):
        UniformQuantizer.from_range(low, high, 4)


@pytest.mark.parametrize(
    ("low", "high"), [(math.nan, 1.0), (0.0, math.nan), (-math.inf, 0.0), (0.0, math.inf), (1.0, 0.0)]
)
def test_no_range_at_all_is_refused_by_name(low: float, high: float) -> None:
    with pytest.raises(CalibrationError, match=r"cannot quantize the range \[.*\]: .*finite"):
        UniformQuantizer.from_range(low, high, 8)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_tensor_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(CalibrationError, match="finite"):
        UniformQuantizer.of_tensor(torch.tensor([0.0, bad, 1.0]), 8)


def test_an_empty_tensor_stays_empty() -> None:
    values = torch.empty(0, 3)
    assert UniformQuantizer.of_tensor(values, 4)(values).shape == (0, 3)


def test_every_value_of_a_fine_grid_is_told_apart() -> None:
    codes = torch.arange(2**16, dtype=torch.float32)
    quantizer = UniformQuantizer.from_range(0.0, 1.0, 16)
    assert torch.equal(quantizer.encode(quantizer.decode(codes)), codes)


@settings(max_examples=100, deadline=None)
@given(ranges(), widths)
def test_the_module_is_the_quantizer_bit_for_bit(ends: tuple[float, float], bits: int) -> None:
    quantizer, values = UniformQuantizer.from_range(*ends, bits), spread(*ends)
    module = FakeQuantize(quantizer)
    assert torch.equal(module(values), quantizer(values))
    assert module.quantizer == quantizer


def far_from_zero() -> tuple[FakeQuantize, Tensor]:
    return FakeQuantize(UniformQuantizer.from_range(1e-5, 2e-5, 8)), spread(0.9e-5, 2.1e-5)


def test_the_module_survives_a_state_dict() -> None:
    module, values = far_from_zero()
    again = FakeQuantize.like(8)
    again.load_state_dict(module.state_dict())
    assert torch.equal(again(values), module(values))
    assert again.quantizer == module.quantizer


def test_the_module_survives_a_copy() -> None:
    module, values = far_from_zero()
    assert torch.equal(copy.deepcopy(module)(values), module(values))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_module_s_grid_does_not_change_with_the_model_s_dtype(dtype: torch.dtype) -> None:
    module, values = far_from_zero()
    before = module.quantizer
    moved = module.to(dtype)
    assert moved.quantizer == before
    assert torch.equal(moved(values), before(values))
