"""Multiply-adds by four tools, and the seconds that each takes to count them."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from qpart_fx.compiler import analyse
from qpart_fx.meta import info
from qpart_fx.passes.capture import capture

from .networks import Example, examples

_RUNS = 5


def ours(model: nn.Module, inputs: Tensor) -> float:
    """Of capture and analysis, which also checks that the graph is the model."""
    graph = capture(model, (inputs,))
    analyse(graph, (inputs,), {})
    return float(sum(info(node).macs or 0 for node in graph.graph.nodes))


def flop_counter_mode(model: nn.Module, inputs: Tensor) -> float:
    """It counts a multiply-add as two operations."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(inputs)
    return float(counter.get_total_flops()) / 2


def fvcore(model: nn.Module, inputs: Tensor) -> float:
    """Its flops are multiply-adds, those of norms and of pooling to one value included."""
    analysis = importlib.import_module("fvcore.nn").FlopCountAnalysis(model, inputs)
    return float(analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total())


def ptflops(model: nn.Module, inputs: Tensor) -> float:
    """By its backend on the dispatched operators; norms, activations and biases included."""
    found, _ = importlib.import_module("ptflops").get_model_complexity_info(
        model, tuple(inputs.shape[1:]), as_strings=False, print_per_layer_stat=False, verbose=False, backend="aten"
    )
    return float(found)


COUNTERS: dict[str, Callable[[nn.Module, Tensor], float]] = {
    "ours": ours,
    "FlopCounterMode": flop_counter_mode,
    "fvcore": fvcore,
    "ptflops": ptflops,
}


def count(directory: Path | None) -> dict[str, dict[str, dict[str, Any]]]:
    """Of each network and tool ``macs`` and ``seconds``, the least of some runs; or the ``error``."""
    return {
        example.name: {name: _counted(counter, example) for name, counter in COUNTERS.items()}
        for example in examples(directory)
    }


def _counted(counter: Callable[[nn.Module, Tensor], float], example: Example) -> dict[str, Any]:
    spent, macs = [], 0.0
    for _ in range(_RUNS):
        model = copy.deepcopy(example.model)  # some leave their hooks in it
        start = perf_counter()
        try:
            with _quiet():
                macs = counter(model, example.inputs)
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"[:200]}
        spent.append(perf_counter() - start)
    return {"macs": macs, "seconds": min(spent)}


@contextlib.contextmanager
def _quiet() -> Any:
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
