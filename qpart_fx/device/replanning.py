"""When a device should ask for another plan: its link is no longer the one that the plan in use was made for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .link_meter import LinkEstimate

if TYPE_CHECKING:
    from ..request import Link

_STEPS = 4
"""Rates and delays are rounded to so many steps an octave: equal queries are planned once, whoever asks them, and the
noise of measuring changes none."""

_LEAST_DELAY_S = 1e-4


@dataclass(frozen=True, slots=True)
class Replanning:
    """``rate_factor``, ``delay_factor``: how far a rate or a delay has to be from the planned one, either way, to ask
    again. ``least_delay_s``: differences below it change no plan."""

    rate_factor: float = 1.4
    delay_factor: float = 2.0
    least_delay_s: float = 0.005

    def wanted(self, measured: LinkEstimate, planned: Link) -> Link | None:
        """The link to ask a plan for; None while that of the plan in use is close enough."""
        found = rounded(measured).over(planned)
        far = _factor(found.uplink_bps, planned.uplink_bps) > self.rate_factor
        far |= _factor(found.downlink_bps, planned.downlink_bps) > self.rate_factor
        change = abs(found.round_trip_s - planned.round_trip_s)
        delays = max(found.round_trip_s, _LEAST_DELAY_S), max(planned.round_trip_s, _LEAST_DELAY_S)
        far |= change > self.least_delay_s and _factor(*delays) > self.delay_factor
        return found if far else None


def rounded(estimate: LinkEstimate) -> LinkEstimate:
    """``estimate`` at the nearest steps."""
    delay = estimate.round_trip_s
    return LinkEstimate(
        uplink_bps=_step(estimate.uplink_bps),
        downlink_bps=_step(estimate.downlink_bps),
        round_trip_s=0.0 if delay is not None and delay < _LEAST_DELAY_S else _step(delay),
    )


def _step(value: float | None) -> float | None:
    return None if value is None else float(f"{2.0 ** (round(math.log2(value) * _STEPS) / _STEPS):.4g}")


def _factor(a: float, b: float) -> float:
    return max(a / b, b / a)
