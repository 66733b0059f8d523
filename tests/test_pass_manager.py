"""Pipelines run, observe, and say which pass failed."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.fx import GraphModule, symbolic_trace

import qpart_fx as qpart
from qpart_fx.pass_manager import Pass, PassResult, Pipeline


@dataclass(frozen=True)
class Rename(Pass):
    to: str

    def run(self, graph_module: GraphModule) -> PassResult:
        graph_module.graph.output_node().name = self.to
        return PassResult(graph_module, modified=True)


@dataclass(frozen=True)
class Fails(Pass):
    error: Exception

    def run(self, graph_module: GraphModule) -> PassResult:
        raise self.error


def graph() -> GraphModule:
    return symbolic_trace(nn.Linear(2, 2))


def test_runs_in_order() -> None:
    assert Pipeline([Rename("first"), Rename("second")]).run(graph()).graph.output_node().name == "second"


def test_a_mistake_of_ours_names_the_pass_and_those_before() -> None:
    with pytest.raises(qpart.InternalError, match=r"Fails\(.*\) failed after Rename: 'lost'") as caught:
        Pipeline([Rename("a"), Fails(KeyError("lost"))]).run(graph())
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_mistake_of_the_user_passes_through() -> None:
    with pytest.raises(qpart.RequestError, match=r"^mine$"):
        Pipeline([Fails(qpart.RequestError("mine"))]).run(graph())


@pytest.mark.parametrize(("level", "lines"), [("0", 0), ("", 0), ("1", 1), ("3", 5)])
def test_debug_levels(
    level: str, lines: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QPART_DEBUG", level)
    Pipeline([Rename("a")]).run(symbolic_trace(nn.ReLU()))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) >= lines
    assert ("Rename(to='a') modified the graph in" in printed.err) == (lines > 0)
    assert torch.is_grad_enabled()
