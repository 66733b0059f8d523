"""What every backend does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from torch.fx import GraphModule

from qpart_fx.plan import Plan


class Backend(ABC):
    """Turns a head and a tail into files for one runtime."""

    @abstractmethod
    def export(self, head: GraphModule, tail: GraphModule, plan: Plan | None, directory: Path) -> list[Path]:
        """Write the files into ``directory``, which is made if it is not there, and return their paths."""
