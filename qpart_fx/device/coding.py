"""Whether to entropy-code what crosses, by what that took and saved on this device before.

:func:`~qpart_fx.message.write_codes` goes by a server's processor. A slower device may take longer than the link gains,
and one whose values hardly compress tries in vain: both are found out by doing it, and not done again for a while.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from .arrays import Array, Rounded, rounded

_AGAIN = 64
"""Calls after which a value that was not worth it is tried again: values differ."""

_OTHER_LINK = 2.0
"""How many times slower than then a link has to be to try at once; values of another size are tried in any case."""


@dataclass(slots=True)
class Coding:
    """Of one value that crosses."""

    _gain_bps: float = 0.0  # the rate of a link below which the last trial was worth its time
    _tried_bps: float = 0.0
    _tried_size: int = 0
    _since: int = _AGAIN

    def write(self, codes: Array, grid: Rounded, uplink_bps: float | None) -> Any:
        """A value of a message, from its codes; on a link of so many bits a second, None for one that is not known."""
        if uplink_bps is None or not self._is_worth(codes.size, uplink_bps):
            self._since += 1
            return rounded(codes, grid, None)
        start = time.perf_counter()
        header, piece = rounded(codes, grid, uplink_bps)
        spent_s = time.perf_counter() - start
        saved = codes.size * grid.bits / 8 - len(piece) if header.is_coded else 0.0
        self._gain_bps, self._since = 8 * saved / max(spent_s, 1e-9), 0
        self._tried_bps, self._tried_size = uplink_bps, codes.size
        return header, piece

    def _is_worth(self, size: int, uplink_bps: float) -> bool:
        """Or nobody knows."""
        other = size != self._tried_size or uplink_bps * _OTHER_LINK <= self._tried_bps
        return other or self._since >= _AGAIN or uplink_bps < self._gain_bps
