"""How long an online decision takes: from stored patterns, and when a limit or a device's speeds make it solve."""

from __future__ import annotations

import cProfile
import gc
import itertools
import pstats
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from time import perf_counter_ns, thread_time_ns
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn

import qpart_fx as qpart
from qpart_fx.exact_planner import ExactPlanner, Machine
from qpart_fx.noise import WIDTHS
from qpart_fx.request_columns import columns_of

from .report import print_table
from .subjects import LADDER, profiled, request

_REQUESTS, _LIMITED, _SOLVED, _MANY = 2000, 100, 200, 1_000_000

_CHAIN = "chain of 100 cuts"


def latency(directory: Path, networks: tuple[str, ...] = ("resnet20", "mobilenet_v1")) -> dict[str, Any]:
    """Microseconds a decision, where they go, and how long a million takes; for a chain of 100 cuts too."""
    times, result = [], {}
    for name in (*networks, _CHAIN):
        found = measure(_chain(cuts=100) if name == _CHAIN else profiled(directory, name).profile)
        result[name] = found
        times += [
            [name, what, str(each["decisions"]), *(f"{each[key]:,.0f}" for key in _TIMES)]
            for what, each in found["times"].items()
        ]
    print_table("Microseconds a decision", ("network", "request", "decisions", *_TIMES), times)
    print_table(
        "Stored patterns",
        ("network", "cuts", "levels", "patterns of a level", "one pass over them"),
        [
            [name, *(str(each[key]) for key in ("cuts", "levels", "patterns")), f"{each['floor_us']:.1f} µs"]
            for name, each in result.items()
        ],
    )
    print_table(
        f"plan_many for {_MANY:,} requests: seconds, and microseconds to read one of the plans",
        ("network", "in all", "reading the fields of requests", "grouping and planning", "reading a plan"),
        [
            [name, *(f"{each['plan_many'][key]:.1f}" for key in ("seconds", "fields_s", "rest_s", "read_us"))]
            for name, each in result.items()
        ],
    )
    for name, each in result.items():
        lines = [[line, f"{share:.0%}"] for line, share in each["hot"].items()]
        print_table(f"{name}: where the time of plan goes, callees left out", ("function", "share"), lines)
    return result


_TIMES = ("median", "p99", "median of the clock", "p99 of the clock")


def measure(profile: qpart.Profile) -> dict[str, Any]:
    """The figures of one profile."""
    random = np.random.default_rng(0)
    requests = [_random_request(random) for _ in range(_REQUESTS)]
    for level in LADDER:  # the patterns of every level are made
        profile.plan(request(level, 1e9, 1e6, 1))
    stored = _times([_timed(profile.plan, each)[:2] for each in requests])
    table = ExactPlanner(profile).table(Machine(WIDTHS, WIDTHS), profile.levels[-1])
    return {
        "times": {
            "stored": stored,
            "solved, speeds by width": _times(
                [_timed(profile.plan, _by_width(each))[:2] for each in requests[:_SOLVED]]
            ),
            **_with_limits(profile, requests, random),
        },
        "plan_many": _at_once(profile),
        "cuts": len(set(table.patterns.cut.tolist())),
        "levels": len(profile.levels),
        "patterns": len(table.within),
        "floor_us": _floor(len(table.within)),
        "hot": _hot(profile, requests[:500]),
    }


def _chain(cuts: int) -> qpart.Profile:
    """The profile of linear layers in a row, each narrower than the one before: all cuts can be best."""
    torch.manual_seed(0)
    widths = range(cuts + 9, 9, -1)
    layers = [nn.Linear(inputs, outputs) for inputs, outputs in itertools.pairwise(widths)]
    return qpart.profile(nn.Sequential(*layers), [torch.randn(128, widths[0])], progress=False)


@cache
def _many() -> list[qpart.Request]:
    """Requests, none of which shares a device or a link with another."""
    random = np.random.default_rng(1)
    gc.disable()  # it would go through all of them again and again
    made = [_random_request(random) for _ in range(_MANY)]
    gc.enable()
    gc.collect()
    return made


def _at_once(profile: qpart.Profile) -> dict[str, float]:
    """Seconds that plan_many takes; what reading the fields of the requests alone takes of it; and the plans."""
    requests = _many()
    start = thread_time_ns()
    plans = profile.plan_many(requests)
    seconds = (thread_time_ns() - start) / 1e9
    start = thread_time_ns()
    columns_of(requests)
    fields = (thread_time_ns() - start) / 1e9
    some = plans[::100]
    start = thread_time_ns()
    for _ in some:
        pass
    read = (thread_time_ns() - start) / len(some) / 1e3
    return {"requests": _MANY, "seconds": seconds, "fields_s": fields, "rest_s": seconds - fields, "read_us": read}


