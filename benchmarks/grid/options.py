"""What a policy may do with a network, in numbers, and what it chooses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

Made = Callable[[Tensor], Tensor]
"""An option as it really is: from inputs to the network's output."""


@dataclass(frozen=True)
class Options:
    """Arrays of one entry an option.

    ``made``: makes each, to judge it; None for what gives the float network's very output. ``budget``: the least of the
    grid's accuracy budgets that it is known to keep, inf if none; 0 for what loses nothing.
    """

    made: Sequence[Callable[[], Made] | None]
    device_macs: Floats
    server_macs: Floats
    download_bits: Floats
    upload_bits: Floats
    memory_bytes: Floats
    budget: Floats

    @classmethod
    def of_rows(cls, rows: Sequence[Sequence[float]], made: Sequence[Callable[[], Made] | None]) -> Options:
        """From a row an option, of the numbers in the order of the fields."""
        return cls(made, *np.array(rows, dtype=np.float64).reshape(-1, 6).T)

    @property
    def work(self) -> Floats:
        """What an inference takes: MACs of device and server, bits down and up; shape (4, options)."""
        return np.stack([self.device_macs, self.server_macs, self.download_bits, self.upload_bits])

    def only(self, places: Sequence[int] | Integers) -> Options:
        """Those at ``places``."""
        kept = np.asarray(places, dtype=np.int64)
        columns = (self.device_macs, self.server_macs, self.download_bits, self.upload_bits)
        parts = [column[kept] for column in (*columns, self.memory_bytes, self.budget)]
        return Options([self.made[place] for place in kept.tolist()], *parts)

    @staticmethod
    def together(several: Sequence[Options]) -> Options:
        """All of several."""
        names = ("device_macs", "server_macs", "download_bits", "upload_bits", "memory_bytes", "budget")
        columns = [np.concatenate([getattr(each, name) for each in several]) for name in names]
        return Options([made for each in several for made in each.made], *columns)


@dataclass(frozen=True)
class Decision:
    """``chosen``: the place of an option for each cell, -1 where the policy refuses; shape (cells,)."""

    options: Options
    chosen: Integers
    objective: Floats

    @property
    def refused(self) -> NDArray[np.bool_]:
        return np.asarray(self.chosen < 0)


def least(values: Floats, allowed: NDArray[np.bool_]) -> Integers:
    """The place of the least allowed value of each row, -1 where none is allowed."""
    kept = np.where(allowed, values, np.inf)
    return np.where(allowed.any(axis=1), kept.argmin(axis=1), -1)
