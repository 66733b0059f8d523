"""How busy the server is, and what a second of it costs therefore."""

from __future__ import annotations

import math
import time
from dataclasses import replace

from ..request import Request

_MEMORY_S = 10.0
"""Utilisation is a mean over the past that weighs what is so old 1/e."""

_MOST = 0.95
"""Of what there is; beyond, no price would mean anything."""

_STEPS_AN_OCTAVE = 4
"""Prices move in steps, so that equal queries have equal answers for a while."""


class Load:
    """The share of the time that tails run, and the share of the queue that is filled."""

    def __init__(self) -> None:
        self._busy = 0.0
        self._since = time.monotonic()
        self._queue = 0.0

    def ran(self, seconds: float) -> None:
        """A batch ran for so long, until now."""
        self._busy, self._since = min(self.utilisation + seconds / _MEMORY_S, 1.0), time.monotonic()

    def waiting(self, share: float) -> None:
        """So much of the queue is filled, from 0 to 1."""
        self._queue = share

    @property
    def utilisation(self) -> float:
        """From 0 to 1."""
        return self._busy * math.exp((self._since - time.monotonic()) / _MEMORY_S)

    @property
    def factor(self) -> float:
        """How many times as long a second of the server takes as if nobody else were there, from 1 to 20: 1 / (1 - rho)
        as of a queue, with 1 - rho = (1 - utilisation) (1 - filled share of the queue), in steps of 2 ** (1/4)."""
        rho = min(1 - (1 - self.utilisation) * (1 - self._queue), _MOST)
        return float(2 ** (round(math.log2(1 / (1 - rho)) * _STEPS_AN_OCTAVE) / _STEPS_AN_OCTAVE))


def priced_by_load(request: Request, factor: float) -> Request:
    """``request`` with a price of the server by which the objective of a plan is that of seconds ``factor`` times as
    long: zeta' = factor * zeta + (factor - 1) * omega / eta, of the weights omega of time and eta of cost.

    So a busy server also counts where its price is 0. Where cost does not count at all, neither does this.
    """
    objective, server = request.objective, request.server
    if factor <= 1 or not objective.cost:
        return request
    price = factor * server.price_per_s + (factor - 1) * objective.time / objective.cost
    return replace(request, server=replace(server, price_per_s=min(price, 1e18)))
