"""Closed sets of blocks, in plain numbers."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from qpart_fx.cut_graph import Block, Clash, CutGraph, Value, grouped
from tests.solver.test_min_cut import random_graph


def by_definition(graph: CutGraph) -> dict[int, int]:
    """Every closed set of blocks that may be on the device, and the values that cross it."""
    found = {}
    for inside in range(1, 1 << len(graph.blocks), 2):
        blocks = {index for index in range(len(graph.blocks)) if inside >> index & 1}
        if all(blocks >= {*graph.blocks[index].needs} and not graph.blocks[index].server_only for index in blocks):
            crossing = (
                value.producer in blocks and (value.output or not blocks >= {*value.users}) for value in graph.values
            )
            found[inside] = sum(1 << index for index, crosses in enumerate(crossing) if crosses)
    return found


@pytest.mark.parametrize("seed", range(60))
def test_every_closed_set_comes_once_with_what_crosses_it(seed: int) -> None:
    generator = random.Random(seed)
    graph = random_graph(generator, generator.randint(1, 10))  # every block has MACs, so that each is a choice
    found = [*graph.closed_sets()]
    assert len(dict(found)) == len(found)
    assert dict(found) == by_definition(graph)
    assert all(graph.crossing(inside) == crossing for inside, crossing in found)


def test_many_sets_need_no_memory_of_those_before() -> None:
    branches = 40  # two to the 40th closed sets: only a lazy walk gets anywhere
    graph = CutGraph(
        tuple(Block((f"n{index}",), 1, ()) for index in range(branches + 1)),
        tuple(Value(f"n{index}", index, (), True, 1, 0) for index in range(branches + 1)),
    )
    walk = graph.closed_sets()
    assert len({next(walk) for _ in range(1000)}) == 1000


def shared_memory() -> CutGraph:
    """x -> base -> view, both used later; the writer needs the view, and stands before the last block."""
    return CutGraph(
        (
            Block(("x",), 0, ()),
            Block(("base",), 1, ()),
            Block(("view",), 0, (1,)),
            Block(("writer",), 0, (2,)),
            Block(("last",), 1, (1, 2, 3)),
        ),
        (
            Value("x", 0, (1,), False, 4, 0),
            Value("base", 1, (2, 4), False, 4, 0),
            Value("view", 2, (3, 4), False, 2, 0),
            Value("last", 4, (), True, 1, 0),
        ),
        (Clash(1, 2, 3),),
    )


def test_a_clash_forbids_two_values_while_the_writer_is_on_the_server() -> None:
    graph = shared_memory()
    assert [graph.legal(*found) for found in sorted(graph.closed_sets())] == [True, True, False, True, True]
    strict = graph.strict()
    assert [block.nodes for block in strict.blocks] == [("x",), ("base",), ("view", "writer"), ("last",)]
    assert [value.users for value in strict.values] == [(1,), (2, 3), (3,), ()]
    assert len([*strict.closed_sets()]) == 4
    assert strict.strict() is strict


def test_nothing_can_be_cut_where_the_inputs_are_needed_on_the_server() -> None:
    assert [*CutGraph((Block(("x",), 0, (), server_only=True),), (Value("x", 0, (), True, 1, 0),)).closed_sets()] == []


@pytest.mark.parametrize("seed", range(20))
def test_groups_need_each_other_and_come_after_what_they_need(seed: int) -> None:
    generator = random.Random(seed)
    edges = [(generator.randrange(9), generator.randrange(9)) for _ in range(12)]
    reach = {(index, index) for index in range(9)}
    for _ in range(9):
        reach |= {(start, stop) for start, middle in reach for other, stop in edges if middle == other}
    groups = grouped(9, edges)
    place = {index: number for number, group in enumerate(groups) for index in group}
    assert sorted(place) == list(range(9))
    assert all(place[later] >= place[earlier] for later, earlier in edges)
    for left in range(9):
        for right in range(9):
            assert (place[left] == place[right]) == ({(left, right), (right, left)} <= reach)
    for before, after in pairwise(groups):  # otherwise in the order of the numbers
        needed = any((later, earlier) in reach for later in after for earlier in before)
        assert needed or before[0] < after[0]
