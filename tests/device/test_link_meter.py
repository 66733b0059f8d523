"""Rates and delays from transfers, on links that the test makes up; and when another plan is asked for."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qpart_fx import Link
from qpart_fx.device.link_meter import LinkEstimate, LinkMeter
from qpart_fx.device.replanning import Replanning, rounded

LINK = Link(uplink_bps=20e6, downlink_bps=50e6, round_trip_s=0.02)

HEADERS = 90
"""Bytes of a call, each way, beside the message."""


def used(
    rate: float, delay: float, sizes: list[int], *, meter: LinkMeter | None = None, noise: float = 0.0
) -> LinkMeter:
    """A meter that saw pings, and messages of ``sizes`` bytes, on a link."""
    meter, draw = meter or LinkMeter(), random.Random(0)
    for _ in range(3):
        meter.pinged(delay + noise * draw.random())
    for size in sizes:
        meter.sent(size, 0, delay + 8 * (size + 2 * HEADERS) / rate + noise * draw.random())
    return meter


@settings(deadline=None)
@given(st.floats(1e5, 1e8), st.floats(0.0, 0.2))
def test_rate_and_delay_are_told_apart(rate: float, delay: float) -> None:
    found = used(rate, delay, [int(rate / 8 * seconds) for seconds in (0.01, 0.03, 0.02)]).estimate
    assert found.uplink_bps == pytest.approx(rate, rel=0.01)
    assert found.round_trip_s == pytest.approx(delay + 8 * 2 * HEADERS / rate)  # which every call has


def test_nothing_is_known_before_the_first_transfer() -> None:
    estimate = LinkMeter().estimate
    assert estimate == LinkEstimate()
    assert estimate.over(LINK) == LINK
    assert str(estimate) == "not measured yet"


def test_an_outlier_changes_little() -> None:
    meter = used(20e6, 0.02, [50_000] * 3)
    meter.sent(50_000, 0, 3.0)
    assert meter.estimate.uplink_bps == pytest.approx(20e6, rel=0.01)
    meter.pinged(2.0)
    assert meter.estimate.round_trip_s == pytest.approx(0.02, rel=0.01)


def test_two_slow_messages_are_a_slow_link() -> None:
    meter = used(50e6, 0.01, [100_000] * 10)
    for _ in range(2):
        meter.sent(100_000, 0, 0.01 + 0.8)
    assert meter.estimate.uplink_bps == pytest.approx(1e6, rel=0.01)
    for _ in range(2):
        meter.sent(100_000, 0, 0.01 + 0.016)
    assert meter.estimate.uplink_bps == pytest.approx(50e6, rel=0.01)


def test_messages_that_take_no_longer_than_pings_tell_no_rate() -> None:
    assert used(1e6, 0.02, [30] * 5).estimate.uplink_bps is None


def test_a_link_that_got_faster_is_noticed_by_small_messages_too() -> None:
    meter = used(1e6, 0.01, [10_000] * 3)
    used(200e6, 0.01, [10_000] * 3, meter=meter)
    assert meter.estimate.uplink_bps == pytest.approx(
        16e6, rel=0.02
    )  # at least, or they would take 5 ms longer than pings


def test_answers_take_their_time_too() -> None:
    meter = LinkMeter(down_over_up=5.0)
    meter.received(1_000_000, 1.0)
    assert meter.estimate.downlink_bps == pytest.approx(8e6)
    meter.pinged(0.01)
    meter.sent(10_000, 50_000, 0.01 + 0.1)
    assert meter.estimate.uplink_bps == pytest.approx(8 * 20_000 / 0.1, rel=0.01)
    assert meter.estimate.round_trip_s == pytest.approx(0.01 + 0.05, rel=0.02)  # the answer's is every call's


def test_a_busy_server_is_no_slow_link() -> None:
    meter = used(50e6, 0.005, [100_000] * 3)
    for _ in range(5):
        meter.sent(3_000, 0, 0.005 + 0.03, server_s=0.2)
    assert meter.estimate.uplink_bps == pytest.approx(50e6, rel=0.01)


def test_a_server_that_is_late_with_everything_is_no_slow_link() -> None:
    meter = used(50e6, 0.005, [100_000] * 3)
    meter.pinged(0.005)
    for _ in range(3):
        meter.sent(3_000, 0, 0.205, server_s=0.01)  # of its being late it knows nothing
    assert meter.estimate.uplink_bps == pytest.approx(8 * 3_000 / 0.2, rel=0.1)  # so it seems
    meter.pinged(0.2, 0.2, 0.2)
    assert meter.estimate.uplink_bps == pytest.approx(50e6, rel=0.01)
    assert meter.estimate.round_trip_s == pytest.approx(0.2, rel=0.01)


def test_short_messages_that_come_too_soon_are_a_reason_to_doubt() -> None:
    meter = used(1e6, 0.01, [10_000] * 3)
    for _ in range(3):
        assert not meter.doubtful
        meter.sent(500, 0, 0.0101)  # 4 ms at the rate that is believed in
    assert meter.doubtful
    meter.probed(40_000, 0.01 + 8 * 40_000 / 50e6)
    assert not meter.doubtful
    assert meter.estimate.uplink_bps == pytest.approx(50e6, rel=0.01)
    for _ in range(3):
        meter.sent(500, 0, 0.0101)
    assert not meter.doubtful
    assert meter.estimate.uplink_bps == pytest.approx(50e6, rel=0.01)


def test_short_messages_that_come_when_they_should_are_none() -> None:
    meter = used(1e6, 0.01, [10_000] * 3)
    for _ in range(5):
        meter.sent(500, 0, 0.014)
    assert not meter.doubtful


def test_where_no_rate_is_known_short_messages_are_a_reason_to_measure_one() -> None:
    meter = used(1e6, 0.01, [30] * 5)
    assert meter.doubtful
    meter.probed(40_000, 0.011)  # hardly longer than a ping
    assert meter.estimate.uplink_bps == pytest.approx(8 * 40_000 / 0.005)


def test_noise_of_a_busy_machine_is_borne() -> None:
    found = used(10e6, 0.005, [40_000] * 5, noise=0.004).estimate
    assert found.uplink_bps == pytest.approx(10e6, rel=0.2)


@given(st.lists(st.tuples(st.integers(0, 10**9), st.floats(0, 1e6)), max_size=12))
def test_no_transfers_make_an_impossible_link(transfers: list[tuple[int, float]]) -> None:
    meter = LinkMeter()
    for size, seconds in transfers:
        meter.pinged(seconds)
        meter.sent(size, size, seconds)
        meter.received(size, seconds)
        rounded(meter.estimate).over(LINK)  # a Link refuses what makes no sense


# Replanning


def test_a_link_as_it_was_planned_for_asks_for_nothing() -> None:
    for estimate in (LinkEstimate(), LinkEstimate(20e6, 50e6, 0.02), LinkEstimate(uplink_bps=16e6, round_trip_s=0.03)):
        assert Replanning().wanted(estimate, LINK) is None


@pytest.mark.parametrize(
    "estimate", [LinkEstimate(uplink_bps=1e6), LinkEstimate(uplink_bps=80e6), LinkEstimate(downlink_bps=5e6),
                 LinkEstimate(round_trip_s=0.2), LinkEstimate(round_trip_s=0.0)],
)  # fmt: skip
def test_another_link_asks_for_its_plan(estimate: LinkEstimate) -> None:
    wanted = Replanning().wanted(estimate, LINK)
    assert wanted is not None
    for name in ("uplink_bps", "downlink_bps", "round_trip_s"):
        measured = getattr(estimate, name)
        expected = getattr(LINK, name) if measured is None else pytest.approx(measured, rel=0.1)
        assert getattr(wanted, name) == expected
    assert Replanning().wanted(estimate, wanted) is None  # and only once


def test_links_that_hardly_differ_are_asked_for_alike() -> None:
    slow = [Replanning().wanted(LinkEstimate(uplink_bps=rate), LINK) for rate in (1.00e6, 1.03e6)]
    assert slow[0] == slow[1] is not None


def test_what_was_not_measured_stays_as_it_was_given() -> None:
    odd = replace(LINK, downlink_bps=12_345_678.0)
    wanted = Replanning().wanted(LinkEstimate(uplink_bps=1e6), odd)
    assert wanted is not None
    assert wanted.downlink_bps == 12_345_678.0
