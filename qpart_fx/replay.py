"""Running a graph again from a node on, with one thing changed: what a perturbation in the middle costs to measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from .calibration import Batch
from .errors import CalibrationError
from .inputs import copied, describe_inputs, positional
from .interpreter import PlainInterpreter
from .meta import constants_behind, where


class Replay:
    """One clean run of a graph over one batch, its values kept, so that it can be replayed from any node."""

    def __init__(self, graph_module: GraphModule, batch: Batch) -> None:
        self._nodes: list[Node] = list(graph_module.graph.nodes)
        self._position = {node.name: place for place, node in enumerate(self._nodes)}
        self._inputs = positional(graph_module, batch.args, batch.kwargs)
        self._interpreter = PlainInterpreter(graph_module)
        self._values: dict[Node, Any] = {}
        described = describe_inputs(batch.args, batch.kwargs)
        versions: dict[Node, int] = {}

        def note_version(node: Node, value: Any) -> None:
            if isinstance(value, Tensor):
                versions[node] = value._version

        self.output = self._run(self._nodes, self._values, described, note_version)
        self._mutated = any(self._values[node]._version != version for node, version in versions.items())
        if self._mutated:  # values were written to after they were made: keep them as they were
            kept: dict[Node, Any] = {}

            def keep(node: Node, value: Any) -> None:
                kept[node] = _cloned(value)

            self._run(self._nodes, {}, described, keep)
            self._values = kept

    def value(self, name: str) -> Any:
        """The clean value of the node ``name``."""
        return self._values[self._nodes[self._position[name]]]

    def from_node(self, name: str) -> Any:
        """The output when the node ``name``, the constants it uses, and all that follow run again, as after a change of
        its weights."""
        start = self._position[name]
        behind = (self._position[source.name] for source in constants_behind(self._nodes[start]))
        return self._again(min(behind, default=start), {})

    def alone(self, name: str) -> Any:
        """The value of the node ``name`` when it and the constants it uses run again, and nothing that follows."""
        node = self._nodes[self._position[name]]
        again = sorted(self._position[each.name] for each in (*constants_behind(node), node))
        values = dict(self._values)
        if self._mutated:  # the node may write to what it uses
            values.update((source, _cloned(values[source])) for source in node.all_input_nodes)
        self._run([self._nodes[place] for place in again], values, "the clean values", lambda *_: None)
        return values[node]

    def with_values(self, values: Mapping[str, Any]) -> Any:
        """The output when the named nodes have these values instead of their own."""
        changed = {self._position[name]: value for name, value in values.items()}
        return self._again(min(changed), changed)

    def _again(self, start: int, changed: Mapping[int, Any]) -> Any:
        first = 0 if self._mutated else start  # what is kept of a mutated graph is no state to start from
        values = {node: self._values[node] for node in self._nodes[:first]}
        replaced = {self._nodes[place]: value for place, value in changed.items()}

        def replace(node: Node, value: Any) -> None:
            if node in replaced:
                values[node] = replaced[node]

        return self._run(self._nodes[first:], values, "the changed values", replace)

    def _run(
        self, nodes: list[Node], values: dict[Node, Any], inputs: str, observe: Callable[[Node, Any], None]
    ) -> Any:
        self._interpreter.env = values
        done = sum(node.op == "placeholder" for node in values)
        self._interpreter.args_iter = iter(copied(self._inputs[done:]))  # the model may write to them
        with torch.no_grad():
            for node in nodes:
                try:
                    values[node] = self._interpreter.run_node(node)
                except Exception as error:
                    raise CalibrationError(f"{where(node)} does not accept {inputs}: {error}") from error
                observe(node, values[node])
        return values[nodes[-1]]


def _cloned(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
