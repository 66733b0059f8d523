"""What every backend does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.fx import GraphModule

from qpart_fx.plan import Plan


@dataclass(frozen=True)
class Halves:
    """What is exported: both sides of a cut, the plan that they were made by, and ``inputs``, example values of the
    head's placeholders, for what has to run or trace them; None if they are not known."""

    head: GraphModule
    tail: GraphModule
    plan: Plan | None
    inputs: tuple[Any, ...] | None


class Backend(ABC):
    """Turns a head and a tail into files for one runtime."""

    @abstractmethod
    def export(self, halves: Halves, directory: Path) -> list[Path]:
        """Write the files into ``directory``, which is made if it is not there, and return their paths."""
