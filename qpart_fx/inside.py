"""Which values inside a head are rounded to 8 bits, so that the device's integer kernels can run its layers.

An integer convolution or product takes integers and makes integers: what goes into each, and what comes out of it
behind its rectifier, is rounded; and what sums and pools make of rounded values only, so that no float stands between
two of them. What merely moves values about (reshaping, say) keeps them on their grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch.fx import GraphModule, Node

from .crossing import quantized_elements
from .graph_parts import plain_operation
from .meta import TensorInfo, info
from .node_work import PICTURE_CHANNELS

BITS = 8
"""Wider ones are no faster than floats; narrower ones no faster than these."""

_PRODUCTS = frozenset("conv1d conv2d conv3d linear".split())
_RECTIFIERS = frozenset("relu relu6 hardtanh".split())
_SUMS_AND_POOLS = frozenset(
    "add iadd maxpool1d maxpool2d maxpool3d avgpool1d avgpool2d avgpool3d adaptiveavgpool1d adaptiveavgpool2d "
    "adaptiveavgpool3d mean cat concat".split()
)
_MOVES = frozenset(
    "chunk contiguous dropout flatten getitem identity pad permute reshape split squeeze transpose unflatten unsqueeze "
    "view zeropad1d zeropad2d zeropad3d".split()
)


@dataclass(frozen=True, slots=True)
class Inside:
    """A value to round: to the grid of the value called ``grid``, itself mostly. ``layer``: the weighted node that it
    is there for; its noise counts to that one's."""

    grid: str
    layer: str


def values_inside(graph: GraphModule) -> dict[str, Inside]:
    """The values to round, by name, in the graph's order. Needs the nodes' records of shapes and weights."""
    wanted: dict[Node, str] = {}
    latest: dict[Node, str] = {}  # the weighted node that comes last before each
    for node in graph.graph.nodes:
        operation = plain_operation(graph, node)
        sources = [source for source in node.all_input_nodes if _is_value(source)]
        before = next((latest[source] for source in reversed(sources) if source in latest), None)
        if operation in _PRODUCTS and info(node).weights and sources:
            if not _is_thin(operation, sources[0]):
                wanted.setdefault(sources[0], before or node.name)
            before = node.name
            wanted.setdefault(_behind_rectifier(graph, node), node.name)
        elif operation in _SUMS_AND_POOLS and sources and before and all(source in wanted for source in sources):
            wanted.setdefault(_behind_rectifier(graph, node), before)
        if before is not None:
            latest[node] = before
    return dict(_on_grids(graph, wanted))


def _on_grids(graph: GraphModule, wanted: dict[Node, str]) -> Iterator[tuple[str, Inside]]:
    grids: dict[Node, str] = {}
    for node in graph.graph.nodes:
        if node not in wanted or not _is_value(node) or all(user.op == "output" for user in node.users):
            continue  # a result is rounded as it crosses, if at all
        source = node
        while plain_operation(graph, source) in _MOVES and source.all_input_nodes:
            source = source.all_input_nodes[0]
        grids[node] = grids.get(source, node.name)
        yield node.name, Inside(grids[node], wanted[node])


def _behind_rectifier(graph: GraphModule, node: Node) -> Node:
    while len(node.users) == 1 and plain_operation(graph, user := next(iter(node.users))) in _RECTIFIERS:
        node = user
    return node


def _is_thin(operation: str, source: Node) -> bool:
    """Whether a convolution takes so few channels, those of a picture, that integers would not make it faster."""
    output = info(source).output
    return operation.startswith("conv") and isinstance(output, TensorInfo) and output.shape[1] <= PICTURE_CHANNELS


def _is_value(node: Node) -> bool:
    output = info(node).output
    return isinstance(output, TensorInfo) and quantized_elements(node) > 0 and not info(node).constant
