"""The cheapest closed set, against brute force."""

from __future__ import annotations

import math
import random
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from qpart_fx.cut_graph import Block, CutGraph, Value
from qpart_fx.solver.min_cut import least_closed_set

Floats = NDArray[np.float64]


def random_graph(generator: random.Random, blocks: int, server_only: float = 0.1) -> CutGraph:
    """Blocks that use values of earlier ones; some values go to the output, some to many blocks."""
    needs: list[set[int]] = [set() for _ in range(blocks)]
    values: list[Value] = []
    for producer in range(blocks):
        for _ in range(generator.choice([1, 1, 2])):
            near = range(producer + 1, min(blocks, producer + 8))
            users = sorted(generator.sample(near, min(len(near), generator.choice([1, 1, 2, 3]))))
            output = not users or generator.random() < 0.1
            values.append(Value(f"v{len(values)}", producer, tuple(users), output, 1, 0))
            for user in users:
                needs[user].add(producer)
    for later in range(2, blocks):  # the order of writes is a need without a value
        if generator.random() < 0.1:
            needs[later].add(generator.randrange(1, later))
    return CutGraph(
        tuple(
            Block((f"n{index}",), 1, tuple(sorted(needs[index] - {0})), index > 0 and generator.random() < server_only)
            for index in range(blocks)
        ),
        tuple(values),
    )


def brute_force(graph: CutGraph, device: Floats, server: Floats, crossing: Floats) -> dict[tuple[bool, ...], float]:
    """The cost of every closed set."""
    costs = {}
    for rest in product([False, True], repeat=len(graph.blocks) - 1):
        inside = (True, *rest)
        wanted = [block for block, chosen in zip(graph.blocks, inside, strict=True) if chosen]
        if all(inside[need] for block in wanted for need in block.needs) and not any(b.server_only for b in wanted):
            sent = [
                inside[value.producer] and (value.output or not all(inside[user] for user in value.users))
                for value in graph.values
            ]
            chosen = np.array(inside)
            costs[inside] = float(device[chosen].sum() + server[~chosen].sum() + crossing[sent].sum())
    return costs


@pytest.mark.parametrize("kind", ["floats", "integers", "scales", "signs"])
@pytest.mark.parametrize("seed", range(75))
def test_equals_brute_force(seed: int, kind: str) -> None:
    generator, numbers = random.Random(f"{seed} {kind}"), np.random.default_rng(seed)
    graph = random_graph(generator, generator.randint(1, 12))

    def prices(count: int, low: float = 0) -> Floats:
        if kind == "integers":  # many closed sets cost the same
            return numbers.integers(0, 4, count).astype(np.float64)
        if kind == "scales":
            return np.asarray(10.0 ** numbers.uniform(-9, 9, count))
        return np.asarray(numbers.uniform(low, 1, count))

    low = -1 if kind == "signs" else 0
    device, server = prices(len(graph.blocks), low), prices(len(graph.blocks), low)
    crossing = prices(len(graph.values))
    costs = brute_force(graph, device, server, crossing)
    found = least_closed_set(graph, device, server, crossing)
    chosen = tuple(found.inside.tolist())
    total = float(np.abs(device).sum() + np.abs(server).sum() + crossing.sum())
    assert chosen in costs
    assert costs[chosen] == pytest.approx(min(costs.values()), rel=1e-12, abs=1e-12 * total)
    assert found.cost == pytest.approx(costs[chosen], rel=1e-12, abs=1e-12 * total)
    assert found.cost - 1e-12 * total <= found.bound <= found.cost


def chain() -> CutGraph:
    """inputs -> a -> b -> output, all values of one element."""
    return CutGraph(
        (Block(("x",), 0, ()), Block(("a",), 1, ()), Block(("b",), 1, (1,))),
        (Value("x", 0, (1,), False, 1, 0), Value("a", 1, (2,), False, 1, 0), Value("b", 2, (), True, 1, 0)),
    )


def test_a_price_that_is_infinite_forbids_a_side() -> None:
    nothing = np.zeros(3)
    everywhere = least_closed_set(chain(), nothing, np.array([0, math.inf, 0]), np.array([1.0, 2.0, 3.0]))
    assert everywhere.inside.tolist() == [True, True, False]
    assert everywhere.cost == everywhere.bound == 2
    impossible = least_closed_set(chain(), np.array([0, math.inf, 0]), np.array([0, 0, math.inf]), np.zeros(3))
    assert impossible.cost == math.inf


def test_a_price_that_is_far_below_the_others_still_decides() -> None:
    found = least_closed_set(chain(), np.array([1e12, 1e-6, 2e-6]), np.zeros(3), np.array([1e12, 1e12, 1e12]))
    assert found.inside.tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("device", "crossing", "message"),
    [
        ([0, math.nan, 0], [0, 0, 0], "price of a block is not a number"),
        ([0, -math.inf, 0], [0, 0, 0], "minus infinity"),
        ([0, 0, 0], [0, -1, 0], "price of a crossing value is negative"),
        ([0, 0, 0], [0, math.inf, 0], "not finite"),
    ],
)
def test_prices_that_make_no_sense(device: list[float], crossing: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        least_closed_set(chain(), np.array(device), np.zeros(3), np.array(crossing))


@pytest.mark.parametrize("blocks", [100, 1000])
def test_a_large_graph_leaves_no_gap(blocks: int) -> None:
    graph, numbers = random_graph(random.Random(blocks), blocks, server_only=0.002), np.random.default_rng(blocks)
    device, server = numbers.exponential(5, blocks), numbers.exponential(3, blocks)
    found = least_closed_set(graph, device, server, numbers.exponential(1, len(graph.values)))
    assert found.cost - found.bound <= 1e-12 * found.cost
    assert all(found.inside[need] for index in np.flatnonzero(found.inside) for need in graph.blocks[index].needs)
