"""A million integers of few bits, into bytes and back."""

from __future__ import annotations

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from qpart_fx.bitpack import pack_bits, unpack_bits


@pytest.mark.parametrize("bits", [2, 5, 8])
@pytest.mark.parametrize("direction", ["pack", "unpack"])
def test_bit_packing(benchmark: BenchmarkFixture, bits: int, direction: str) -> None:
    codes = np.random.default_rng(0).integers(2**bits, size=1_000_000, dtype=np.uint16)
    packed = pack_bits(codes, bits)
    if direction == "pack":
        benchmark(pack_bits, codes, bits)
    else:
        benchmark(unpack_bits, packed, codes.size, bits)
