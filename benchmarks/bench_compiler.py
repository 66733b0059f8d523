"""What the compiler's steps cost, each beside one forward pass of the same network over the same samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

import qpart_fx as qpart
from qpart_fx.bitpack import pack_bits, unpack_bits
from qpart_fx.demo import DigitsNet
from qpart_fx.passes.capture import capture

SAMPLES = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
MODEL = DigitsNet().eval()
REQUEST = qpart.Request.paper(0.05, inferences_per_download=1000)


@pytest.fixture(scope="module")
def profile() -> qpart.Profile:
    return qpart.profile(MODEL, [SAMPLES], progress=False)


def forward() -> Any:
    with torch.no_grad():
        return MODEL(SAMPLES)


STEPS: dict[str, Callable[[qpart.Profile], Any]] = {
    "forward pass": lambda _: forward(),
    "capture": lambda _: capture(MODEL),
    "profile": lambda _: qpart.profile(MODEL, [SAMPLES], progress=False),
    "plan": lambda profile: profile.plan(REQUEST),
    "compile a plan": lambda profile: profile.compile(REQUEST, cut="output"),
    "pack the head": lambda profile: profile.compile(REQUEST, cut="output").packed_head(),
}


@pytest.mark.parametrize("step", STEPS)
def test_step(benchmark: BenchmarkFixture, profile: qpart.Profile, step: str) -> None:
    benchmark(STEPS[step], profile)


def test_split_overhead(benchmark: BenchmarkFixture) -> None:
    """Head then tail at float precision: the limit is the forward pass above."""
    split = qpart.split(MODEL, SAMPLES)
    with torch.no_grad():
        benchmark(split, SAMPLES)


@pytest.mark.parametrize("bits", [2, 5, 8])
@pytest.mark.parametrize("direction", ["pack", "unpack"])
def test_bit_packing(benchmark: BenchmarkFixture, bits: int, direction: str) -> None:
    """A million integers."""
    codes = np.random.default_rng(0).integers(2**bits, size=1_000_000, dtype=np.uint16)
    packed = pack_bits(codes, bits)
    if direction == "pack":
        benchmark(pack_bits, codes, bits)
    else:
        benchmark(unpack_bits, packed, codes.size, bits)
