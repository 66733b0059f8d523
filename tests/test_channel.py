"""Eqs. 11 to 13 and the links made by them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qpart_fx import Link, RequestError
from qpart_fx.channel import capacity_bps, rayleigh_gains, snr

BANDWIDTH, GAIN, NOISE = 20e6, 1e-6, 4e-21


def faded(seed: int, **others: float) -> Link:
    return Link.rayleigh(BANDWIDTH, GAIN, NOISE, seed=seed, **others)


@pytest.mark.parametrize(("ratio", "bits_a_hertz"), [(1.0, 1), (3.0, 2), (1023.0, 10)])
def test_capacity_is_a_bit_a_hertz_for_each_doubling_of_one_plus_snr(ratio: float, bits_a_hertz: int) -> None:
    assert capacity_bps(5e6, ratio) == pytest.approx(bits_a_hertz * 5e6, rel=1e-14)


def test_capacity_of_a_faint_signal_does_not_vanish() -> None:
    assert capacity_bps(1.0, 1e-18) == pytest.approx(1e-18 / math.log(2), rel=1e-12)


def test_snr_by_hand() -> None:
    assert snr(transmit_power_w=0.5, gain=1e-9, noise_w_per_hz=1e-20, bandwidth_hz=1e6) == pytest.approx(50_000)


def test_fading_powers_are_exponential() -> None:
    gains = np.sort(rayleigh_gains(2.0, 20_000, np.random.default_rng(1)) / 2.0)
    expected = 1 - np.exp(-gains)
    distance = np.abs(expected - np.arange(1, gains.size + 1) / gains.size).max()
    assert distance < 1.63 / math.sqrt(gains.size)  # Kolmogorov and Smirnov, 1 %
    assert gains.mean() == pytest.approx(1.0, abs=0.03)


def test_a_generator_s_seed_gives_the_gains_again() -> None:
    first, again = (rayleigh_gains(GAIN, 5, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first, again)


def test_from_snr_is_the_capacity_both_ways() -> None:
    link = Link.from_snr(BANDWIDTH, 3.0, round_trip_s=0.25)
    assert link == Link(uplink_bps=2 * BANDWIDTH, downlink_bps=2 * BANDWIDTH, round_trip_s=0.25)
    assert Link.from_snr(BANDWIDTH, 3.0, downlink_snr=15.0).downlink_bps == pytest.approx(4 * BANDWIDTH)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_the_same_seed_gives_the_same_link(seed: int) -> None:
    assert faded(seed) == faded(seed)


def test_different_seeds_give_different_links() -> None:
    assert len({faded(seed).uplink_bps for seed in range(50)}) == 50


def test_a_faded_link_follows_the_equations() -> None:
    gain = float(rayleigh_gains(GAIN, 1, np.random.default_rng(8))[0])
    link = faded(8, transmit_power_w=0.5, server_power_w=2.0, receive_power_w=0.1)
    assert link.uplink_bps == pytest.approx(BANDWIDTH * math.log2(1 + 0.5 * gain / (NOISE * BANDWIDTH)))
    assert link.downlink_bps == pytest.approx(BANDWIDTH * math.log2(1 + 2.0 * gain / (NOISE * BANDWIDTH)))
    assert (link.transmit_power_w, link.receive_power_w) == (0.5, 0.1)


def test_both_ways_are_alike_unless_the_server_s_power_is_given() -> None:
    assert faded(8).uplink_bps == faded(8).downlink_bps
    assert faded(8, server_power_w=10.0).downlink_bps > faded(8).downlink_bps


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["bandwidth_hz", "large_scale_gain", "noise_w_per_hz", "transmit_power_w"])
def test_a_bad_channel_is_named(name: str, bad: float) -> None:
    good = {"bandwidth_hz": BANDWIDTH, "large_scale_gain": GAIN, "noise_w_per_hz": NOISE, "transmit_power_w": 1.0}
    with pytest.raises(RequestError, match=f"{name} = {bad!r}: must be positive and finite"):
        Link.rayleigh(**{**good, name: bad}, seed=0)


def test_a_server_without_power_is_refused() -> None:
    with pytest.raises(RequestError, match="power_w = 0"):
        faded(8, server_power_w=0.0)


@pytest.mark.parametrize("bad", [0.0, -3.0, math.nan])
def test_a_bad_ratio_is_named(bad: float) -> None:
    with pytest.raises(RequestError, match="snr = "):
        Link.from_snr(BANDWIDTH, bad)
    with pytest.raises(RequestError, match="snr = "):
        Link.from_snr(BANDWIDTH, 1.0, downlink_snr=bad)


def test_a_link_s_other_fields_are_validated() -> None:
    with pytest.raises(RequestError, match=r"Link\.round_trip_s = -1"):
        Link.from_snr(BANDWIDTH, 3.0, round_trip_s=-1.0)
