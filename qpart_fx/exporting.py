"""torch.export as another way to a graph, and its result as a plain graph module: no guards, no pytree code."""

from __future__ import annotations

import functools
import inspect
import io
import logging
import operator
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from .graph_parts import graph_module_of
from .inputs import named_arguments
from .structure import NUMBERS, Build, Flatten, Part, fits_a_graph, take_apart

_CHECKS = ("_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range")
"""Operations that only check what was assumed while exporting."""


_LEAVES = (Tensor, *NUMBERS)
"""What an exported graph returns: numbers too, since they may follow from sizes."""


def export_graph(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any, *, dynamic: bool
) -> GraphModule:
    """The graph of ``model`` by ``torch.export``, called as the model is, returning what the model returns.

    Args:
        output: what the model returns for ``args`` and ``kwargs``: the structure that its tensors are put into.
        dynamic: the first dimension may vary where it is the batch's.
    """
    forward = model.forward

    @functools.wraps(forward)
    def flat(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
        values: list[Any] = []
        take_apart(forward(*args, **kwargs), values, _LEAVES)
        return tuple(values)

    model.forward = flat
    try:
        with quiet(), torch.no_grad():
            shapes = _batch_dimensions(model, args, kwargs) if dynamic else None
            program = torch.export.export(model, args, dict(kwargs), dynamic_shapes=shapes, strict=False)
            if any("_vmap" in str(node.target) for node in program.graph.nodes):
                program = program.run_decompositions({})  # no cut could go through a function transform
            exported = program.module(check_guards=False)
    finally:
        model.forward = forward
    size = _batch_size(args, kwargs) if dynamic else None
    structure = take_apart(output, [], _LEAVES)
    return _plain(type(model).__name__, exported, named_arguments(model, args, kwargs), structure, batch_size=size)


@contextmanager
def quiet() -> Iterator[None]:
    """torch.export logs and prints a failure at length; the caller of this module says it in a line."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _batch_dimensions(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    size = _batch_size(args, kwargs)

    def of(leaf: Any) -> Any:
        return {0: torch.export.Dim.AUTO} if _is_batch(leaf, size) else None

    bound = inspect.signature(model.forward).bind(*args, **kwargs)
    shapes: dict[str, Any] = pytree.tree_map(of, dict(bound.arguments))
    for name, parameter in bound.signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            shapes |= shapes.pop(name, {})  # torch.export wants each under its own name
    return shapes


def _batch_size(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    tensors = [leaf for leaf in pytree.tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor) and leaf.dim()]
    return tensors[0].shape[0] if tensors else 0


def _is_batch(leaf: Any, size: int) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == size


def _plain(
    name: str, exported: Any, arguments: list[tuple[str, Any]], structure: Part, *, batch_size: int | None
) -> GraphModule:
    """``exported`` without guards and pytree code: inputs under the model's names, structures made by modules.

    It checks the shapes of its inputs: for others it would compute something else. Only the first dimension of a tensor
    that is ``batch_size`` long may vary.
    """
    graph = Graph()
    modules: dict[str, nn.Module] = {}
    leaves: list[Node] = []
    inputs_given = [graph.placeholder(argument) for argument, _ in arguments]  # first of all, as a graph's inputs are
    for given, (argument, value) in zip(inputs_given, arguments, strict=True):
        flat, spec = pytree.tree_flatten(value)
        parts = [given] if spec.is_leaf() else []
        if flat and not spec.is_leaf():
            modules[f"take_apart_{argument}"] = Flatten(spec)
            made = graph.call_module(f"take_apart_{argument}", (given,))
            parts = [graph.call_function(operator.getitem, (made, index)) for index in range(len(flat))]
        leaves += parts
        for part, leaf in zip(parts, flat, strict=True):
            if isinstance(leaf, Tensor):
                free = batch_size is not None and _is_batch(leaf, batch_size)
                _require_shape(graph, part, tuple(leaf.shape), batched=free)
    placed: dict[Node, Node] = {}
    inputs = [node for node in exported.graph.nodes if node.op == "placeholder"]
    if len(inputs) != len(leaves):
        raise ValueError(f"the exported graph takes {len(inputs)} inputs, and the call gives {len(leaves)}")
    placed.update(zip(inputs, leaves, strict=True))
    for node in exported.graph.nodes:
        if node.op == "output":
            values = [placed[value] if isinstance(value, Node) else value for value in node.args[0]]
            graph.output(_output(graph, modules, structure, values))
        elif node.op != "placeholder" and not _is_check(node):
            placed[node] = graph.node_copy(node, placed.__getitem__)
    return graph_module_of(graph, exported, name, modules)


def _require_shape(graph: Graph, given: Node, shape: tuple[int, ...], *, batched: bool) -> None:
    """A check of the shape of an input; of a ``batched`` one, of all but the first dimension."""
    size = graph.call_method("size", (given,))
    if batched:
        size = graph.call_function(operator.getitem, (size, slice(1, None)))
    same = graph.call_function(operator.eq, (size, shape[batched:]))
    words = ", ".join(["any batch size"] * batched + [str(length) for length in shape[batched:]])
    message = f"the model froze the shape of its input '{given.name}' while it was captured: it takes [{words}] only"
    graph.call_function(torch._assert, (same, message))


def _output(graph: Graph, modules: dict[str, nn.Module], structure: Part, values: list[Any]) -> Any:
    if fits_a_graph(structure):
        return structure.build(values)
    modules["build_output"] = Build(structure)
    return graph.call_module("build_output", tuple(values))


def _is_check(node: Node) -> bool:
    target = str(node.target)
    return target.startswith("_guards") if node.op == "call_module" else any(check in target for check in _CHECKS)
