"""Communication: a channel that fades from one coherence period to the next (eqs. 11-13), both ways alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import qpart_fx as qpart
from qpart_fx.channel import capacity_bps, rayleigh_gains, snr

_AT_ONCE = 1024
"""Periods whose gains are drawn together."""

_AVERAGED = 4096
"""Periods that the mean rate is taken over."""


@dataclass(frozen=True)
class Radio:
    """How a device and the server hear each other.

    ``large_scale_gain``: path loss and shadowing, the mean of the power gain. ``coherence_s``: seconds for which a gain
    holds. Powers are in watts, ``noise_w_per_hz`` is thermal by default (290 K).
    """

    large_scale_gain: float
    bandwidth_hz: float = 20e6
    noise_w_per_hz: float = 4e-21
    transmit_power_w: float = 1.0
    server_power_w: float = 1.0
    receive_power_w: float = 0.0
    coherence_s: float = 0.05

    def rates_bps(self, gains: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[list[float], list[float]]:
        """Up and down, under each of some power gains; shape (gains,)."""

        def rates(power_w: float) -> list[float]:
            return [
                capacity_bps(self.bandwidth_hz, snr(power_w, float(gain), self.noise_w_per_hz, self.bandwidth_hz))
                for gain in gains
            ]

        up = rates(self.transmit_power_w)
        return up, up if self.server_power_w == self.transmit_power_w else rates(self.server_power_w)

    def link(self, seed: int = 0) -> qpart.Link:
        """The channel at its mean rates, which is what a device that has measured it for a while knows."""
        up, down = self.rates_bps(rayleigh_gains(self.large_scale_gain, _AVERAGED, np.random.default_rng(seed)))
        return qpart.Link(
            uplink_bps=float(np.mean(up)),
            downlink_bps=float(np.mean(down)),
            transmit_power_w=self.transmit_power_w,
            receive_power_w=self.receive_power_w,
        )


class Channel:
    """One course of a radio's fading; the same seed gives the same course."""

    def __init__(self, radio: Radio, seed: int) -> None:
        self.radio = radio
        self._generator = np.random.default_rng(seed)
        self._up: list[float] = []
        self._down: list[float] = []

    def sent_at(self, start_s: float, bits: float, *, up: bool) -> float:
        """When the last of ``bits`` has crossed that begin to at ``start_s``, in seconds."""
        length, rates = self.radio.coherence_s, self._up if up else self._down
        period, now = int(start_s / length), start_s
        while True:
            while period >= len(rates):
                self._draw()
            carried = rates[period] * ((period + 1) * length - now)
            if bits <= carried:
                return now + bits / rates[period]
            bits -= max(carried, 0.0)
            period += 1
            now = period * length

    def _draw(self) -> None:
        up, down = self.radio.rates_bps(rayleigh_gains(self.radio.large_scale_gain, _AT_ONCE, self._generator))
        self._up += up
        self._down += down
