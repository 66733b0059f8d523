"""Entropy coding: weights a second into the file and out of it, beside the fixed-width packer in the same run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qpart_fx.bitpack import pack_bits, unpack_bits
from qpart_fx.entropy_coding import decode, encode

ROWS, COLUMNS = 256, 4096


def numbers(deviation: float) -> Any:
    """Codes of normal weights in steps of so much less than their standard deviation."""
    return np.round(np.random.default_rng(0).normal(0, deviation, (ROWS, COLUMNS))).astype(np.int32)


@pytest.mark.parametrize("deviation", [0.7, 3, 30])
@pytest.mark.parametrize("way", ["in", "out"])
def test_coded_weights(benchmark: Callable[..., Any], deviation: float, way: str) -> None:
    codes = numbers(deviation)
    data = encode(codes)
    if way == "in":
        benchmark(encode, codes)
    else:
        benchmark(decode, data, ROWS, COLUMNS)
    _report(benchmark, codes.size, bits_a_weight=8 * len(data) / codes.size)


@pytest.mark.parametrize("way", ["in", "out"])
def test_packed_weights(benchmark: Callable[..., Any], way: str) -> None:
    codes = (numbers(3).ravel() + 32).clip(0, 63).astype(np.uint16)
    data = pack_bits(codes, 6)
    if way == "in":
        benchmark(pack_bits, codes, 6)
    else:
        benchmark(unpack_bits, data, codes.size, 6)
    _report(benchmark, codes.size, bits_a_weight=6.0)


def _report(benchmark: Any, count: int, **more: float) -> None:
    benchmark.extra_info.update(more)
    if benchmark.stats is not None:
        benchmark.extra_info["million_weights_a_second"] = count / benchmark.stats.stats.median / 1e6
