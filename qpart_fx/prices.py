"""What one inference costs: eqs. 3-8 and 14-17 of the paper term by term, and eqs. 24-26, the same as unit prices.

Every quantity may be a number or a numpy array: a whole table of cuts is priced at once. So may the numbers in a
request: many requests are priced at once, each as it is alone, to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from .request import Request

Quantity = TypeVar("Quantity", float, NDArray[np.float64])


@dataclass(frozen=True, slots=True)
class Prices(Generic[Quantity]):
    """The terms of eq. 17, each for one inference: seconds, joules, and the server's currency."""

    device_time_s: Quantity
    download_time_s: Quantity
    upload_time_s: Quantity
    round_trip_s: Quantity
    server_time_s: Quantity
    device_energy_j: Quantity
    receive_energy_j: Quantity
    transmit_energy_j: Quantity
    server_cost: Quantity

    @property
    def time_s(self) -> Quantity:
        return self.device_time_s + self.download_time_s + self.upload_time_s + self.round_trip_s + self.server_time_s

    @property
    def energy_j(self) -> Quantity:
        return self.device_energy_j + self.receive_energy_j + self.transmit_energy_j

    def objective(self, request: Request) -> Quantity:
        """Eq. 17 under the request's weights."""
        weights = request.objective
        return weights.time * self.time_s + weights.energy * self.energy_j + weights.cost * self.server_cost

    def as_dict(self) -> dict[str, Quantity]:
        return {name: getattr(self, name) for name in self.__slots__}


def price(
    request: Request,
    *,
    device_macs: Quantity,
    server_macs: Quantity,
    download_bits: Quantity,
    upload_bits: Quantity,
) -> Prices[Quantity]:
    """Price one inference that does ``device_macs`` on the device and ``server_macs`` on the server (eqs. 3-8, 14-16).

    Where the device's speed depends on the width, a MAC in ``device_macs`` counts as so many as its cycles are of those
    of a MAC without weights. ``download_bits`` is the head (Z_w of eq. 14): its time and energy are shared by
    ``inferences_per_download`` inferences, and are nothing when the device holds the head. ``upload_bits`` is the
    activation (Z_x).
    """
    device, server, link = request.device, request.server, request.link
    cycles_per_mac = device.float_cycles_per_mac
    download_time = download_bits * (_downloads_per_inference(request) / link.downlink_bps)
    upload_time = upload_bits / link.uplink_bps
    server_time = server_macs * (server.cycles_per_mac / server.clock_hz)
    return Prices(
        device_time_s=device_macs * (cycles_per_mac / device.clock_hz),
        download_time_s=download_time,
        upload_time_s=upload_time,
        round_trip_s=link.round_trip_s + 0 * upload_time,
        server_time_s=server_time,
        device_energy_j=device_macs * (_cycle_energy_j(request) * cycles_per_mac),
        receive_energy_j=link.receive_power_w * download_time,
        transmit_energy_j=link.transmit_power_w * upload_time,
        server_cost=server.price_per_s * server_time,
    )


def device_price_per_mac(request: Request) -> float:
    """xi of eq. 24; of a MAC without weights where the device's speed depends on the width."""
    device, weights = request.device, request.objective
    cycles_per_mac = device.float_cycles_per_mac
    time = cycles_per_mac / device.clock_hz
    energy = _cycle_energy_j(request) * cycles_per_mac
    return weights.time * time + weights.energy * energy


def server_price_per_mac(request: Request) -> float:
    """delta of eq. 25."""
    server, weights = request.server, request.objective
    return (weights.time + weights.cost * server.price_per_s) * server.cycles_per_mac / server.clock_hz


def upload_price_per_bit(request: Request) -> float:
    """epsilon of eq. 26 for a bit of the activation."""
    link, weights = request.link, request.objective
    return (weights.time + weights.energy * link.transmit_power_w) / link.uplink_bps


def download_price_per_bit(request: Request) -> float:
    """epsilon of eq. 26 for a bit of the head: this inference's share of it."""
    link, weights = request.link, request.objective
    full = (weights.time + weights.energy * link.receive_power_w) / link.downlink_bps
    return full * _downloads_per_inference(request)


def _cycle_energy_j(request: Request) -> float:
    clock = request.device.clock_hz
    return request.device.kappa * (clock * clock)  # an array's square is its product, a number's need not be


def _downloads_per_inference(request: Request) -> float:
    return (1.0 - request.device_holds_head) / request.inferences_per_download
