"""Which node of a graph an exporter fails at: found by exporting halves of the graph, and halves of these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Interpreter, Node
from torch.fx.node import map_arg
from torch.overrides import resolve_name
from torch.utils import _pytree as pytree

from .errors import ModelError
from .graph_parts import graph_module_of
from .inputs import copied
from .meta import info, where
from .opaque import Opaque

Attempt = Callable[[GraphModule, tuple[Any, ...]], object]
"""Exports a graph with example inputs; raises where it cannot."""


def require_no_opaque(graph_module: GraphModule, target: str) -> None:
    """Raise the error for what is kept as a call of the model's own code.

    Raises:
        ModelError: a node calls it; names the node.
    """
    modules = dict(graph_module.named_modules())
    for node in graph_module.graph.nodes:
        if info(node).opaque or (node.op == "call_module" and isinstance(modules[str(node.target)], Opaque)):
            called = modules[str(node.target)].extra_repr() if node.op == "call_module" else called_by(node)
            raise ModelError(
                f"{where(node)} calls {called}, the model's own code, whose path depends on the contents of tensors: "
                f"{target} cannot hold it"
            )


def failure(
    graph_module: GraphModule, args: Sequence[Any], target: str, attempt: Attempt, error: Exception
) -> ModelError:
    """The error for a graph that ``attempt`` failed to export to ``target`` with ``error``: it names the node.

    Args:
        args: example values of the placeholders.
    """
    found = _failing(graph_module, args, attempt)
    if found is None:
        return ModelError(f"{type(graph_module).__name__} cannot be written for {target}: {cause(error)}")
    node, reason = found
    return ModelError(f"{where(node)} calls {called_by(node)}, which {target} cannot hold: {cause(reason)}")


def called_by(node: Node) -> str:
    """What a node calls, as its user writes it."""
    if node.op == "call_module":
        assert node.graph.owning_module is not None
        return type(node.graph.owning_module.get_submodule(str(node.target))).__name__
    if node.op == "call_method":
        return f"torch.Tensor.{node.target}"
    return str(resolve_name(node.target) or getattr(node.target, "__name__", node.target))


def cause(error: BaseException) -> str:
    """The innermost reason, in a line or two."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:3])}"


def _failing(graph_module: GraphModule, args: Sequence[Any], attempt: Attempt) -> tuple[Node, Exception] | None:
    """The first node that fails by itself, and how; None where none does."""
    values = _Values(graph_module)
    with torch.no_grad():
        values.run(*copied(tuple(args)))
    steps = [node for node in graph_module.graph.nodes if node.op in ("call_function", "call_method", "call_module")]

    def fails(steps: Sequence[Node]) -> Exception | None:
        part = _part(graph_module, steps, values.of)
        if part is None:
            return None
        try:
            attempt(*part)
        except Exception as error:
            return error
        return None

    def search(steps: Sequence[Node]) -> tuple[Node, Exception] | None:
        if (error := fails(steps)) is None:
            return None
        if len(steps) == 1:
            return steps[0], error
        half = len(steps) // 2
        return search(steps[:half]) or search(steps[half:])

    half = len(steps) // 2  # that the whole fails is known
    return search(steps[:half]) or search(steps[half:]) if half else search(steps)


class _Values(Interpreter):
    """Keeps what every node gives, before another writes to it."""

    def __init__(self, graph_module: GraphModule) -> None:
        super().__init__(graph_module, garbage_collect_values=False)
        self.of: dict[Node, Any] = {}

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        self.of[n] = copied(result)
        return result


def _part(
    graph_module: GraphModule, steps: Sequence[Node], values: dict[Node, Any]
) -> tuple[GraphModule, tuple[Tensor, ...]] | None:
    """``steps`` as a graph of their own that returns their tensors, and its inputs; None where they make none.

    What comes into it other than tensors are constants of it.
    """
    graph, placed, inputs = Graph(), dict[Node, Any](), list[Tensor]()

    def outside(node: Node) -> Any:
        if node.op == "get_attr":
            return graph.get_attr(str(node.target))

        def leaf(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            inputs.append(value)
            return graph.placeholder(f"input_{len(inputs)}")

        return pytree.tree_map(leaf, values[node])

    sources = {source: None for node in steps for source in node.all_input_nodes if source not in steps}
    for source in sorted(sources, key=lambda node: node.op == "get_attr"):  # placeholders first
        placed[source] = outside(source)
    for node in steps:
        placed[node] = graph.create_node(
            node.op, node.target, map_arg(node.args, placed.get), map_arg(node.kwargs, placed.get), node.name
        )
    results = [
        placed[node] for node in steps if any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(values[node]))
    ]
    if not inputs or not results:
        return None
    graph.output(tuple(results))
    return graph_module_of(graph, graph_module, "Part"), copied(tuple(inputs))
