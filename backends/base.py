"""What every backend does. It can be imported without torch, as what it carries can be asked without."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from qpart_fx.plan import Plan
from qpart_fx.runtimes import Carries

if TYPE_CHECKING:
    from torch.fx import GraphModule


@dataclass(frozen=True)
class Halves:
    """What is exported: both sides of a cut, the plan that they were made by, and ``inputs``, example values of the
    head's placeholders, for what has to run or trace them; None if they are not known."""

    head: GraphModule
    tail: GraphModule
    plan: Plan | None
    inputs: tuple[Any, ...] | None

    def examples(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Example values of the placeholders of the head, and of the tail.

        Raises:
            RequestError: it is not known what the head's look like.
        """
        import torch

        from qpart_fx.inputs import copied, example_inputs

        inputs = example_inputs(self.head) if self.inputs is None else self.inputs
        with torch.no_grad():
            return inputs, self.head(*copied(inputs))

    @property
    def crossing(self) -> list[str]:
        """What the tail calls the values that it is given."""
        return [str(node.target) for node in self.tail.graph.nodes if node.op == "placeholder"]


class Backend(ABC):
    """Turns a head and a tail into files for one runtime. ``carries``: what plans for that runtime may be made of."""

    carries: ClassVar[Carries]

    @abstractmethod
    def export(self, halves: Halves, directory: Path) -> list[Path]:
        """Write the files into ``directory``, which is made if it is not there, and return their paths."""
