"""Analysis: the shape and dtype of every value in the graph, from one run on example inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.fx import GraphModule

from qpart_fx.inputs import describe_inputs
from qpart_fx.pass_manager import Pass, PassResult
from qpart_fx.recording import record


@dataclass(frozen=True)
class PropagateShapes(Pass):
    """Sets all of every node's record but its weights and MACs, for one call.

    Raises:
        CalibrationError: the model does not take these inputs; the message names the node that failed.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def run(self, graph_module: GraphModule) -> PassResult:
        record(graph_module, self.args, self.kwargs)
        return PassResult(graph_module, modified=False)

    def __repr__(self) -> str:
        return f"PropagateShapes({describe_inputs(self.args, self.kwargs)})"
