"""torch.export as another way to a graph, and its result as a plain graph module: no guards, no pytree code."""

from __future__ import annotations

import functools
import inspect
import logging
import operator
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from .structure import Build, Leaf, Part, TakeApart, Tree, take_apart

_CHECKS = ("_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range")
"""Operations that only check what was assumed while exporting."""


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
    def tensors_only(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
        tensors: list[Any] = []
        take_apart(forward(*args, **kwargs), tensors)
        return tuple(tensors)

    model.forward = tensors_only
    try:
        with _quiet(), torch.no_grad():
            shapes = _batch_dimensions(model, args, kwargs) if dynamic else None
            program = torch.export.export(model, args, dict(kwargs), dynamic_shapes=shapes, strict=False)
            exported = program.module(check_guards=False)
    finally:
        model.forward = forward
    tensors: list[Any] = []
    structure = take_apart(output, tensors)
    return _plain(type(model).__name__, exported, _named(model, args, kwargs), structure, frozen=not dynamic)


@contextmanager
def _quiet() -> Iterator[None]:
    """torch.export logs a failure at length; the caller of this module says it in a line."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _batch_dimensions(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    tensors = [leaf for leaf in pytree.tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor) and leaf.dim()]
    size = tensors[0].shape[0] if tensors else 0

    def of(leaf: Any) -> Any:
        batched = isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == size
        return {0: torch.export.Dim.AUTO} if batched else None

    bound = inspect.signature(model.forward).bind(*args, **kwargs)
    return {name: pytree.tree_map(of, value) for name, value in bound.arguments.items()}


def _plain(name: str, exported: Any, arguments: list[tuple[str, Any]], structure: Part, *, frozen: bool) -> GraphModule:
    """``exported`` without guards and pytree code: inputs under the model's names, structures made by modules.

    One that is ``frozen`` checks the shapes of its inputs: for others it would compute something else.
    """
    graph = Graph()
    modules: dict[str, nn.Module] = {}
    leaves: list[Node] = []
    for argument, value in arguments:
        given = graph.placeholder(argument)
        flat, spec = pytree.tree_flatten(value)
        if spec.is_leaf():
            leaves.append(given)
            if frozen and isinstance(value, Tensor):
                _require_shape(graph, given, tuple(value.shape))
        elif flat:
            modules[f"take_apart_{argument}"] = TakeApart(take_apart(value, []))
            parts = graph.call_module(f"take_apart_{argument}", (given,))
            leaves += [graph.call_function(operator.getitem, (parts, index)) for index in range(len(flat))]
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
    for path, module in modules.items():
        exported.add_module(path, module)
    result = GraphModule(exported, graph, class_name=name)
    for module in result.modules():
        module.training = False
    return result


def _require_shape(graph: Graph, given: Node, shape: tuple[int, ...]) -> None:
    same = graph.call_function(operator.eq, (graph.call_method("size", (given,)), shape))
    message = (
        f"the model froze the shape of its input '{given.name}' while it was captured: it takes {list(shape)} only"
    )
    graph.call_function(torch._assert, (same, message))


def _output(graph: Graph, modules: dict[str, nn.Module], structure: Part, values: list[Any]) -> Any:
    if _fits_a_graph(structure):
        return structure.build(values)
    modules["build_output"] = Build(structure)
    return graph.call_module("build_output", tuple(values))


def _fits_a_graph(part: Part) -> bool:
    """Whether a graph's output can hold the structure itself."""
    if isinstance(part, Tree):
        return part.spec.type in (tuple, list, dict) and all(_fits_a_graph(each) for each in part.parts)
    return isinstance(part, Leaf)


def _named(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Names and values of a call, as torch.export orders them: positional arguments, then keyword arguments."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [each.name for each in inspect.signature(model.forward).parameters.values() if each.kind in kinds]
    names += [f"input_{place}" for place in range(len(names), len(args))]
    return [*zip(names, args, strict=False), *kwargs.items()]


def _is_check(node: Node) -> bool:
    target = str(node.target)
    return target.startswith("_guards") if node.op == "call_module" else any(check in target for check in _CHECKS)
