"""Analysis: the shape and dtype of every value in the graph, from one run on example inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qpart_fx.errors import CalibrationError
from qpart_fx.inputs import describe_inputs, positional
from qpart_fx.interpreter import PlainInterpreter
from qpart_fx.meta import describe, info, set_info, tensors_of, where
from qpart_fx.pass_manager import Pass, PassResult


@dataclass(frozen=True)
class PropagateShapes(Pass):
    """Sets ``output``, ``storages``, ``writes`` and ``constant`` of every node for a call with ``args`` and ``kwargs``.

    Raises:
        CalibrationError: the model does not take these inputs; the message names the node that failed.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def run(self, graph_module: GraphModule) -> PassResult:
        with torch.no_grad():
            _Recorder(graph_module).run(*positional(graph_module, self.args, self.kwargs))
        _mark_constants(graph_module)
        return PassResult(graph_module, modified=False)

    def __repr__(self) -> str:
        return f"PropagateShapes({describe_inputs(self.args, self.kwargs)})"


class _Recorder(PlainInterpreter):
    """Runs the graph and keeps every value, so that no memory is used twice and its address names it."""

    def __init__(self, graph_module: GraphModule) -> None:
        super().__init__(graph_module)
        self._versions: dict[int, int] = {}

    def run_node(self, n: Node) -> Any:
        try:
            value = super().run_node(n)
        except Exception as error:
            inputs = [describe(self.env.get(source)) for source in n.all_input_nodes]
            raise CalibrationError(
                f"{where(n)} does not accept the example inputs: {error} (it got {inputs})"
            ) from error
        touched = [tensor for source in n.all_input_nodes for tensor in tensors_of(self.env[source])]
        writes = {_storage(tensor) for tensor in touched if self._versions[_storage(tensor)] != tensor._version}
        made = tensors_of(value)
        for tensor in (*touched, *made):
            self._versions[_storage(tensor)] = tensor._version
        set_info(
            n,
            output=describe(value),
            storages=frozenset(_storage(tensor) for tensor in made if tensor.numel()),
            writes=frozenset(writes),
        )
        return value


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


_CREATION = frozenset("arange eye full linspace ones scalar_tensor tensor zeros".split())


def _mark_constants(graph_module: GraphModule) -> None:
    nodes = list(graph_module.graph.nodes)
    written = frozenset().union(*(info(node).writes for node in nodes))
    for node in nodes:
        record = info(node)
        if node.op == "get_attr":
            constant = True
        elif node.op in ("placeholder", "output") or record.writes or record.storages & written:
            constant = False
        elif node.all_input_nodes:
            constant = node.op != "call_module" and all(info(source).constant for source in node.all_input_nodes)
        else:
            constant = node.op == "call_function" and _name(node.target) in _CREATION
        set_info(node, constant=constant)


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", "")).split(".")[0]  # an ATen overload is called arange.default
