"""Analysis: where the graph can be cut in two, and what each cut sends, computes and holds."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from torch.fx import GraphModule, Node

from qpart_fx.crossing import exact_bits, held_bytes, quantized_elements, sendable
from qpart_fx.cut import Cut, runs_of
from qpart_fx.errors import RequestError
from qpart_fx.meta import info


def find_cuts(graph_module: GraphModule) -> list[Cut]:
    """Every legal cut that is a prefix of the graph's order, from nothing but the inputs to everything on the device.

    A cut is legal when only tensors and plain numbers cross, and no two of the tensors share memory that the server
    writes to: what it receives are copies. Needs the records of PropagateShapes; counts MACs. Prefixes that the same
    values cross are one cut, the shortest of them. Takes time linear in the graph and in what crosses.
    """
    cuts: dict[frozenset[str], Cut] = {}
    for cut, obstacle in _prefixes(_inner_nodes(graph_module)):
        if not obstacle:
            cuts.setdefault(frozenset(cut.crossing), cut)
    return [*cuts.values()]


def chain_cuts(graph: GraphModule, layers: Sequence[Node]) -> list[tuple[int, Cut]]:
    """For p = 0..L the cut after the first p layers that sends least; of equals the last, behind norm and activation.

    The cuts at the very input and output are always there, as "all on the server" and "all on the device". A p at which
    no cut is legal is left out.
    """
    place = {node.name: index for index, node in enumerate(graph.graph.nodes)}
    starts = [place[layer.name] for layer in layers]
    cuts = find_cuts(graph)
    best: dict[int, Cut] = {}
    for cut in cuts:
        p = sum(start < cut.size for start in starts)
        if p not in best or _sent(cut) <= _sent(best[p]):
            best[p] = cut
    chain = sorted(best.items())
    if _sent(chain[0][1]) < _sent(cuts[0]):  # something before the first layer makes the input smaller
        chain.insert(0, (0, cuts[0]))
    else:
        chain[0] = (0, cuts[0])
    if chain[-1][1] is not cuts[-1]:  # something after the last layer makes the output larger
        chain.append((len(layers), cuts[-1]))
    return chain


def _sent(cut: Cut) -> int:
    return 32 * cut.elements + cut.exact_bits


def resolve_cut(graph_module: GraphModule, names: str | Sequence[str]) -> Cut:
    """The cut that ``names`` stand for: the names of its crossing nodes, ``"input"`` or ``"output"``.

    Raises:
        RequestError: no such node, other values would cross as well, or the cut is not legal; the message names what
            crosses instead, or the nearest legal cuts.
    """
    cuts = find_cuts(graph_module)
    nodes = _inner_nodes(graph_module)
    if names == "input":
        return cuts[0]
    if names == "output":
        if opaque := next((node for node in nodes if info(node).opaque), None):
            raise RequestError(f"cut: the device cannot run all: {_server_only(opaque)}; {_nearest(cuts, len(nodes))}")
        return cuts[-1]
    try:
        wanted = {names} if isinstance(names, str) else {str(name) for name in names}
    except TypeError:
        raise RequestError(f"cut: expected names of nodes, got {names!r}") from None
    for cut in cuts:
        if set(cut.crossing) == wanted:
            return cut
    by_name = {node.name: node for node in nodes if not info(node).constant}
    for name in sorted(wanted - by_name.keys()):
        close = difflib.get_close_matches(name, by_name, n=1) or [*by_name][:1]
        raise RequestError(
            f"cut: the graph has no node '{name}' (did you mean '{close[0]}'?); "
            f"{_nearest(cuts, nodes.index(by_name[close[0]]))}"
        )
    if not wanted:
        raise RequestError('cut: name at least one crossing node, or "input", or "output"')
    try:
        return _smallest_cut(graph_module, {by_name[name] for name in wanted})
    except RequestError as error:
        place = max(nodes.index(by_name[name]) for name in wanted)
        raise RequestError(f"{error}; {_nearest(cuts, place)}") from None


def _nearest(cuts: Sequence[Cut], place: int) -> str:
    """The legal cuts before and after the node at ``place``, in words."""
    before = [cut for cut in cuts if cut.size <= place + 1][-2:]
    after = [cut for cut in cuts if cut.size > place + 1][:2]
    return "the nearest legal cuts are at " + " or at ".join(", ".join(cut.crossing) for cut in [*before, *after])


def _smallest_cut(graph_module: GraphModule, wanted: set[Node]) -> Cut:
    """The cut whose device runs just what ``wanted`` needs, if nothing else crosses it."""
    nodes = _inner_nodes(graph_module)
    device = {node for node in nodes if node.op == "placeholder"}
    pending = list(wanted)
    while pending:
        node = pending.pop()
        device.add(node)
        pending.extend(source for source in node.all_input_nodes if source not in device)
    # The device's nodes first, then the rest: an order as good as the graph's, of which this cut is a prefix.
    order = [node for node in nodes if node in device] + [node for node in nodes if node not in device]
    cut, obstacle = next(prefix for prefix in _prefixes(order) if prefix[0].size == len(device))
    names = {node.name for node in wanted}
    given = ", ".join(sorted(names))
    if also := [name for name in cut.crossing if name not in names]:
        raise RequestError(f"cut: not only {given} would cross, but also {', '.join(also)}; name all of them")
    if unused := sorted(names - set(cut.crossing)):
        raise RequestError(f"cut: nothing on the server would use {', '.join(unused)}; leave it out")
    if obstacle := obstacle or _reordered_write(nodes, device):
        raise RequestError(f"cut: {given} is no legal cut: {obstacle}")
    return replace(cut, runs=runs_of([node in device for node in nodes]), order=tuple(node.name for node in nodes))


def _reordered_write(nodes: Sequence[Node], device: set[Node]) -> str:
    """Why the device's nodes may not run before all others: one writes in place to what another touches."""
    for place, writer in enumerate(nodes):
        written = info(writer).writes
        for other_place, other in enumerate(nodes) if written else ():
            late, early = (writer, other) if place > other_place else (other, writer)
            touched = info(other).storages.union(*(info(source).storages for source in other.all_input_nodes))
            if late in device and early not in device and written & touched:
                return f"'{writer.name}' writes in place to what '{other.name}' touches, and they would change places"
    return ""


