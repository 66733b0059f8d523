"""Coded activations: every code comes back, and they take about as many bits as they are worth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qpart_fx import ArtifactError
from qpart_fx.value_coding import decode_values, encode_values


def relu(bits: int, count: int = 20_000, shift: float = -0.3) -> NDArray[np.int32]:
    """Codes of what a ReLU leaves, the last one not zero."""
    values = np.maximum(np.random.default_rng(0).normal(shift, 1, count), 0)
    values[-1] = values.max()
    return np.asarray(np.round(values / values.max() * (2**bits - 1)).astype(np.int32))


@settings(deadline=None)
@given(st.data(), st.integers(2, 16), st.integers(-(2**20), 2**20) | st.integers(0, 20))
def test_codes_come_back(data: st.DataObject, bits: int, zero_point: int) -> None:
    most = 2**bits - 1
    rare = st.sampled_from([0, 0, 0, 0, 0, min(max(zero_point, 0), most), 1, most]) | st.integers(0, most)
    codes = np.array(data.draw(st.lists(rare, max_size=400)), dtype=np.int32)
    coded = encode_values(codes, bits, zero_point)
    assert decode_values(coded, len(codes), bits, zero_point).tolist() == codes.tolist()


@pytest.mark.parametrize("shift", [-1.0, -0.3, 0.5])
@pytest.mark.parametrize("bits", [3, 4, 5, 6, 8])
def test_what_a_relu_leaves_takes_little_more_than_its_entropy(bits: int, shift: float) -> None:
    codes = relu(bits, shift=shift)
    share = np.bincount(codes)[np.bincount(codes) > 0] / codes.size
    entropy = -(share * np.log2(share)).sum()
    assert 8 * len(encode_values(codes, bits, 0)) / codes.size < entropy + 0.6


def test_zeros_are_told_apart_where_that_is_smaller() -> None:
    assert encode_values(relu(8), 8, 0)[0] == 1
    assert encode_values(relu(3), 3, 0)[0] == 0


@pytest.mark.parametrize("bits", [3, 8])
def test_bytes_cut_short_or_too_many_are_refused(bits: int) -> None:
    codes = relu(bits, 300)
    coded = encode_values(codes, bits, 0)
    for length in range(len(coded)):
        try:  # a stream of numbers that is cut by whole words may still be one
            assert decode_values(coded[:length], 300, bits, 0).tolist() != codes.tolist()
        except ArtifactError:
            continue
    for wrong in (coded + b"\0", coded + bytes(4), b"\2" + coded[1:]):
        with pytest.raises(ArtifactError):
            decode_values(wrong, 300, bits, 0)


@pytest.mark.parametrize("count", [0, 1, 299, 500, 10**7, 10**15])
def test_another_count_is_refused(count: int) -> None:
    for bits in (3, 8):
        with pytest.raises(ArtifactError):
            decode_values(encode_values(relu(bits, 300), bits, 0), count, bits, 0)


def test_codes_beyond_their_bits_are_refused() -> None:
    for zero_point in (0, 3):
        coded = encode_values(np.array([9, 1, 0, 3], dtype=np.int32), 4, zero_point)
        with pytest.raises(ArtifactError):
            decode_values(coded, 4, 3, zero_point)
