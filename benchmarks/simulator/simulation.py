"""The course of events: requests come as they like, devices do one inference at a time, the server a few.

A device asks for its plan with the link as it is on average, and keeps it; heads and activations cross the link as it
fades. Nothing is random but arrivals, gains, and which sample a request is about, and all of that comes from one seed,
so that policies are compared on the very same course of events.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simpy

import qpart_fx as qpart

from .channel import Channel, Radio
from .execution import Policy, Work
from .performance import Performance


@dataclass(frozen=True)
class Device:
    """A device, its budget, its radio, and how often it calls. ``inferences_per_download``: what it tells its plan."""

    model: str
    device: qpart.Device
    radio: Radio
    calls_per_s: float
    max_accuracy_drop: float = 0.01
    inferences_per_download: int = 100
    objective: qpart.Objective = field(default_factory=qpart.Objective)

    def request(self, server: qpart.Server, seed: int) -> qpart.Request:
        """What it asks for, with the link at its mean rates."""
        return qpart.Request(
            self.max_accuracy_drop, self.device, server, self.radio.link(seed), self.objective,
            inferences_per_download=self.inferences_per_download,
        )  # fmt: skip


@dataclass(frozen=True)
class ServerOfMany:
    """A server that runs so many tails at once; others wait for their turn."""

    server: qpart.Server
    at_once: int = 1


def simulate(
    devices: Sequence[Device], server: ServerOfMany, policy: Policy, *, requests: int, seed: int
) -> Performance:
    """Serve the first ``requests`` that the devices send, and see what becomes of them.

    Args:
        seed: of arrivals, gains and samples.
    """
    return _Simulation(devices, server, policy, requests, seed).run()


class _Simulation:
    def __init__(
        self, devices: Sequence[Device], server: ServerOfMany, policy: Policy, requests: int, seed: int
    ) -> None:
        self._devices, self._server = devices, server
        arrivals, self._samples = _arrivals(devices, requests, np.random.default_rng(seed))
        self._who, self._when = arrivals
        self._works = [
            policy.work(each.model, each.request(server.server, seed + place)) for place, each in enumerate(devices)
        ]
        self._channels = [Channel(each.radio, seed + place) for place, each in enumerate(devices)]
        self._holds: list[Hashable] = [None] * len(devices)
        self._events = simpy.Environment()
        self._turns = [simpy.Resource(self._events) for _ in devices]
        self._places = simpy.Resource(self._events, capacity=server.at_once)
        self._found = Performance.unknown(self._who, self._when)

    def run(self) -> Performance:
        self._events.process(self._arrive())
        self._events.run()
        return self._found

    def _arrive(self) -> Generator[Any, Any, None]:
        for row, (device, when) in enumerate(zip(self._who.tolist(), self._when.tolist(), strict=True)):
            yield self._events.timeout(when - self._events.now)
            work = self._works[device]
            if work is None:
                self._found.refused[row] = True
            else:
                self._events.process(self._infer(row, device, work))

    def _infer(self, row: int, device: int, work: Work) -> Generator[Any, Any, None]:
        events, found, radio = self._events, self._found, self._devices[device].radio
        channel = self._channels[device]
        energy, downloaded = work.device_energy_j, 0.0
        with self._turns[device].request() as turn:
            yield turn
            if work.download_bits and self._holds[device] != work.head:
                downloaded, start = work.download_bits, events.now
                yield events.timeout(channel.sent_at(start, downloaded, up=False) - start)
                energy += radio.receive_power_w * (events.now - start)
                self._holds[device] = work.head
            yield events.timeout(work.device_s)
            start = events.now
            yield events.timeout(channel.sent_at(start, work.upload_bits, up=True) - start)
            energy += radio.transmit_power_w * (events.now - start)
        asked = events.now
        waited = 0.0
        if work.server_s:
            with self._places.request() as place:
                yield place
                waited = events.now - asked
                yield events.timeout(work.server_s)
        found.time_s[row] = events.now - self._when[row]
        found.waited_s[row], found.energy_j[row], found.downloaded_bits[row] = waited, energy, downloaded
        found.cost[row] = self._server.server.price_per_s * work.server_s
        if work.right is not None:
            found.right[row] = work.right[int(self._samples[row] * len(work.right))]


def _arrivals(devices: Sequence[Device], requests: int, generator: np.random.Generator) -> tuple[Any, Any]:
    """Whose the first requests are and when they come (Poisson, each device by itself), and which sample each is about,
    as a share of all."""
    total = sum(each.calls_per_s for each in devices)
    when = np.cumsum(generator.exponential(1 / total, requests))
    shares = np.array([each.calls_per_s / total for each in devices])
    return (generator.choice(len(devices), requests, p=shares), when), generator.random(requests)
