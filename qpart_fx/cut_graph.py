"""All cuts of a graph in plain numbers: blocks of nodes that no cut separates, and the values between them."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True, slots=True)
class Block:
    """Nodes that are on one side together, by name.

    ``needs``: the blocks, besides the first, that must be on the device for this one to be, all before it: those whose
    values it uses, that write in place before it, or whose weights it shares. ``macs`` of one call with the example
    inputs. ``server_only``: it and all that needs it run on the server.
    """

    nodes: tuple[str, ...]
    macs: int
    needs: tuple[int, ...]
    server_only: bool = False


@dataclass(frozen=True, slots=True)
class Value:
    """What the node ``name`` gives to blocks other than its own; it crosses once, however many of them it goes to.

    ``producer`` and ``users``: blocks. ``output``: the model's output uses it, so that it crosses also when everything
    is on the device. ``elements``: quantized elements; ``exact_bits``: bits of what crosses as it is.
    """

    name: str
    producer: int
    users: tuple[int, ...]
    output: bool
    elements: int
    exact_bits: int


@dataclass(frozen=True, slots=True)
class Clash:
    """Two values of one memory, ``first`` made before ``second``, that block ``writer`` writes to after both.

    They do not both cross while the writer is on the server: it gets copies, and would write to one of them alone.
    """

    first: int
    second: int
    writer: int


@dataclass(frozen=True)
class CutGraph:
    """The blocks of a graph, each after all that it needs, and the values between them, in the graph's order.

    A cut is a closed set of blocks: with every block, all that it needs. The first block holds the model's inputs and
    is in every cut. A closed set is a legal cut when no block in it is ``server_only`` and none of ``clashes`` occurs;
    few models have clashes. Sets of blocks and of values are bit masks, bit i for index i.
    """

    blocks: tuple[Block, ...]
    values: tuple[Value, ...]
    clashes: tuple[Clash, ...] = ()

    def closed_sets(self) -> Iterator[tuple[int, int]]:
        """Every closed set without blocks on the server only, each once, and the values that cross it.

        What no output depends on (a check of a size, a write that nobody reads) is on the device as soon as all that it
        needs is, if it has no MACs: sets that leave it to the server send more and save nothing, and are left out.
        """
        if not self.blocks or self.blocks[0].server_only:
            return
        idle = _mask(index for index, is_idle in enumerate(self._idle) if is_idle)
        useful = _mask(index for index, block in enumerate(self.blocks) if not block.server_only) & ~idle
        for inside, crossing in self._supersets(1, self.crossing(1), useful):
            whole = self.completed(inside)
            yield from self._supersets(whole, self.crossing(whole) if idle else crossing, idle)

    def completed(self, inside: int) -> int:
        """The closed set ``inside``, and what no output depends on as far as nothing else needs to be added for it."""
        for part, needs in self._idle_parts:
            if needs & ~inside == 0:
                inside |= part
        return inside

    def crossing(self, inside: int) -> int:
        """The values that cross the closed set ``inside``."""
        return _mask(
            index
            for index, value in enumerate(self.values)
            if inside >> value.producer & 1 and (value.output or self._users[index] & ~inside)
        )

    def legal(self, inside: int, crossing: int) -> bool:
        """Whether the closed set ``inside``, which ``crossing`` crosses, is free of clashes."""
        return not any(
            crossing >> clash.first & 1 and crossing >> clash.second & 1 and not inside >> clash.writer & 1
            for clash in self.clashes
        )

    def strict(self) -> CutGraph:
        """A graph without clashes, whose closed sets are some of this one's legal ones.

        Of two values that clash, the second is not on the device without the writer. That leaves out the legal cuts in
        which it is there, and one of the two does not cross.
        """
        if not self.clashes:
            return self
        edges = [(index, need) for index, block in enumerate(self.blocks) for need in (0, *block.needs)]
        edges += [(self.values[clash.second].producer, clash.writer) for clash in self.clashes]
        groups = grouped(len(self.blocks), edges)
        place = {block: index for index, group in enumerate(groups) for block in group}
        needs: list[set[int]] = [set() for _ in groups]
        for later, earlier in edges:
            needs[place[later]].add(place[earlier])
        blocks = [
            Block(
                nodes=tuple(name for member in group for name in self.blocks[member].nodes),
                macs=sum(self.blocks[member].macs for member in group),
                needs=tuple(sorted(needs[index] - {0, index})),
                server_only=any(self.blocks[member].server_only for member in group),
            )
            for index, group in enumerate(groups)
        ]
        values = []
        for value in self.values:
            producer = place[value.producer]
            users = tuple(sorted({place[user] for user in value.users} - {producer}))
            if users or value.output:
                values.append(replace(value, producer=producer, users=users))
        return CutGraph(tuple(blocks), tuple(values))

    def _supersets(self, inside: int, crossing: int, allowed: int) -> Iterator[tuple[int, int]]:
        """The closed set ``inside`` and all that arise by adding blocks of ``allowed``, and what crosses each.

        Without its last block, a closed set is closed. So each follows from just one smaller set, none is made twice,
        and the time is in proportion to their number.
        """
        ready = [index for index in _bits(allowed & ~inside) if self._needs[index] & ~inside == 0]
        pending = [(inside, crossing, ready)]
        while pending:
            inside, crossing, ready = pending.pop()
            yield inside, crossing
            for position, block in enumerate(ready):
                larger, sent = inside | 1 << block, crossing
                for value in self._made_by[block]:
                    sent |= 1 << value
                for value in self._used_by[block]:
                    if self._users[value] & ~larger == 0:
                        sent &= ~(1 << value)
                freed = [
                    index
                    for index in self._followers[block]
                    if allowed >> index & 1 and self._needs[index] & ~larger == 0
                ]
                pending.append((larger, sent, sorted([*ready[position + 1 :], *freed])))

    @cached_property
    def _needs(self) -> list[int]:
        return [_mask({0, *block.needs}) for block in self.blocks]

    @cached_property
    def _followers(self) -> list[list[int]]:
        """The blocks that may be on the device and need each block."""
        followers: list[list[int]] = [[] for _ in self.blocks]
        for index, block in enumerate(self.blocks):
            for need in () if block.server_only else block.needs:
                followers[need].append(index)
        return followers

    @cached_property
    def _made_by(self) -> list[list[int]]:
        made: list[list[int]] = [[] for _ in self.blocks]
        for index, value in enumerate(self.values):
            made[value.producer].append(index)
        return made

    @cached_property
    def _used_by(self) -> list[list[int]]:
        """The values that each block uses, but for those that the output uses too."""
        used: list[list[int]] = [[] for _ in self.blocks]
        for index, value in enumerate(self.values):
            for user in () if value.output else value.users:
                used[user].append(index)
        return used

    @cached_property
    def _users(self) -> list[int]:
        return [_mask(value.users) for value in self.values]

    @cached_property
    def _idle(self) -> list[bool]:
        """Whether a block has no MACs, and no output depends on it."""
        idle = [index > 0 and not block.macs and not block.server_only for index, block in enumerate(self.blocks)]
        for value in self.values:
            if value.output:
                idle[value.producer] = False
        for index in range(len(self.blocks) - 1, 0, -1):
            if not idle[index]:
                for need in self.blocks[index].needs:
                    idle[need] = False
        return idle

    @cached_property
    def _idle_parts(self) -> list[tuple[int, int]]:
        """The idle blocks in parts that do not need each other, and all that each part needs besides."""
        idle = [index for index, is_idle in enumerate(self._idle) if is_idle]
        edges = [(index, need) for index in idle for need in self.blocks[index].needs if self._idle[need]]
        parts = []
        for group in grouped(len(self.blocks), [*edges, *((need, index) for index, need in edges)]):
            if self._idle[group[0]]:
                part, needs = _mask(group), 1
                for index in group:
                    needs |= self._needs[index]
                parts.append((part, needs & ~part))
        return parts


def _mask(indices: Iterable[int]) -> int:
    return sum(1 << index for index in indices)


def _bits(mask: int) -> list[int]:
    return [index for index in range(mask.bit_length()) if mask >> index & 1]


def grouped(count: int, edges: Iterable[tuple[int, int]]) -> list[list[int]]:
    """The numbers below ``count`` in groups that need each other, every group after all that it needs.

    Args:
        edges: pairs (a, b): a needs b.

    >>> grouped(4, [(1, 0), (2, 1), (1, 2), (3, 0)])
    [[0], [1, 2], [3]]
    """
    pairs = sorted(set(edges))
    rows, columns = [later for later, _ in pairs], [earlier for _, earlier in pairs]
    matrix = csr_array((np.ones(len(pairs), dtype=np.int8), (rows, columns)), shape=(count, count))
    _, labels = connected_components(matrix, directed=True, connection="strong")
    members: dict[int, list[int]] = {}
    for index, label in enumerate(labels.tolist()):
        members.setdefault(label, []).append(index)
    needs: dict[int, set[int]] = {label: set() for label in members}
    followers: dict[int, set[int]] = {label: set() for label in members}
    for later, earlier in pairs:
        if (mine := int(labels[later])) != (theirs := int(labels[earlier])):
            needs[mine].add(theirs)
            followers[theirs].add(mine)
    return [members[label] for label in _in_order(members, needs, followers)]


def _in_order(
    members: dict[int, list[int]], needs: dict[int, set[int]], followers: dict[int, set[int]]
) -> Iterator[int]:
    """The labels, each after those that it needs, and otherwise in the order of their first members."""
    ready = [(first[0], label) for label, first in members.items() if not needs[label]]
    heapq.heapify(ready)
    while ready:
        _, label = heapq.heappop(ready)
        yield label
        for follower in followers[label]:
            needs[follower].discard(label)
            if not needs[follower]:
                heapq.heappush(ready, (members[follower][0], follower))
