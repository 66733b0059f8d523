"""A graph and what it uses of a model, put together as a graph module."""

from __future__ import annotations

import keyword
import operator
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.fx import Graph, GraphModule, Node

_RESERVED = frozenset((*dir(GraphModule), "graph", "meta"))
"""Names that a graph module needs for itself."""


def graph_module_of(graph: Graph, model: nn.Module, name: str, made: Mapping[str, Any] | None = None) -> GraphModule:
    """``graph`` over the parts of ``model`` that it uses, and those ``made`` for it, in eval mode.

    Every attribute is read once, so that what is written to it is seen by all. Parts whose names Python or a graph
    module needs for itself get an underscore.
    """
    made = made or {}
    first: dict[str, Node] = {}
    for node in list(graph.nodes):
        if node.op == "get_attr" and first.setdefault(str(node.target), node) is not node:
            node.replace_all_uses_with(first[str(node.target)])
            graph.erase_node(node)
    parts: dict[str, Any] = {}
    for node in graph.nodes:
        if node.op in ("get_attr", "call_module"):
            target = str(node.target)
            node.target = _safe(target)
            parts[node.target] = made[target] if target in made else operator.attrgetter(target)(model)
    result = GraphModule(dict(sorted(parts.items())), graph, class_name=name)
    for module in result.modules():
        module.training = False
    return result


def with_parts(graph_module: GraphModule, made: Mapping[str, nn.Module]) -> GraphModule:
    """The same graph over the same parts, but for those ``made`` in place of some, by qualified name."""
    graph = Graph()
    graph.output(graph.graph_copy(graph_module.graph, {}))
    return graph_module_of(graph, graph_module, type(graph_module).__name__, made)


def operation(graph_module: GraphModule, node: Node) -> str:
    """What a node calls, in a word: the type of a module, the name of a function or a method."""
    if node.op == "call_module":
        return type(graph_module.get_submodule(str(node.target))).__name__
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def plain_operation(graph_module: GraphModule, node: Node) -> str:
    """The same whichever of torch's names it goes by: ``nn.Conv2d`` and ``aten.conv2d.default`` are ``conv2d``."""
    return operation(graph_module, node).partition(".")[0].lower().replace("_", "")


def _safe(path: str) -> str:
    first, *others = (part + "_" * keyword.iskeyword(part) for part in path.split("."))
    return ".".join([first + "_" * (first in _RESERVED), *others])
