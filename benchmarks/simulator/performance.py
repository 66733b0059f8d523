"""Performance: what became of every request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Performance:
    """One row a request, in the order of their arrivals; shape (requests,) each, NaN where a request was refused.

    ``device``: whose it is. ``arrival_s``, ``time_s``: when it came, and seconds until its answer, all waiting
    included. ``waited_s``: of these, for the server. ``energy_j``: of the device. ``cost``: the server's price.
    ``downloaded_bits``: of a head, by the request that needed it first. ``right``: 1 or 0, NaN where no answers were
    looked at. ``refused``: no plan served it.
    """

    device: NDArray[np.int64]
    arrival_s: Floats
    time_s: Floats
    waited_s: Floats
    energy_j: Floats
    cost: Floats
    downloaded_bits: Floats
    right: Floats
    refused: NDArray[np.bool_]

    @classmethod
    def unknown(cls, device: NDArray[np.int64], arrival_s: Floats) -> Performance:
        """That of requests of which nothing has become yet."""
        time_s, waited_s, energy_j, cost, downloaded_bits, right = np.full((6, len(device)), np.nan)
        refused = np.zeros(len(device), np.bool_)
        return cls(device, arrival_s, time_s, waited_s, energy_j, cost, downloaded_bits, right, refused)

    def summary(self, device: int | None = None) -> dict[str, float]:
        """Means over the requests that were served, of one device or of all, and the share that was not.

        ``slowest_s``: the 99th percentile. ``accuracy``: NaN where no answers were looked at.
        """
        own = np.ones(len(self.device), np.bool_) if device is None else self.device == device
        served = own & ~self.refused
        found = {"requests": float(own.sum()), "refused": float(self.refused[own].mean()) if own.any() else 0.0}
        columns = {
            "time_s": self.time_s, "waited_s": self.waited_s, "energy_j": self.energy_j, "cost": self.cost,
            "accuracy": self.right, "downloaded_bits": self.downloaded_bits,
        }  # fmt: skip
        some = served.any()
        found |= {name: float(column[served].mean()) if some else float("nan") for name, column in columns.items()}
        found["slowest_s"] = float(np.percentile(self.time_s[served], 99)) if some else float("nan")
        return found
