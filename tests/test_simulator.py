"""The simulator against what can be worked out by hand: channels, a queue, and the price model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

import qpart_fx as qpart
from benchmarks.simulator.channel import Channel, Radio
from benchmarks.simulator.execution import Planned, Unoptimised, Work, right
from benchmarks.simulator.simulation import Device, ServerOfMany, simulate
from tests.networks import classifier, images

RADIO = Radio(1e-13, bandwidth_hz=1e5, coherence_s=0.01)
STEADY = replace(RADIO, coherence_s=1e9)
"""One gain for ever."""

SERVER = ServerOfMany(qpart.Server(clock_hz=1e6, cycles_per_mac=1.0, price_per_s=2.0))


@dataclass(frozen=True)
class Fixed:
    """The same work for every request."""

    given: Work | None

    def work(self, model: str, request: qpart.Request) -> Work | None:
        return self.given


def device(radio: Radio = STEADY, calls_per_s: float = 0.01, memory_bytes: int | None = None) -> Device:
    own = qpart.Device(clock_hz=1e6, cycles_per_mac=1.0, memory_bytes=memory_bytes)
    return Device("net", own, radio, calls_per_s)


@pytest.fixture(scope="module")
def profile() -> qpart.Profile:
    model, x = classifier(), images(64)
    with torch.no_grad():
        labels = model(x).argmax(1)
    return qpart.profile(model, [(x, labels)], progress=False)


# Channels


@pytest.mark.parametrize("bits", [0.0, 1.0, 1e4, 3e6])
def test_what_crosses_takes_as_long_as_the_gains_let_it(bits: float) -> None:
    channel, start = Channel(RADIO, 3), 0.0137
    end = channel.sent_at(start, bits, up=True)
    grid = np.linspace(start, end, 200_001)
    at = (0.5 * (grid[1:] + grid[:-1]) / RADIO.coherence_s).astype(int)
    carried = float(np.asarray(channel._up)[at].sum() * (grid[1] - grid[0])) if end > start else 0.0
    assert carried == pytest.approx(bits, rel=1e-3)


def test_two_messages_take_as_long_as_one_of_both() -> None:
    first = Channel(RADIO, 0).sent_at(0.0, 1e5, up=False)
    assert Channel(RADIO, 0).sent_at(first, 2e5, up=False) == pytest.approx(
        Channel(RADIO, 0).sent_at(0.0, 3e5, up=False)
    )


def test_devices_know_the_mean_rate() -> None:
    channel = Channel(RADIO, 1)
    channel.sent_at(0.0, 5e7, up=True)
    assert RADIO.link().uplink_bps == pytest.approx(float(np.mean(channel._up)), rel=0.05)


# The course of events


def test_an_inference_alone_takes_what_its_parts_take() -> None:
    work = Work("head", 1e5, 2e4, 0.25, 0.5, 0.125)
    found = simulate([device()], SERVER, Fixed(work), requests=1, seed=0)
    rate = Channel(STEADY, 0)
    down, up = rate.sent_at(0.0, 1e5, up=False), rate.sent_at(0.0, 2e4, up=True)
    assert found.time_s[0] == pytest.approx(down + 0.25 + up + 0.125)
    assert found.energy_j[0] == pytest.approx(0.5 + STEADY.transmit_power_w * up)
    assert found.cost[0] == pytest.approx(2.0 * 0.125)


def test_a_head_is_downloaded_once() -> None:
    work = Work("head", 1e4, 1e3, 1e-3, 0.0, 1e-3)
    found = simulate([device(), device()], SERVER, Fixed(work), requests=50, seed=0)
    for each in (0, 1):
        assert np.count_nonzero(found.downloaded_bits[found.device == each]) == 1


def test_waiting_for_the_server_is_that_of_its_queue() -> None:
    """Poisson arrivals, one server, constant time of service: rho s / (2 (1 - rho)) on average."""
    work = Work("head", 0.0, 0.0, 0.0, 0.0, 0.7)
    found = simulate([device(calls_per_s=0.1)] * 10, SERVER, Fixed(work), requests=60_000, seed=1)
    assert float(found.waited_s.mean()) == pytest.approx(0.7 * 0.7 / (2 * 0.3), rel=0.1)


def test_what_is_refused_costs_nothing_and_counts_as_refused() -> None:
    found = simulate([device()], SERVER, Fixed(None), requests=20, seed=0)
    assert found.refused.all()
    assert np.isnan(found.time_s).all()
    assert found.summary()["refused"] == 1.0
    assert np.isnan(found.summary()["cost"])


def test_the_seed_is_all_that_is_random() -> None:
    work = Work("head", 1e4, 1e3, 1e-3, 0.0, 1e-3)

    def times(seed: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return simulate([device(RADIO)] * 3, SERVER, Fixed(work), requests=100, seed=seed).time_s

    np.testing.assert_array_equal(times(5), times(5))
    assert not np.array_equal(times(5), times(6))


# Policies


def test_plans_are_charged_as_the_price_model_says(profile: qpart.Profile) -> None:
    asks = device()
    policy = Planned({"net": profile})
    plan = profile.plan(asks.request(SERVER.server, 0))
    work = policy.work("net", asks.request(SERVER.server, 0))
    assert work is not None
    assert work.server_s == plan.prices["server_time_s"]
    assert work.upload_bits == 8 * plan.upload_bytes


def test_answers_are_those_of_the_two_halves(profile: qpart.Profile) -> None:
    x, labels = images(40), torch.arange(40) % 4
    asks = replace(device(), max_accuracy_drop=0.05)
    found = simulate(
        [asks], SERVER, Planned({"net": profile}, cut="output", judged={"net": (x, labels)}), requests=4000, seed=0
    )
    split = profile.compile(profile.plan(asks.request(SERVER.server, 0), cut="output"))
    share = float(right(lambda each: split(each), x, labels).mean())
    assert found.summary()["accuracy"] == pytest.approx(share, abs=0.03)


def test_a_float_head_that_does_not_fit_is_refused(profile: qpart.Profile) -> None:
    slow = replace(SERVER, server=qpart.Server(clock_hz=1.0, cycles_per_mac=1.0))
    for memory, served in ((None, True), (1, False)):
        request = device(memory_bytes=memory).request(slow.server, 0)
        work = Unoptimised({"net": profile}).work("net", request)
        assert work is not None
        assert (work.download_bits > 0) is served
