"""Passes, pipelines of them, and the one observer that checks, times and prints."""

from __future__ import annotations

import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

from torch.fx import GraphModule

from .errors import InternalError, QPartError


def debug_level() -> int:
    """``QPART_DEBUG``: 1 prints the passes and their times, 2 also plans, 3 also the graph after each pass."""
    value = os.environ.get("QPART_DEBUG", "0")
    return int(value) if value.isdigit() else 0


@dataclass(frozen=True, slots=True)
class PassResult:
    """A graph module, and whether its graph differs from the one that went in (annotations do not count)."""

    graph_module: GraphModule
    modified: bool


class Pass(ABC):
    """One step over a graph. Subclasses are frozen dataclasses: their fields are their options."""

    @abstractmethod
    def run(self, graph_module: GraphModule) -> PassResult:
        """Annotate ``graph_module`` in place, or return a changed one."""

    def ensure(self, result: PassResult) -> None:
        """Raise if ``result`` breaks what this pass promises."""
        result.graph_module.graph.lint()


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Passes run one after the other.

    A failure that is not a :class:`QPartError` is ours: it is raised again as an :class:`InternalError` that names
    the pass and those that ran before it.
    """

    passes: tuple[Pass, ...]

    def __init__(self, passes: Iterable[Pass]) -> None:
        object.__setattr__(self, "passes", tuple(passes))

    def run(self, graph_module: GraphModule) -> GraphModule:
        for position, step in enumerate(self.passes):
            start = time.perf_counter()
            try:
                result = step.run(graph_module)
                step.ensure(result)
            except QPartError:
                raise
            except Exception as error:
                before = ", ".join(type(done).__name__ for done in self.passes[:position]) or "nothing"
                raise InternalError(f"pass {step!r} failed after {before}: {error}") from error
            graph_module = result.graph_module
            _observe(step, result, time.perf_counter() - start)
        return graph_module


def _observe(step: Pass, result: PassResult, seconds: float) -> None:
    level = debug_level()
    if level >= 1:
        change = "modified" if result.modified else "annotated"
        print(f"qpart: {step!r} {change} the graph in {seconds * 1e3:.1f} ms", file=sys.stderr)
    if level >= 3:
        print(result.graph_module.graph, file=sys.stderr)
