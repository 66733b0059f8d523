"""One run of a graph on example inputs, and what it tells of every node: shapes, memory, writes, constants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from .errors import CalibrationError
from .inputs import positional
from .interpreter import PlainInterpreter
from .meta import describe, info, set_info, tensors_of, where
from .opaque import Opaque
from .own_model import left_as_it_was


def record(graph_module: GraphModule, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Run ``graph_module`` and set all of every node's record but its weights and MACs.

    Returns:
        The output for ``args`` and ``kwargs``, which are not written to.

    Raises:
        CalibrationError: the graph does not take these inputs; the message names the node that failed.
    """
    with torch.inference_mode(False), torch.no_grad(), left_as_it_was(graph_module):
        output = _Recorder(graph_module).run(*positional(graph_module, args, kwargs))
    _mark_constants(graph_module)
    return output


class _Recorder(PlainInterpreter):
    """Runs the graph and keeps every value, so that no memory is used twice and its address names it."""

    def __init__(self, graph_module: GraphModule) -> None:
        super().__init__(graph_module)
        self._versions: dict[int, int] = {}

    def run_node(self, n: Node) -> Any:
        random = torch.get_rng_state()
        try:
            value = super().run_node(n)
        except Exception as error:
            inputs = [describe(self.env.get(source)) for source in n.all_input_nodes]
            raise CalibrationError(
                f"{where(n)} does not accept the example inputs: {error} (it got {inputs})"
            ) from error
        touched = [tensor for source in n.all_input_nodes for tensor in tensors_of(self.env[source])]
        known = [tensor for tensor in touched if tensor.numel() and _storage(tensor) in self._versions]
        writes = {_storage(tensor) for tensor in known if self._versions[_storage(tensor)] != tensor._version}
        made = tensors_of(value)
        for tensor in (*touched, *made):
            self._versions[_storage(tensor)] = tensor._version
        set_info(
            n,
            output=describe(value),
            storages=frozenset(_storage(tensor) for tensor in made if tensor.numel()),
            writes=frozenset(writes),
            random=not torch.equal(random, torch.get_rng_state()),
            opaque=n.op == "call_module" and isinstance(self.fetch_attr(str(n.target)), Opaque),
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
        if node.op in ("placeholder", "output") or record.writes or record.storages & written:
            constant = False
        elif node.op == "get_attr":
            constant = True
        elif node.all_input_nodes:
            constant = node.op != "call_module" and all(info(source).constant for source in node.all_input_nodes)
        else:
            constant = node.op == "call_function" and _name(node.target) in _CREATION
        set_info(node, constant=constant)


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", "")).split(".")[0]  # an ATen overload is called arange.default


def unwind_transforms() -> None:
    """Leave the function transforms (vmap, grad) that a run entered and, since it failed, did not leave."""
    torch._C._functorch.pop_dynamic_layer_stack_and_undo_to_depth(0)