def _with_limits(
    profile: qpart.Profile, requests: Sequence[qpart.Request], random: np.random.Generator
) -> dict[str, dict[str, float]]:
    """Times under a limit that the free plan breaks: answered from the table or solved, or refused after either."""
    kinds: dict[str, list[tuple[int, int]]] = {}
    solve, calls = ExactPlanner._within_limits, []

    def counted(*args: Any) -> Any:
        calls.append(1)
        return solve(*args)

    with mock.patch.object(ExactPlanner, "_within_limits", counted):
        for asked in requests:
            if sum(map(len, kinds.values())) >= _LIMITED:
                break
            if (limited := _limited(profile, asked, random)) is None:
                continue
            calls.clear()
            cpu, wall, refused = _timed(profile.plan, limited)
            kind = f"limit, {'solved' if calls else 'from the table'}{', refused' * refused}"
            kinds.setdefault(kind, []).append((cpu, wall))
    return {kind: _times(found) for kind, found in sorted(kinds.items())}


def _limited(profile: qpart.Profile, asked: qpart.Request, random: np.random.Generator) -> qpart.Request | None:
    """``asked`` with a limit that its plan without one breaks by 1 to 20 %; None where all is on the server."""
    free = profile.plan(asked)
    if not free.weight_bits:
        return None
    tighter = float(random.uniform(0.8, 0.99))
    speed = asked.device.clock_hz / asked.device.float_cycles_per_mac
    numbers = asked.max_accuracy_drop, speed, asked.link.uplink_bps, asked.inferences_per_download
    kind = int(random.integers(3))
    if kind == 0:
        weights = sum(layer.weight_bytes for layer in free.layers)
        memory = max(1, int(free.device_memory_bytes - (1 - tighter) * weights))
        return request(*numbers, device={"memory_bytes": memory})
    if kind == 1:
        return request(*numbers, deadline_s=tighter * free.time_s)
    return request(*numbers, energy_budget_j=tighter * free.energy_j)


def _random_request(random: np.random.Generator) -> qpart.Request:
    speed, rate, uses = (10 ** random.uniform(low, high) for low, high in ((7.7, 10.7), (5.7, 9), (0, 4)))
    return request(float(random.choice(LADDER)), speed, rate, int(uses))


def _by_width(asked: qpart.Request) -> qpart.Request:
    """``asked`` by a device that runs weights of up to four bits twice as fast, and those beyond eight bits four times
    more slowly."""
    cycles = asked.device.float_cycles_per_mac
    return replace(asked, device=replace(asked.device, cycles_per_mac={4: cycles / 2, 8: cycles, 16: 4 * cycles}))


def _timed(function: Callable[[qpart.Request], Any], asked: qpart.Request) -> tuple[int, int, bool]:
    """Nanoseconds of this thread and of the clock, and whether the request was refused."""
    refused = False
    wall, cpu = perf_counter_ns(), thread_time_ns()
    try:
        function(asked)
    except qpart.InfeasibleError:
        refused = True
    return thread_time_ns() - cpu, perf_counter_ns() - wall, refused


def _times(found: Sequence[tuple[int, int]]) -> dict[str, float]:
    cpu, wall = np.array(found).T / 1e3
    values = [*np.quantile(cpu, (0.5, 0.99)), *np.quantile(wall, (0.5, 0.99))]
    return {"decisions": len(found), **{key: float(value) for key, value in zip(_TIMES, values, strict=True)}}


def _floor(patterns: int) -> float:
    """Microseconds of what cannot be left out: every pattern priced, and the least found."""
    table, prices = np.random.default_rng(0).random((patterns, 4)), np.ones(4)
    runs = []
    for _ in range(2000):
        start = thread_time_ns()
        int((table @ prices).argmin())
        runs.append(thread_time_ns() - start)
    return float(np.median(runs)) / 1e3


def _hot(profile: qpart.Profile, requests: Sequence[qpart.Request], count: int = 10) -> dict[str, float]:
    """The functions that most of the time is spent in, and their shares."""
    watch = cProfile.Profile()
    for asked in requests:  # plans are not kept: collecting garbage would hide the rest
        watch.runcall(profile.plan, asked)
    stats: Any = pstats.Stats(watch)
    lines = sorted(((each[2], place) for place, each in stats.stats.items()), reverse=True)
    found: dict[str, float] = {}
    for seconds, (file, line, function) in lines[:count]:
        place = f"{Path(file).name}:{line} {function}" if line else function.partition(" at 0x")[0]
        found[place] = seconds / stats.total_tt
    return found
