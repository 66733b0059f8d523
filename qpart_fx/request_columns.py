"""Many requests as one whose numbers are columns, so that all of them are priced at once."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .plan import unchecked
from .request import Device, Link, Objective, Request, Server

_PARTS: dict[str, tuple[type[Any], tuple[str, ...]]] = {
    "device": (Device, ("clock_hz", "cycles_per_mac", "kappa", "memory_bytes")),
    "server": (Server, ("clock_hz", "cycles_per_mac", "price_per_s")),
    "link": (Link, ("uplink_bps", "downlink_bps", "round_trip_s", "transmit_power_w", "receive_power_w")),
    "objective": (Objective, ("time", "energy", "cost")),
}
_OWN = ("inferences_per_download", "device_holds_head", "deadline_s", "energy_budget_j")
_read = attrgetter(*(f"{part}.{name}" for part, (_, names) in _PARTS.items() for name in names), *_OWN)

_AT_ONCE = 512
"""Requests that are read at once: what is read of them should not need much memory twice."""


def columns_of(requests: Sequence[Request]) -> NDArray[np.float64]:
    """What prices and limits are made of, one row a number, one column a request; NaN for a limit that one has not.

    Each of their devices must have one number of cycles per MAC.
    """
    columns = np.empty((sum(len(names) for _, names in _PARTS.values()) + len(_OWN), len(requests)))
    for start in range(0, len(requests), _AT_ONCE):
        rows = [_read(request) for request in requests[start : start + _AT_ONCE]]
        columns[:, start : start + _AT_ONCE] = np.array(rows, dtype=np.float64).T
    return columns


def stacked(columns: NDArray[np.float64]) -> Request:
    """A request whose numbers are the rows of ``columns``; it has neither widths nor an accuracy drop."""
    rows = iter(columns)
    parts = {
        part: unchecked(cls, **dict(zip(names, rows, strict=False)))  # the next part goes on where this one ends
        for part, (cls, names) in _PARTS.items()
    }
    return unchecked(Request, **parts, **dict(zip(_OWN, rows, strict=True)))
