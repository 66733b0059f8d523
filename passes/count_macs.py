"""Analysis: the multiply-adds of every node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

import qpart_fx.macs.contractions
import qpart_fx.macs.einsum
import qpart_fx.macs.layers
import qpart_fx.macs.zero  # noqa: F401  (these four fill the table)
from qpart_fx.macs import aten
from qpart_fx.macs.functions import function_macs
from qpart_fx.macs.table import Call, Handler, HandlerError, Operation, count, handler_of, name_of, register_macs
from qpart_fx.meta import info, set_info, where
from qpart_fx.pass_manager import Pass, PassResult

__all__ = ["Call", "CountMacs", "Handler", "macs_of", "register_macs", "uncounted"]

_CALLS = ("call_function", "call_method", "call_module")
_METHOD_OWNERS: tuple[Any, ...] = (torch.Tensor, torch.Size, list, dict)


@dataclass(frozen=True)
class CountMacs(Pass):
    """Sets ``info(node).macs``, the o[l] of eqs. 1 to 4: multiply-adds of the node for the example inputs, whole batch.

    One MAC is one multiply-add of a contraction (a matrix product, a convolution). Elementwise operations, norms,
    pooling and look-ups count zero; an operation that no handler knows gets None, and :func:`uncounted` lists it.
    Needs the shapes of the nodes.
    """

    def run(self, graph_module: GraphModule) -> PassResult:
        for node in graph_module.graph.nodes:
            set_info(node, macs=macs_of(node))
        return PassResult(graph_module, modified=False)


def macs_of(call_node: Node) -> int | None:
    """Multiply-adds of one node: zero for what is no call, None where no handler knows the operation.

    Raises:
        ModelError: a handler from :func:`register_macs` raised, or returned something else than a count or None.
    """
    if call_node.op not in _CALLS:
        return 0
    operation = _operation(call_node)
    if operation is None:
        return None
    args, kwargs = map_arg((call_node.args, call_node.kwargs), lambda source: info(source).output)
    module = operation if isinstance(operation, nn.Module) else None
    call = Call(args, kwargs, info(call_node).output, module)
    try:
        known = count(operation, call)
        return function_macs(operation, call) if known is None else known
    except HandlerError as failure:
        raise failure.kind(f"cannot count the MACs of {where(call_node)}: {failure}") from failure.__cause__


def uncounted(graph_module: GraphModule) -> dict[str, str]:
    """Name of every node whose multiply-adds are unknown, and what it calls: register a handler for these.

    >>> class Spectrum(nn.Module):
    ...     def forward(self, x):
    ...         return torch.fft.rfft(x)
    >>> uncounted(torch.fx.symbolic_trace(Spectrum()))
    {'fft_rfft': 'torch.fft.rfft'}
    """
    unknown = (node for node in graph_module.graph.nodes if macs_of(node) is None)
    return {node.name: name_of(_operation(node) or node.target) for node in unknown}


def _operation(node: Node) -> Operation | None:
    """What ``node`` calls: a function, an unbound method, or a module."""
    if node.op == "call_module":
        owner = node.graph.owning_module
        return None if owner is None else owner.get_submodule(str(node.target))
    if node.op == "call_method":
        name = str(node.target)
        return next((getattr(owner, name) for owner in _METHOD_OWNERS if hasattr(owner, name)), None)
    function: Any = node.target
    return function if handler_of(function) else aten.function_of(function) or function
