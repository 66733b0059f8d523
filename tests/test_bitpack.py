"""Codes at exactly their width."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qpart_fx.bitpack import pack_bits, packed_size, unpack_bits

Codes = NDArray[np.uint16]


def codes_of(bits: int, count: int, seed: int = 0) -> Codes:
    return np.random.default_rng(seed).integers(0, 2**bits, count, dtype=np.uint16)


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 1000])
def test_what_is_unpacked_is_what_was_packed(bits: int, count: int) -> None:
    codes = codes_of(bits, count)
    packed = pack_bits(codes, bits)
    assert len(packed) == packed_size(count, bits) == bits * ((count + 7) // 8)
    unpacked = unpack_bits(packed, count, bits)
    assert unpacked.dtype == np.uint16
    assert np.array_equal(unpacked, codes)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 16).flatmap(lambda bits: st.tuples(st.just(bits), st.lists(st.integers(0, 2**bits - 1)))))
def test_any_codes_come_back(case: tuple[int, list[int]]) -> None:
    bits, codes = case
    assert unpack_bits(memoryview(pack_bits(np.array(codes, np.uint16), bits)), len(codes), bits).tolist() == codes


@pytest.mark.parametrize("bits", [2, 5, 16])
def test_the_first_planes_are_the_high_bits(bits: int) -> None:
    codes = codes_of(bits, 100)
    packed = pack_bits(codes, bits)
    for kept in range(1, bits + 1):
        coarse = unpack_bits(packed[: packed_size(100, kept)], 100, kept)
        assert np.array_equal(coarse, codes >> (bits - kept))


def test_the_layout_is_fixed() -> None:
    assert pack_bits(np.array([0b11, 0b00, 0b10, 0b01, 0b11], dtype=np.uint16), 2).hex() == "a898"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
def test_any_unsigned_type_is_packed_alike(dtype: type[np.unsignedinteger]) -> None:
    codes = codes_of(8, 50)
    assert pack_bits(codes.astype(dtype), 8) == pack_bits(codes, 8)


def test_codes_need_not_lie_side_by_side() -> None:
    codes = codes_of(5, 60)
    assert pack_bits(codes[::3], 5) == pack_bits(codes[::3].copy(), 5)


@pytest.mark.parametrize("change", [-1, 1])
def test_data_of_another_length_are_refused(change: int) -> None:
    data = bytes(packed_size(20, 3) + change)
    with pytest.raises(ValueError, match=f"20 values of 3 bits take 9 bytes, not {9 + change}"):
        unpack_bits(data, 20, 3)
