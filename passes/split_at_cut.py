"""Lowering: one graph into two, the head on the device and the tail on the server, nothing changed but the place."""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence

from torch.fx import Graph, GraphModule, Node

from qpart_fx.meta import KEY, NodeInfo, info


def split_at_cut(
    graph_module: GraphModule, crossing: Sequence[str], device_nodes: Sequence[str]
) -> tuple[GraphModule, GraphModule]:
    """The head and the tail of ``graph_module``.

    The head is called as the model is and returns the tuple of the ``crossing`` values. The tail takes them, in that
    order, and returns the model's output in the model's structure. Every node is on exactly one side, constants and
    parameters on each that uses them, and both sides own copies: head then tail is the model, bit for bit. Needs the
    records of PropagateShapes.
    """
    device = set(device_nodes)
    nodes = list(graph_module.graph.nodes)
    head = _head_graph([node for node in nodes if node.name in device], crossing)
    tail = _tail_graph(nodes, device, crossing)
    return _own(graph_module, head, "Head"), _own(graph_module, tail, "Tail")


def _head_graph(nodes: Sequence[Node], crossing: Sequence[str]) -> Graph:
    graph = Graph()
    placed: dict[Node, Node] = {}
    for node in nodes:
        placed[node] = graph.node_copy(node, placed.__getitem__)
    by_name = {node.name: copied for node, copied in placed.items()}
    graph.output(tuple(by_name[name] for name in crossing))
    return graph


def _tail_graph(nodes: Sequence[Node], device: set[str], crossing: Sequence[str]) -> Graph:
    graph = Graph()
    by_name = {node.name: node for node in nodes}
    placed: dict[Node, Node] = {}
    for name in crossing:
        received = graph.placeholder(name)
        received.meta = copy.copy(by_name[name].meta)
        known = info(received)  # what the device computes is none of the tail's work
        received.meta[KEY] = NodeInfo(output=known.output, storages=known.storages)
        placed[by_name[name]] = received

    def place(node: Node) -> Node:
        if node not in placed and info(node).constant:  # the device may have it as well
            placed[node] = graph.node_copy(node, place)
        return placed[node]

    for node in nodes:
        if node.name not in device:
            placed[node] = graph.node_copy(node, place)
    return graph


def _own(whole: GraphModule, graph: Graph, side: str) -> GraphModule:
    """A graph module that holds copies of what ``graph`` uses of ``whole``, and nothing else."""
    for node in reversed(graph.nodes):
        if info(node).constant and not node.users:
            graph.erase_node(node)
    graph.lint()
    used = {str(node.target) for node in graph.nodes if node.op in ("get_attr", "call_module")}
    copies = copy.deepcopy({name: operator.attrgetter(name)(whole) for name in sorted(used)})  # tied ones stay tied
    return GraphModule(copies, graph, class_name=f"{whole._get_name()}{side}").eval()
