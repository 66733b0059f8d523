"""What the link gives, from a device's own transfers: how fast it is each way, and its delay.

A message of n bytes takes delay + 8 n / rate, beside the server's own time; a ping takes the delay alone. The rate is
the median slope between the last messages and the last pings. Medians of the last few forget an outlier at once, and
follow a change after two transfers. An answer's bytes count as those of a message, by how the two rates are related,
and so do headers. What these two take is a delay to who plans: all calls have them, whatever their payload is.

A busy server answers late as well, and says only of a part of that that it was its own. But it answers pings as late:
so a rate that messages seem to have is believed for good only once pings that came after them were no slower.

Short messages tell no rate. Where they take less than the rate that is believed in would have them take, the link is
:attr:`~LinkMeter.doubtful`, and something longer has to be sent to measure it.
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

_HEADERS = 90
"""Bytes of a call of the tail, each way, beside those of a ping and the message: HTTP/2's, the keys of the call and of
the plan, the checksum."""

_LEAST_BPS, _MOST_BPS = 1e2, 1e11

_CLEAR = 3.0
"""How many times the spread of pings a message has to take longer than they do, to tell a rate."""

_CLEAR_S = 0.005
"""And at least so many seconds: machines take some more or less for a call than they say."""

_CLEAR_SHARE = 0.25
"""And at least so much of the server's own time: a busy one takes some before and behind what it measures."""

_TELLING_S = 0.002
"""What a message takes of the link at the rate believed in, at least, to tell that the link is faster."""

_FASTER = 0.5
"""The share of that time within which it has to have come, to do so."""


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
    """``size``: bytes, those of the answer and of headers included, which alone are ``beside``. ``seconds`` without the
    server's own, which are ``server_s``."""

    size: float
    beside: float
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
        self._known_bps: float | None = None  # up, when it was last pinged or probed
        self._doubtful = False
        self._estimate = LinkEstimate()

    @property
    def estimate(self) -> LinkEstimate:
        return self._estimate

    @property
    def doubtful(self) -> bool:
        """Whether the last messages were too short to tell a rate, and none is known, or the link must be faster."""
        return self._doubtful

    @property
    def tells(self) -> bool:
        """Whether the last messages were long enough to tell a rate."""
        with self._lock:
            return bool(self._messages) and self._tells()

    def pinged(self, *seconds: float) -> None:
        """Calls without a message took so many ``seconds``, each of them, one after the other."""
        if not seconds:
            return
        with self._lock:
            self._pings.extend(seconds)
            self._known_bps = self._rate(self._known_bps)
            self._update(self._known_bps)

    def sent(self, size: int, received: int, seconds: float, server_s: float = 0.0) -> None:
        """A call that sent ``size`` bytes and got ``received`` took ``seconds``, and ``server_s`` of the server's own
        beside them."""
        if size <= 0:
            return
        with self._lock:
            beside = _HEADERS + (_HEADERS + received) / self._down_over_up
            self._messages.append(_Message(size + beside, beside, seconds, server_s))
            before = self._estimate.uplink_bps if self._known_bps is None else self._known_bps
            self._update(self._rate(before))
            self._doubtful = self._is_doubtful(before)

    def probed(self, size: int, seconds: float) -> bool:
        """A call of ``size`` bytes, made to measure the link, took ``seconds``: messages before it count no more.
        Returns whether it tells the rate. If it took hardly longer than pings do, the link is at least so fast that it
        would not."""
        if size <= 0:
            return False
        with self._lock:
            beside = median(each.beside for each in self._messages) if self._messages else 0.0
            self._messages.clear()
            self._messages.append(_Message(size, beside, seconds, 0.0))
            self._known_bps = self._rate(self._known_bps) or _bounded(8.0 * size / self._clear())
            self._update(self._known_bps)
            self._doubtful = False
            return self._tells()

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

    def _update(self, uplink_bps: float | None) -> None:
        delay = median(self._pings) if self._pings else self._estimate.round_trip_s
        if self._pings and self._messages and uplink_bps is not None:
            delay = median(self._pings) + 8.0 * median(each.beside for each in self._messages) / uplink_bps
        self._estimate = replace(self._estimate, uplink_bps=uplink_bps, round_trip_s=delay)

    def _tells(self) -> bool:
        """Whether messages take so much longer than pings that it can only be their bytes."""
        least = median(self._pings or [0.0])
        return median(each.seconds for each in self._messages) - least > self._clear()

    def _rate(self, before: float | None) -> float | None:
        """Up. Where messages take hardly longer than pings, that of ``before``, or such that they would not."""
        if not self._messages:
            return before
        if self._tells():
            pings = self._pings or [0.0]
            slope = median((each.seconds - ping) / each.size for each, ping in product(self._messages, pings))
            return _bounded(8.0 / max(slope, 1e-12))
        if before is None:
            return None
        return max(before, _bounded(8.0 * median(each.size for each in self._messages) / self._clear()))

    def _clear(self) -> float:
        """Seconds that messages have to take longer than pings."""
        pings = self._pings or [0.0]
        least = median(pings)
        spread = median(abs(each - least) for each in pings)
        busy = median(each.server_s for each in self._messages)
        return max(_CLEAR * spread, _CLEAR_S, _CLEAR_SHARE * busy)

    def _is_doubtful(self, believed_bps: float | None) -> bool:
        if len(self._messages) < _MESSAGES or self._tells():
            return False
        least = median(self._pings or [0.0])
        if believed_bps is None:
            return True
        believed = [8.0 * each.size / believed_bps for each in self._messages]
        return all(
            taken >= _TELLING_S and each.seconds - least < _FASTER * taken
            for taken, each in zip(believed, self._messages, strict=True)
        )


def _bounded(bps: float) -> float:
    return min(max(bps, _LEAST_BPS), _MOST_BPS)
