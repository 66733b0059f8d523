"""Tensors read without torch: the same numbers as torch's, to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qpart_fx import ArtifactError
from qpart_fx.quantizer import ChannelQuantizer, UniformQuantizer, WeightQuantizer
from qpart_fx.stored_tensor import ChannelTensor, PlainTensor, StoredTensor, UniformTensor, read_tensor, steps_of
from qpart_fx.tensor_table import write_tensors

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def stored(tensor: Tensor, quantizer: WeightQuantizer | None = None) -> StoredTensor:
    rows, data = write_tensors({"x": tensor}, {} if quantizer is None else {"x": quantizer})
    return read_tensor(rows[0], data)


def same(values: np.ndarray[Any, Any], tensor: Tensor) -> bool:
    """To the last bit, the sign of zero included."""
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    expected = tensor.numpy()
    return values.dtype == expected.dtype and values.shape == expected.shape and values.tobytes() == expected.tobytes()


def test_steps_are_those_of_torch_s_arithmetic() -> None:
    exponents = torch.arange(-8 * 126, 8 * 126 + 1)
    octave = torch.div(exponents, 8, rounding_mode="floor")
    eighths = torch.tensor([2.0 ** (eighth / 8) for eighth in range(8)], dtype=torch.float32)
    by_torch = torch.ldexp(eighths[exponents - 8 * octave], octave)
    assert same(steps_of(exponents.numpy()), by_torch)
    assert torch.equal(ChannelQuantizer.steps_of(exponents.to(torch.int16)), by_torch)


@pytest.mark.parametrize("dtype", FLOATS)
@given(seed=st.integers(0, 2**32), bits=st.integers(2, 16), spread=st.floats(1e-6, 1e6))
def test_weights_with_a_step_a_channel_are_torch_s(dtype: torch.dtype, seed: int, bits: int, spread: float) -> None:
    random = np.random.default_rng(seed)
    exponents = torch.from_numpy(random.integers(-40, 40, 5).astype(np.int16))
    quantizer = ChannelQuantizer(bits, exponents)
    weight = quantizer(torch.from_numpy(random.normal(0, spread, (5, 3, 4))).to(dtype)) + 0.0  # codes have no -0
    if not torch.equal(quantizer(weight), weight):
        return  # the dtype does not hold the grid
    found = stored(weight, quantizer)
    assert isinstance(found, ChannelTensor)
    assert same(found.values, weight)
    assert found.exponents.tolist() == exponents.tolist()
    assert same(found.codes, quantizer.encode(weight).to(torch.int16))
    assert same(found.steps, ChannelQuantizer.steps_of(exponents))


@pytest.mark.parametrize("dtype", FLOATS)
@given(seed=st.integers(0, 2**32), bits=st.integers(2, 16), centre=st.floats(-9, 9), spread=st.floats(1e-3, 3e38))
def test_weights_with_one_step_are_torch_s(
    dtype: torch.dtype, seed: int, bits: int, centre: float, spread: float
) -> None:
    random = np.random.default_rng(seed)
    largest = torch.finfo(dtype).max
    weight = (torch.from_numpy(random.uniform(-1, 1, (4, 7))) * spread + centre).clamp(-largest, largest).to(dtype)
    if not weight.float().isfinite().all():
        return
    quantizer = UniformQuantizer.of_tensor(weight, bits)
    weight = quantizer(weight)
    if not torch.equal(quantizer(weight), weight):
        return
    found = stored(weight, quantizer)
    assert isinstance(found, UniformTensor)
    assert same(found.values, weight)
    assert (found.step, found.zero_point) == (quantizer.step, quantizer.zero_point)
    assert found.codes.tolist() == quantizer.encode(weight).tolist()


@pytest.mark.parametrize(
    "dtype",
    [
        *FLOATS,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
        torch.complex64,
        torch.uint16,
    ],
)
def test_other_tensors_are_torch_s(dtype: torch.dtype) -> None:
    tensor = (torch.randn(3, 4, generator=torch.Generator().manual_seed(0)) * 100).to(torch.int32).to(dtype)
    for each in (tensor, tensor[:0], tensor[0, 0]):
        found = stored(each)
        assert isinstance(found, PlainTensor)
        assert same(found.values, each)


def test_what_numpy_has_not_is_refused() -> None:
    with pytest.raises(ArtifactError, match=r"tensor 'x' is of float8_e5m2, which numpy has not: read it with torch"):
        _ = stored(torch.ones(2).to(torch.float8_e5m2)).values


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_grid_that_reaches_beyond_its_dtype_ends_where_torch_s_does(dtype: torch.dtype) -> None:
    quantizer = UniformQuantizer(2, torch.finfo(torch.float32).max / 2, 1)
    row = {"name": "x", "dtype": str(dtype)[6:], "shape": [4], "bits": 2, "step": quantizer.step, "zero": 1}
    expected = quantizer.decode(torch.arange(4.0), dtype)
    assert expected.isfinite().all()
    assert same(read_tensor(row, b"\x30\x50").values, expected)
