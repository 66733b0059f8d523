"""What a policy is to the grid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..cells import Cells
from ..networks import Network
from ..options import Decision, Integers, Options


@dataclass(frozen=True)
class Policy(ABC):
    """``marks``: what the paper's Table I says it minds (latency, energy, accuracy, scaling, offloading); empty where
    it is not in that table."""

    name: str
    marks: str = ""

    changes_network: ClassVar[bool] = False
    """Whether it does more than choose a cut and bits: it puts something into the network, or takes something out."""

    @abstractmethod
    def decide(self, network: Network, cells: Cells) -> Decision:
        """What it does in each cell; its memory limit binds every policy."""


def decision(options: Options, chosen: Integers, cells: Cells) -> Decision:
    """What was chosen, of those options only that were, with its objective in each cell; inf where refused."""
    used, places = np.unique(chosen[chosen >= 0], return_inverse=True)
    compact = np.full(len(chosen), -1, dtype=np.int64)
    compact[chosen >= 0] = places
    kept = options.only(used)
    objective = np.full(len(chosen), np.inf)
    served = np.flatnonzero(compact >= 0)
    objective[served] = cells.objective(kept)[served, compact[served]]
    return Decision(kept, compact, objective)


def where_it_fits(options: Options, chosen: Integers, cells: Cells) -> Integers:
    """``chosen``, and -1 where that is too large for the device's memory."""
    return np.where(cells.fits(options)[np.arange(len(chosen)), chosen], chosen, -1)
