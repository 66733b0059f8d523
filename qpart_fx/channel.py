"""The wireless channel: gain, signal-to-noise ratio, capacity (eqs. 11-13 of the paper), and Rayleigh fading.

Numbers in, numbers out. Fading takes a generator, so that a seed gives the same channel again.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError


def rayleigh_gains(large_scale_gain: float, count: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """``count`` draws of the channel's power gain h = g_large * g_small, g_small ~ Exp(1) (eq. 11).

    >>> gains = rayleigh_gains(1e-6, 100_000, np.random.default_rng(0))
    >>> round(float(gains.mean()) * 1e6, 1)
    1.0
    """
    _require_positive(large_scale_gain=large_scale_gain)
    return large_scale_gain * generator.exponential(1.0, size=count)


def snr(transmit_power_w: float, gain: float, noise_w_per_hz: float, bandwidth_hz: float) -> float:
    """Signal-to-noise ratio at the receiver, P * h / (N0 * B) (eq. 12)."""
    _require_positive(transmit_power_w=transmit_power_w, noise_w_per_hz=noise_w_per_hz, bandwidth_hz=bandwidth_hz)
    _require_positive(gain=gain)
    return transmit_power_w * gain / (noise_w_per_hz * bandwidth_hz)


def capacity_bps(bandwidth_hz: float, snr: float) -> float:
    """Bits a second that the channel carries, B * log2(1 + snr) (eq. 13).

    >>> capacity_bps(20e6, 3.0)
    40000000.0
    """
    _require_positive(bandwidth_hz=bandwidth_hz, snr=snr)
    return bandwidth_hz * math.log1p(snr) / math.log(2)


def _require_positive(**values: Any) -> None:
    for name, value in values.items():
        if not isinstance(value, int | float | np.number) or not (math.isfinite(value) and value > 0):
            raise RequestError(f"{name} = {value!r}: must be positive and finite")
