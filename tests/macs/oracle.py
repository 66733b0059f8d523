"""Counts to compare: ours, and torch's own of the same call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, symbolic_trace
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from qpart_fx.meta import info
from qpart_fx.passes.count_macs import CountMacs, uncounted
from qpart_fx.passes.propagate_shapes import PropagateShapes


def by_torch(run: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    """Multiply-adds as torch counts them, two operations each.

    It sees ``mm``, ``addmm``, ``bmm``, ``baddbmm`` and convolutions: not ``mv`` and ``dot``, nor what is inside of
    fused attention, which is therefore switched off.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            torch.no_grad(),
            sdpa_kernel(SDPBackend.MATH),
            torch.backends.opt_einsum.flags(enabled=False),
            FlopCounterMode(display=False) as counter,
        ):
            run(*args, **kwargs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    flops = int(counter.get_total_flops())
    assert flops % 2 == 0
    return flops // 2


def annotate(graph_module: GraphModule, *inputs: Any) -> GraphModule:
    PropagateShapes(inputs).run(graph_module)
    return CountMacs().run(graph_module).graph_module


def traced(model: nn.Module | Callable[..., Any], *inputs: Any) -> GraphModule:
    return annotate(symbolic_trace(model.eval() if isinstance(model, nn.Module) else model), *inputs)


def one_call(operation: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> GraphModule:
    """A graph of one node, ``call``: a function, a module, or a method by its name. Every tensor given is an input."""
    graph = Graph()
    inputs: list[Tensor] = []

    def placeholder(tensor: Tensor) -> Any:
        inputs.append(tensor)
        return graph.placeholder(f"x{len(inputs)}")

    args, kwargs = tree_map_only(Tensor, placeholder, (args, kwargs))
    root = nn.Module()
    if isinstance(operation, nn.Module):
        root.add_module("leaf", operation.eval())
        node = graph.create_node("call_module", "leaf", args, kwargs, name="call")
    else:
        kind = "call_method" if isinstance(operation, str) else "call_function"
        node = graph.create_node(kind, operation, args, kwargs, name="call")
    graph.output(node)
    return annotate(GraphModule(root, graph), *inputs)


def macs(graph_module: GraphModule) -> dict[str, int | None]:
    return {node.name: info(node).macs for node in graph_module.graph.nodes}


def total(graph_module: GraphModule) -> int:
    """All of it; fails where any node is unknown."""
    assert uncounted(graph_module) == {}
    return sum(count or 0 for count in macs(graph_module).values())


def ours(operation: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> int:
    """Our count of one call."""
    return total(one_call(operation, *args, **kwargs))
