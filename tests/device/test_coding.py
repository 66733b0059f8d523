"""Entropy coding on a device: done where it pays, and not tried all the time where it does not."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from qpart_fx.device import arrays, coding
from qpart_fx.device.arrays import Rounded
from qpart_fx.device.coding import Coding

GRID = Rounded(4, 0.1, 0)
SKEWED = np.minimum(np.random.default_rng(0).geometric(0.6, 20_000) - 1, 15).astype(np.uint8)
EVEN = np.random.default_rng(0).integers(0, 16, 20_000).astype(np.uint8)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """The rates that values were written for."""
    rates: list[float | None] = []
    written = arrays.rounded

    def rounded(codes: Any, grid: Any, uplink_bps: float | None) -> Any:
        rates.append(uplink_bps)
        return written(codes, grid, uplink_bps)

    monkeypatch.setattr(coding, "rounded", rounded)
    return rates


def test_what_compresses_is_coded_on_a_slow_link_each_time() -> None:
    value = Coding()
    assert all(value.write(SKEWED, GRID, 1e4)[0].is_coded for _ in range(5))


def test_what_does_not_compress_is_seldom_tried(tried: list[float | None]) -> None:
    value = Coding()
    for _ in range(100):
        assert not value.write(EVEN, GRID, 1e6)[0].is_coded
    assert sum(rate is not None for rate in tried) == 2


def test_a_device_on_which_it_takes_too_long_does_without(
    monkeypatch: pytest.MonkeyPatch, tried: list[float | None]
) -> None:
    clock = iter(range(1000))  # a second each time that it is looked at
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    value = Coding()
    assert [value.write(SKEWED, GRID, 1e6)[0].is_coded for _ in range(4)] == [True, False, False, False]
    assert value.write(SKEWED, GRID, 1e4)[0].is_coded  # on this link it gains seconds
    assert tried.count(None) == 3


def test_where_no_rate_is_known_nothing_is_coded(tried: list[float | None]) -> None:
    assert not Coding().write(SKEWED, GRID, None)[0].is_coded
    assert tried == [None]
