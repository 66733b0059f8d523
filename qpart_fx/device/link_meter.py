"""What the link gives, from a device's own transfers: how fast it is each way, and its delay.

A message of n bytes takes delay + 8 n / rate, beside the server's own time; a ping takes the delay alone. The rate is
the median slope between the last messages and the last pings. Medians of the last few forget an outlier at once, and
follow a change after two transfers. An answer's bytes count as those of a message, by how the two rates are related.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..request import Link

_MESSAGES, _PINGS = 3, 5
"""How many of each count: of three, one may be an outlier, and two are a change."""

_LEAST_BPS, _MOST_BPS = 1e2, 1e11

_CLEAR = 3.0
"""How many times the spread of pings a message has to take longer than they do, to tell a rate."""

_CLEAR_S = 0.005
"""And at least so many seconds: machines take some more or less for a call than they say."""

_CLEAR_SHARE = 0.25
"""And at least so much of the server's own time: a busy one takes some before and behind what it measures."""


@dataclass(frozen=True, slots=True)
class LinkEstimate:
    """What was measured, None where nothing was: bits a second up and down, and seconds there and back."""

    uplink_bps: float | None = None
    downlink_bps: float | None = None
    round_trip_s: float | None = None

    def over(self, link: Link) -> Link:
        """``link`` with what was measured in the place of what was believed."""
        measured = {name: getattr(self, name) for name in ("uplink_bps", "downlink_bps", "round_trip_s")}
        return replace(link, **{name: value for name, value in measured.items() if value is not None})

    def __str__(self) -> str:
        rates = [f"{value / 1e6:.3g} Mbit/s {way}" for value, way in self._rates() if value is not None]
        delay = [] if self.round_trip_s is None else [f"{self.round_trip_s * 1e3:.3g} ms there and back"]
        return ", ".join(rates + delay) or "not measured yet"

    def _rates(self) -> Sequence[tuple[float | None, str]]:
        return (self.uplink_bps, "up"), (self.downlink_bps, "down")


@dataclass(frozen=True, slots=True)
class _Message:
    """``size``: bytes, those of the answer included. ``seconds`` without the server's own, which are ``server_s``."""

    size: float
    seconds: float
    server_s: float


class LinkMeter:
    """Takes in transfers, and gives an estimate; safe for many threads. Transfers that share the link at a time each
    count what they got of it.

    Args:
        down_over_up: how much faster the link is down than up, as far as that is known.
    """

    def __init__(self, down_over_up: float = 1.0) -> None:
        self._down_over_up = down_over_up
        self._lock = threading.Lock()
        self._pings: deque[float] = deque(maxlen=_PINGS)
        self._messages: deque[_Message] = deque(maxlen=_MESSAGES)
        self._chunks: deque[float] = deque(maxlen=_MESSAGES)
        self._estimate = LinkEstimate()

    @property
    def estimate(self) -> LinkEstimate:
        return self._estimate

    def pinged(self, seconds: float) -> None:
        """A call without a message took ``seconds``."""
        with self._lock:
            self._pings.append(seconds)
            self._estimate = replace(self._estimate, round_trip_s=median(self._pings), uplink_bps=self._rate())

    def sent(self, size: int, received: int, seconds: float, server_s: float = 0.0) -> None:
        """A call that sent ``size`` bytes and got ``received`` took ``seconds``, and ``server_s`` of the server's own
        beside them."""
        if size <= 0:
            return
        with self._lock:
            self._messages.append(_Message(size + received / self._down_over_up, seconds, server_s))
            self._estimate = replace(self._estimate, uplink_bps=self._rate())

    def received(self, size: int, seconds: float) -> None:
        """``size`` bytes of a stream have arrived within ``seconds``."""
        if size <= 0 or seconds <= 0:
            return
        with self._lock:
            self._chunks.append(_bounded(8.0 * size / seconds))
            self._estimate = replace(self._estimate, downlink_bps=median(self._chunks))

    def forget(self) -> None:
        """The link is not what it was: what was taken in counts no more. The estimate stands until the next one."""
        with self._lock:
            self._pings.clear()
            self._messages.clear()
            self._chunks.clear()

    def _rate(self) -> float | None:
        """Up. Where messages take hardly longer than pings, the rate is such that they would not."""
        before = self._estimate.uplink_bps
        if not self._messages:
            return before
        pings = self._pings or [0.0]
        least = median(pings)
        spread = median(abs(each - least) for each in pings)
        clear = max(_CLEAR * spread, _CLEAR_S, _CLEAR_SHARE * median(each.server_s for each in self._messages))
        if median(each.seconds for each in self._messages) - least > clear:
            slope = median((each.seconds - ping) / each.size for each, ping in product(self._messages, pings))
            return _bounded(8.0 / max(slope, 1e-12))
        if before is None:
            return None
        return max(before, _bounded(8.0 * median(each.size for each in self._messages) / clear))


def _bounded(bps: float) -> float:
    return min(max(bps, _LEAST_BPS), _MOST_BPS)
