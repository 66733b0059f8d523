"""Head and tail by three tools: the time that a split takes, and whether both together are the model.

All cut at the middle of the MACs, where one value crosses if there is such a place: our cut is named, the others are
told at which module or node it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.distributed.pipelining import SplitPoint, pipeline
from torch.fx import GraphModule, Node, symbolic_trace
from torch.fx.passes.split_module import split_module

import qpart_fx as qpart

from .networks import Example, examples

_RUNS = 3


def ours(example: Example) -> Callable[[Any], Any]:
    """The cut that no name is given for: the middle."""
    return qpart.split(example.model, example.inputs)


def fx_split_module(example: Example) -> Callable[[Any], Any]:
    """torch.fx.passes.split_module at the middle node of a symbolic trace."""
    traced = symbolic_trace(example.model)
    nodes = {node: place for place, node in enumerate(traced.graph.nodes)}

    def side(node: Node) -> int:
        return int(nodes[node] > len(nodes) // 2)

    made: GraphModule = split_module(traced, example.model, side)
    return made


def pipelining(example: Example) -> Callable[[Any], Any]:
    """torch.distributed.pipelining, of a copy, since it changes it: in front of the module in the middle of those that
    are called and have parameters of their own."""
    model = copy.deepcopy(example.model)
    at = _called(copy.deepcopy(model), example)
    made = pipeline(model, mb_args=(example.inputs,), split_spec={at[len(at) // 2]: SplitPoint.BEGINNING})
    stages = [made.get_stage_module(stage) for stage in range(made.num_stages)]
    if len(stages) != 2:
        raise RuntimeError(f"{len(stages)} stages")

    def run(inputs: Any) -> Any:
        crossing = stages[0](inputs)
        return stages[1](*crossing) if isinstance(crossing, tuple) else stages[1](crossing)

    return run


SPLITTERS: dict[str, Callable[[Example], Callable[[Any], Any]]] = {
    "ours": ours,
    "fx split_module": fx_split_module,
    "torch.distributed.pipelining": pipelining,
}


def split(directory: Path | None) -> dict[str, dict[str, dict[str, Any]]]:
    """Of each network and tool ``seconds``, the least of some runs, and ``difference``, the largest of the outputs; or
    the ``error``."""
    return {
        example.name: {name: _split(splitter, example) for name, splitter in SPLITTERS.items()}
        for example in examples(directory)
    }


def _split(splitter: Callable[[Example], Callable[[Any], Any]], example: Example) -> dict[str, Any]:
    spent = []
    for _ in range(_RUNS):
        start = perf_counter()
        try:
            made = splitter(example)
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            return {"error": f"{type(error).__name__}: {lines[0]}"[:160]}
        spent.append(perf_counter() - start)
    with torch.no_grad():
        try:
            difference = float((made(example.inputs) - example.model(example.inputs)).abs().max())
        except Exception as error:
            return {"error": f"runs not: {type(error).__name__}: {error}"[:160]}
    return {"seconds": min(spent), "difference": difference}


def _called(model: nn.Module, example: Example) -> list[str]:
    """The names of modules with parameters of their own, as the model calls them."""
    called: list[str] = []
    for name, module in model.named_modules():
        if [*module.parameters(recurse=False)]:
            module.register_forward_pre_hook(lambda *_, name=name: called.append(name))
    with torch.no_grad():
        model(example.inputs)
    return called
