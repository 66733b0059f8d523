"""What each step of the compiler takes, from a module to a plan and its two halves, and what running them takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.fx import GraphModule

import qpart_fx as qpart
from benchmarks.branching import NETWORKS
from qpart_fx.calibration import read_batches
from qpart_fx.compiler import analyse
from qpart_fx.demo import DigitsNet
from qpart_fx.head_file import read_head
from qpart_fx.meta import info
from qpart_fx.passes.capture import capture
from qpart_fx.passes.find_closed_cuts import cut_graph, find_closed_cuts
from qpart_fx.passes.measure_sensitivity import measure_sensitivity
from qpart_fx.scores import ClassScores
from qpart_fx.solver.min_cut import least_closed_set

SAMPLES = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
REQUEST = qpart.Request.paper(0.05, inferences_per_download=1000)


@dataclass(frozen=True)
class Compiled:
    """A small residual network with all that comes of it; each made once."""

    @cached_property
    def model(self) -> DigitsNet:
        torch.manual_seed(0)
        return DigitsNet().eval()

    @cached_property
    def graph(self) -> GraphModule:
        return self.analysed()

    @cached_property
    def branching(self) -> GraphModule:
        """One with branches, and some hundred closed sets."""
        make, inputs = NETWORKS["inception"]
        return _analysed(capture(make(), (inputs(2),)), inputs(1))

    @cached_property
    def profile(self) -> qpart.Profile:
        return qpart.profile(self.model, [SAMPLES], progress=False)

    @cached_property
    def split(self) -> qpart.SplitModel:
        """The middle of it: layers on both sides."""
        middle = min(self.profile.closed_cuts, key=lambda cut: abs(cut.device_macs - cut.server_macs))
        return self.profile.compile(self.profile.plan(REQUEST, cut=middle.crossing), progress=False)

    @cached_property
    def head_file(self) -> bytes:
        return self.split.packed_head()

    @cached_property
    def payload(self) -> Any:
        return self.split.head(SAMPLES[:1])

    @cached_property
    def message(self) -> bytes:
        return self.split.pack_activation(self.payload)

    def analysed(self) -> GraphModule:
        return _analysed(capture(self.model, (SAMPLES[:2],)), SAMPLES[:1])

    def sensitivity(self) -> Any:
        layers = {node.name: tuple(info(node).weights) for node in self.graph.graph.nodes if info(node).parameters}
        batches = read_batches([SAMPLES], max_samples=len(SAMPLES))
        return measure_sensitivity(
            self.graph, batches, ClassScores(), layers=layers, ranges=dict(self.profile.ranges), seed=0,
            progress=lambda items: items,
        )  # fmt: skip

    def least_cut(self) -> Any:
        graph = cut_graph(self.branching).strict()
        blocks, values = len(graph.blocks), len(graph.values)
        generator = torch.Generator().manual_seed(0)
        device, server, crossing = (
            torch.rand(count, generator=generator, dtype=torch.float64).numpy() for count in (blocks, blocks, values)
        )
        return least_closed_set(graph, device, server, crossing)


def _analysed(graph: GraphModule, inputs: Any) -> GraphModule:
    analyse(graph, (inputs,), {})
    return graph


STEPS: dict[str, Callable[[Compiled], Any]] = {
    "capture": lambda of: capture(of.model, (SAMPLES[:2],)),
    "analysis": lambda of: _analysed(of.graph, SAMPLES[:1]),
    "sensitivity": lambda of: of.sensitivity(),
    "closed cuts": lambda of: find_closed_cuts(of.branching),
    "minimum cut": lambda of: of.least_cut(),
    "profile": lambda of: qpart.profile(of.model, [SAMPLES], progress=False),
    "plan": lambda of: of.profile.plan(REQUEST),
    "quantize": lambda of: of.profile.compile(of.split.plan or REQUEST, progress=False),
    "pack the head": lambda of: of.split.packed_head(),
    "unpack the head": lambda of: read_head(of.head_file),
    "pack the activation": lambda of: of.split.pack_activation(of.payload),
    "unpack the activation": lambda of: of.split.unpack_activation(of.message),
}
RUNS: dict[str, Callable[[Compiled], Any]] = {
    "whole model": lambda of: of.model(SAMPLES[:1]),
    "head": lambda of: of.split.head(SAMPLES[:1]),
    "tail": lambda of: of.split.tail(*of.payload),
}


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return Compiled()


@pytest.mark.parametrize("step", STEPS)
def test_step(benchmark: BenchmarkFixture, compiled: Compiled, step: str) -> None:
    STEPS[step](compiled)  # what it needs is made before
    benchmark(STEPS[step], compiled)


@pytest.mark.parametrize("part", RUNS)
def test_run(benchmark: BenchmarkFixture, compiled: Compiled, part: str) -> None:
    """One sample; the split's overhead is head and tail, below, over the whole model."""
    with torch.no_grad():
        RUNS[part](compiled)
        benchmark(RUNS[part], compiled)


def test_split_overhead(benchmark: BenchmarkFixture, compiled: Compiled) -> None:
    """Head then tail at float precision: the limit is the whole model above."""
    split = qpart.split(compiled.model, SAMPLES)
    with torch.no_grad():
        benchmark(split, SAMPLES[:1])