def _prefixes(order: Sequence[Node]) -> Iterator[tuple[Cut, str]]:
    """Every prefix of ``order`` as a cut, from all the inputs on, and why it is not legal ("" when it is)."""
    position = {node: place for place, node in enumerate(order)}
    last_use = {node: max((position.get(user, len(order)) for user in node.users), default=-1) for node in order}
    names = tuple(node.name for node in order)
    inputs = max((place for place, node in enumerate(order) if node.op == "placeholder"), default=-1)
    last_write = {storage: place for place, node in enumerate(order) for storage in info(node).writes}
    total = sum(info(node).macs or 0 for node in order)
    opaque = ""
    alive: dict[Node, None] = {}  # a dict for its order
    macs = live = peak = 0
    for place, node in enumerate(order):
        macs += info(node).macs or 0
        if info(node).opaque:
            opaque = opaque or _server_only(node)
        if not info(node).constant:  # each side has its own
            alive[node] = None
            live += held_bytes(node)
            peak = max(peak, live)
        for value in (node, *node.all_input_nodes):
            if value in alive and last_use[value] <= place:
                del alive[value]
                live -= held_bytes(value)
        if place < inputs or not alive:
            continue
        cut = Cut(
            crossing=tuple(value.name for value in alive),
            elements=sum(map(quantized_elements, alive)),
            exact_bits=sum(map(exact_bits, alive)),
            device_macs=macs,
            server_macs=total - macs,
            peak_bytes=peak,
            runs=(place + 1,),
            order=names,
        )
        yield cut, opaque or _obstacle(alive, last_write, place)


def _server_only(node: Node) -> str:
    return f"'{node.name}' runs on the server only, since what it does depends on the contents of tensors"


def _obstacle(crossing: Iterable[Node], last_write: Mapping[int, int], place: int) -> str:
    seen: dict[int, Node] = {}
    for node in crossing:
        record = info(node)
        if not sendable(node):
            return f"'{node.name}' is neither a tensor nor a number, and cannot be sent"
        for storage in record.storages:
            if last_write.get(storage, -1) <= place:
                continue
            if other := seen.get(storage):
                return (
                    f"'{other.name}' and '{node.name}' share memory that the server writes to, and are sent as copies"
                )
            seen[storage] = node
    return ""


def _inner_nodes(graph_module: GraphModule) -> list[Node]:
    return [node for node in graph_module.graph.nodes if node.op != "output"]
