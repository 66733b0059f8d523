"""The requests of the grid, and what anything costs in each of its cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

import qpart_fx as qpart
from benchmarks.planning.subjects import SERVER
from qpart_fx.prices import price

from .options import Options

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SPEEDS = tuple(np.geomspace(0.05e9, 50e9, 7).tolist())
"""MACs a second."""
RATES = (0.5e6, 1.5e6, 5e6, 15e6, 50e6, 200e6, 1000e6)
"""Bits a second, both ways."""
INFERENCES = (1, 10, 100, 10_000)
BUDGETS = (0.001, 0.005, 0.01, 0.05)
SERVERS = {"2.4 GMAC/s": SERVER, "100 GMAC/s": qpart.Server(clock_hz=100e9, cycles_per_mac=1.0, price_per_s=1.0)}
"""The paper's, and one that is 40 times as fast."""

_MEMORY_BYTES_PER_SPEED = 512e3 / SPEEDS[0]
"""The slowest devices have half a megabyte, faster ones as much more as they are faster."""


@dataclass(frozen=True)
class Cells:
    """``requests``: one a cell, all combinations of the axes; ``server`` (cells,) is the place of its server."""

    requests: tuple[qpart.Request, ...]
    speed: Floats
    rate: Floats
    inferences: Integers
    budget: Floats
    server: Integers

    @cached_property
    def memory_bytes(self) -> Floats:
        return np.array([request.device.memory_bytes for request in self.requests], dtype=np.float64)

    def time_s(self, options: Options) -> Floats:
        """Of an inference, shape (cells, options); so are the next two."""
        return self._unit("time_s") @ options.work

    def energy_j(self, options: Options) -> Floats:
        """Of the device."""
        return self._unit("energy_j") @ options.work

    def objective(self, options: Options) -> Floats:
        return self.objective_prices @ options.work

    def fits(self, options: Options) -> NDArray[np.bool_]:
        """Whether a head and its activations are in the device's memory; shape (cells, options)."""
        return np.asarray(options.memory_bytes[None, :] <= self.memory_bytes[:, None])

    def keeps(self, options: Options) -> NDArray[np.bool_]:
        """Whether an option is known to keep the budget; shape (cells, options)."""
        return np.asarray(options.budget[None, :] <= self.budget[:, None])

    def slots(self) -> Iterator[Integers]:
        """The cells that differ in the device and its link only: what many devices ask for at the same time."""
        keys = np.stack([self.inferences, self.budget, self.server])
        for key in np.unique(keys, axis=1).T:
            yield np.flatnonzero((keys == key[:, None]).all(axis=0))

    def _unit(self, field: str) -> Floats:
        """The same of one term."""
        return np.array([[getattr(found, field) for found in _unit_prices(request)] for request in self.requests])

    @cached_property
    def objective_prices(self) -> Floats:
        """Of a MAC of the device, of the server, of a bit of the head and of one sent; shape (cells, 4)."""
        return np.array([[found.objective(request) for found in _unit_prices(request)] for request in self.requests])


def grid() -> Cells:
    """All cells."""
    axes = list(product(range(len(SERVERS)), BUDGETS, INFERENCES, SPEEDS, RATES))
    servers = list(SERVERS.values())
    requests = tuple(
        qpart.Request(
            max_accuracy_drop=budget,
            device=qpart.Device(
                clock_hz=1e9, cycles_per_mac=1e9 / speed, memory_bytes=round(_MEMORY_BYTES_PER_SPEED * speed)
            ),
            server=servers[server],
            link=qpart.Link(uplink_bps=rate, downlink_bps=rate, receive_power_w=1.0),
            inferences_per_download=inferences,
        )
        for server, budget, inferences, speed, rate in axes
    )
    server, budget, inferences, speed, rate = (np.array(column) for column in zip(*axes, strict=True))
    return Cells(requests, speed, rate, inferences, budget, server)


def _unit_prices(request: qpart.Request) -> list[qpart.prices.Prices[float]]:
    kinds = ("device_macs", "server_macs", "download_bits", "upload_bits")
    return [price(request, **{kind: float(kind == one) for kind in kinds}) for one in kinds]
