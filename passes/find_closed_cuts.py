"""Analysis: all cuts of the graph, also those that are no prefix of its order."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from torch.fx import GraphModule, Node

from qpart_fx.crossing import exact_bits, quantized_elements, sendable
from qpart_fx.cut import Cut
from qpart_fx.cut_graph import Block, Clash, CutGraph, Value, grouped
from qpart_fx.cut_table import cuts_of
from qpart_fx.errors import RequestError
from qpart_fx.meta import constants_behind, info


@dataclass(frozen=True, slots=True)
class ClosedCuts:
    """The legal cuts of a graph by the size of the device's part, all on the server first, and all on the device last.

    ``complete``: every closed set of the graph was looked at; if not, these are the prefixes of the graph's order.
    ``graph``: the cuts as closed sets of blocks.
    """

    cuts: tuple[Cut, ...]
    complete: bool
    graph: CutGraph = field(repr=False)


def find_closed_cuts(graph_module: GraphModule, *, together: Collection[str] = (), limit: int = 20_000) -> ClosedCuts:
    """Every legal cut, each once: those of :func:`cut_graph` that ``closed_sets`` gives.

    Cuts that the same values cross are one, that with the fewest MACs on the device. Needs the records of
    PropagateShapes; counts MACs. Takes time in proportion to the number of closed sets and the size of the graph.

    Args:
        together: names of values at which never to cut; they stay with their users. The model's inputs and its output
            are sent all the same, when all is on the server or on the device.
        limit: closed sets that are looked at, at most. Of a graph that has more, those that come first would be no
            better than others, and planners take time for each.

    Raises:
        RequestError: ``together`` names no node of the graph.
    """
    graph = cut_graph(graph_module, together=together)
    found = [*islice(graph.closed_sets(), limit + 1)]
    complete = len(found) <= limit
    if not complete:
        place = {name: index for index, block in enumerate(graph.blocks) for name in block.nodes}
        order = [place[node.name] for node in graph_module.graph.nodes if node.name in place]
        found = [found[0], *_prefixes(graph, order)]
    legal = {inside: crossing for inside, crossing in found if crossing and graph.legal(inside, crossing)}
    cuts: dict[int, Cut] = {}
    for crossing, cut in zip(legal.values(), cuts_of(graph_module, graph, [*legal]), strict=True):
        known = cuts.get(crossing)
        if known is None or (cut.device_macs, cut.size) < (known.device_macs, known.size):
            cuts[crossing] = cut
    answer = graph.crossing((1 << len(graph.blocks)) - 1)  # what is sent when all is on the device
    ordered = sorted(cuts, key=lambda crossing: (crossing == answer, cuts[crossing].size))
    return ClosedCuts(tuple(cuts[crossing] for crossing in ordered), complete, graph)


def cut_graph(graph_module: GraphModule, *, together: Collection[str] = ()) -> CutGraph:
    """The blocks and values of an annotated graph; its closed sets without clashes are the legal cuts.

    All inputs are in the first block, and constants in none: each side has its own. A value that is neither tensor nor
    number stays with its users, and ``together`` names more such values. A node that writes in place keeps its place
    among those that touch the same memory: later ones need it, and it needs the earlier ones. A node that uses a weight
    needs the first that does, so that a device that has the weight has it by the node it is counted with. Opaque nodes
    are on the server only, and so is what makes a value that cannot be sent for the model's output.
    """
    nodes = [node for node in graph_module.graph.nodes if node.op != "output" and not info(node).constant]
    if unknown := set(together) - {node.name for node in graph_module.graph.nodes}:
        raise RequestError(f"together: the graph has no node '{min(unknown)}'")
    # 0 stands for the start, which all nodes need, and which needs the inputs: what they need is in their block too.
    number = {node: index for index, node in enumerate(nodes, start=1)}
    edges = [(index, 0) for index in number.values()]
    edges += [(0, index) for node, index in number.items() if node.op == "placeholder"]
    needed = [*_uses(nodes), *_merged(nodes, together), *_writes(nodes), *_shared_weights(graph_module, nodes)]
    edges += [(number[later], number[earlier]) for later, earlier in needed]
    groups = grouped(len(nodes) + 1, edges)
    group_of = {index: place for place, group in enumerate(groups) for index in group}
    home = {node: group_of[index] for node, index in number.items()}
    needs: list[set[int]] = [set() for _ in groups]
    for later, earlier in edges:
        needs[group_of[later]].add(group_of[earlier])
    members = [[nodes[index - 1] for index in group if index] for group in groups]
    blocks = [
        Block(
            nodes=tuple(node.name for node in block),
            macs=sum(info(node).macs or 0 for node in block),
            needs=tuple(sorted(needs[place] - {0, place})),
            server_only=any(info(node).opaque or (not sendable(node) and _for_output(node)) for node in block),
        )
        for place, block in enumerate(members)
    ]
    crossing = {}
    for node in nodes:
        users = {home[user] for user in node.users if user in home} - {home[node]}
        if sendable(node) and (users or _for_output(node)):
            crossing[node] = Value(
                name=node.name,
                producer=home[node],
                users=tuple(sorted(users)),
                output=_for_output(node),
                elements=quantized_elements(node),
                exact_bits=exact_bits(node),
            )
    return CutGraph(tuple(blocks), tuple(crossing.values()), tuple(_clashes(blocks, crossing, home)))


def _for_output(node: Node) -> bool:
    return any(user.op == "output" for user in node.users)


def _uses(nodes: Sequence[Node]) -> Iterator[tuple[Node, Node]]:
    return ((node, source) for node in nodes for source in node.all_input_nodes if not info(source).constant)


def _merged(nodes: Sequence[Node], together: Collection[str]) -> Iterator[tuple[Node, Node]]:
    """Users that the values need which do not cross."""
    for node in nodes:
        if not sendable(node) or (node.name in together and node.op != "placeholder"):
            yield from ((node, user) for user in node.users if user.op != "output")


def _writes(nodes: Sequence[Node]) -> Iterator[tuple[Node, Node]]:
    """The order of writes in place and of all that touches the same memory, as far as it does not follow from it."""
    written = frozenset().union(*(info(node).writes for node in nodes))
    writer: dict[int, Node] = {}
    since: dict[int, list[Node]] = {storage: [] for storage in written}
    for node in nodes:
        for storage in info(node).storages.union(*(info(source).storages for source in node.all_input_nodes)) & written:
            if storage in writer:
                yield node, writer[storage]
            if storage in info(node).writes:
                yield from ((node, earlier) for earlier in since[storage])
                writer[storage], since[storage] = node, []
            else:
                since[storage].append(node)


def _shared_weights(graph_module: GraphModule, nodes: Sequence[Node]) -> Iterator[tuple[Node, Node]]:
    """Nodes that use a weight that another node owns, as CountParameters gives weights to nodes, and that node."""
    parameters = dict(graph_module.named_parameters(remove_duplicate=False))
    owner = {id(parameters[name]): node for node in nodes for name in info(node).weights}
    for node in nodes if owner else ():
        if node.op == "call_module":
            used = [*graph_module.get_submodule(str(node.target)).parameters()]
        else:
            names = (str(source.target) for source in constants_behind(node) if source.op == "get_attr")
            used = [parameters[name] for name in names if name in parameters]
        yield from ((node, owner[id(weight)]) for weight in used if owner.get(id(weight), node) is not node)


def _clashes(blocks: Sequence[Block], crossing: dict[Node, Value], home: dict[Node, int]) -> Iterator[Clash]:
    """The clashes that occur in some closed set."""
    all_needs: list[int] = []  # of each block all that it needs, itself too, as a mask
    for index, block in enumerate(blocks):
        mask = 1 | 1 << index
        for need in block.needs:
            mask |= all_needs[need]
        all_needs.append(mask)
    last_writer = {storage: home[node] for node in home for storage in info(node).writes}
    sharing: dict[int, list[int]] = {}
    values = list(crossing.values())
    for index, node in enumerate(crossing):
        for storage in info(node).storages & last_writer.keys():
            sharing.setdefault(storage, []).append(index)

    def ended(value: Value, by: Value) -> bool:
        """Whether ``value`` no longer crosses when ``by`` is there."""
        return not value.output and all(all_needs[by.producer] >> user & 1 for user in value.users)

    found: dict[Clash, None] = {}
    for storage, indices in sharing.items():
        writer = last_writer[storage]
        early = [index for index in indices if not all_needs[values[index].producer] >> writer & 1]
        for position, first in enumerate(early):
            for second in early[position + 1 :]:
                if not ended(values[first], values[second]) and not ended(values[second], values[first]):
                    found[Clash(first, second, writer)] = None
    return iter(found)


def _prefixes(graph: CutGraph, order: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The prefixes of the graph's order that are closed sets, and what crosses them.

    Args:
        order: the block of each node, in the order of the nodes.
    """
    left = [len(block.nodes) for block in graph.blocks]
    inside, begun = 1, {0} if left[0] else set()
    for block in order:
        if graph.blocks[block].server_only:
            return
        inside |= 1 << block
        left[block] -= 1
        begun = begun | {block} if left[block] else begun - {block}
        if not begun:
            whole = graph.completed(inside)
            yield whole, graph.crossing(whole)
