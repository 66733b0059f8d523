"""Symbolic tracing: with every input symbolic, or beside a run of one call that decides what plain tracing cannot."""

from __future__ import annotations

import operator
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node, Proxy, Tracer, _symbolic_trace
from torch.fx.node import map_arg
from torch.fx.proxy import TraceError
from torch.utils import _pytree as pytree

from .graph_parts import graph_module_of
from .inputs import copied, named_arguments
from .interpreter import thawed
from .meta import tensors_of, where
from .opaque import Opaque
from .own_model import left_as_it_was
from .structure import Build, Constant, TakeApart, fits_a_graph, take_apart

_CONTAINERS = (nn.TransformerEncoder, nn.TransformerDecoder, nn.Transformer, nn.ModuleList, nn.ModuleDict)
"""Modules of torch.nn that are traced through: their layers are what can be cut apart."""


_KINDS = frozenset("dim ndim ndimension is_floating_point is_complex is_contiguous is_cuda dtype device type".split())
"""What is asked of a tensor and follows neither from its contents nor from its size."""

_SIZES = _KINDS | frozenset("size shape numel nelement len stride storage_offset getattr".split())
"""What is asked of a tensor and does not follow from its contents."""

_SIZED_BY_CONTENTS = frozenset("nonzero argwhere unique unique_consecutive masked_select nms bincount".split())
"""Operations whose result has a size that follows from contents."""

_SIZED_AS_FIRST = frozenset(
    "index_add index_copy index_fill index_put scatter scatter_add scatter_reduce masked_fill masked_scatter copy "
    "setitem".split()
)
"""Operations whose result has the size of their first argument."""


_FACTORIES = "arange as_tensor empty eye full linspace ones tensor zeros".split()
"""Functions that make tensors of numbers, sizes among them."""


class SourceTracer(Tracer):
    """Plain symbolic tracing that remembers the line of the model's source of every node."""

    record_stack_traces = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, torch.jit.ScriptModule):
            return True
        return not isinstance(m, _CONTAINERS) and super().is_leaf_module(m, module_qualified_name)


class ValueProxy(Proxy):
    """A proxy that knows the value its node has in the run beside the trace."""

    tracer: RunTracer

    @property
    def value(self) -> Any:
        return self.tracer.values[self.node]

    def __len__(self) -> int:
        if isinstance(self.value, Tensor):
            return operator.index(self.size(0))
        if not isinstance(self.value, tuple | dict):  # these have the length that the code gives them
            self.tracer.require_settled(self.node)
        return len(self.value)

    def __iter__(self) -> Iterator[Any]:
        return self.tracer.iter(self)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})

    def __contains__(self, item: Any) -> bool:
        self.tracer.require_settled(self.node)
        return item in self.value

    def __int__(self) -> int:
        return int(self.tracer.decide(self.node))

    def __index__(self) -> int:
        return operator.index(self.tracer.decide(self.node))

    def __float__(self) -> float:
        return float(self.tracer.decide(self.node))

    def __hash__(self) -> int:
        return id(self)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.value, name)
        if callable(value):
            return super().__getattr__(name)  # a method, called next
        if isinstance(value, torch.dtype | torch.device | torch.layout | bool | None):
            return value  # what a tensor is made of does not change with its size
        return self.tracer.create_proxy("call_function", getattr, (self, name), {})


class RunTracer(SourceTracer):
    """Traces one call beside a real run of it: tensors are symbolic, and control flow follows the sizes of the run.

    The graph checks every decision on a size when it runs. A decision on the contents of a tensor, or on a size that
    follows from them, is refused: on other data it might be another. An argument that the call leaves out has its
    default; a number or flag that it gives stays an input, which the graph checks.

    Args:
        opaque: methods, each a module of the model and a name, whose calls become one node each.
    """

    proxy_buffer_attributes = True

    def __init__(
        self,
        model: nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        opaque: Sequence[tuple[nn.Module, str]] = (),
    ) -> None:
        super().__init__()
        self.values: dict[Node, Any] = {}
        self.made: dict[str, nn.Module] = {}
        self._model, self._args, self._kwargs, self._opaque = model, args, kwargs, opaque
        self._unsettled: set[Node] = set()
        self._fixed: set[Node] = set()
        self._executing = False  # what a node does is no part of the graph

    def graph_module(self) -> GraphModule:
        """The model's graph, over the model's own parts."""
        methods = [(owner, name, getattr(owner, name), vars(owner).get(name)) for owner, name in self._opaque]
        parts = [Opaque(owner, name, Constant(None)) for owner, name in self._opaque]  # before anything is patched
        for part, (owner, name, method, _) in zip(parts, methods, strict=True):
            vars(owner)[name] = self._recorded(part, method)
        try:
            with ExitStack() as patches:
                for name in _FACTORIES:
                    patches.enter_context(mock.patch.object(torch, name, self._symbolic(getattr(torch, name))))
                graph = self.trace(self._model)
        finally:
            for owner, name, _, own in methods:
                del vars(owner)[name]
                if own is not None:
                    vars(owner)[name] = own
        return graph_module_of(graph, self._model, type(self._model).__name__, self.made)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        named = named_arguments(self._model, self._args, self._kwargs)
        # All placeholders come first, as a graph's inputs do; one before a tensor's may have no default.
        last = max((place for place, (_, value) in enumerate(named) if _tensors(value)), default=-1)
        given = [
            self.graph.placeholder(name, None, *([] if place <= last else [value]))
            for place, (name, value) in enumerate(named)
        ]
        values = [self._given(node, copied(value)) for node, (_, value) in zip(given, named, strict=True)]
        args, kwargs = values[: len(self._args)], dict(zip(self._kwargs, values[len(self._args) :], strict=True))
        return lambda *_: self._returned(root_fn(self.root, *args, **kwargs)), [self.root]

    def proxy(self, node: Node) -> Proxy:
        return ValueProxy(node, self)

    def create_node(
        self,
        kind: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None = None,
        type_expr: Any = None,
    ) -> Node:
        node = super().create_node(kind, target, args, kwargs, name, type_expr)
        if kind != "placeholder" and kind != "output":
            self.values[node] = self._execute(node)
            if self._follows_contents(node):
                self._unsettled.add(node)
            elif self._is_fixed(node):
                self._fixed.add(node)
        return node

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        return forward(*args, **kwargs) if self._executing else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self._executing else super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_arg(self, a: Any) -> Any:
        return super().create_arg(a.item() if isinstance(a, np.generic) else a)

    def to_bool(self, obj: Proxy) -> bool:
        return bool(self.decide(obj.node))

    def iter(self, obj: Proxy) -> Iterator[Any]:
        return (self.create_proxy("call_function", operator.getitem, (obj, place), {}) for place in range(len(obj)))

    def keys(self, obj: Proxy) -> Any:
        return self.values[obj.node].keys()

    def decide(self, node: Node) -> Any:
        """The number that ``node`` has in this run, for Python to go by; the graph checks that it has it in others."""
        value = self.values[node]
        if isinstance(value, Tensor):
            raise TraceError("a decision on the contents of a tensor, which another input may take otherwise")
        self.require_settled(node)
        if node not in self._fixed:
            self._fixed.add(node)  # from the check on
            self._check(node, value, f"{where(node)}: the model decided by a size here, and was captured with another")
        return value

    def require_settled(self, node: Node) -> None:
        """Refuse to decide by a value that follows from the contents of tensors.

        Raises:
            TraceError: it does.
        """
        if node in self._unsettled:
            raise TraceError(
                "a decision on a size or number that follows from the contents of a tensor, which another input may "
                "take otherwise"
            )

    def _follows_contents(self, node: Node) -> bool:
        """Whether the number that ``node`` is, or the shape that it has, follows from the contents of tensors."""
        name = "" if node.op == "call_module" else _name(node.target)
        if name in _KINDS:
            return False
        sources = node.all_input_nodes
        if name in _SIZED_AS_FIRST:
            sources = sources[:1]
        if any(source in self._unsettled for source in sources):
            return True
        values = [self.values[source] for source in node.all_input_nodes]
        if not tensors_of(self.values[node]):
            return name not in _SIZES and any(map(tensors_of, values))
        if node.op == "call_module":
            return str(node.target) in self.made and isinstance(self.made[str(node.target)], Opaque)
        masked = any(isinstance(value, Tensor) and value.dtype in (torch.bool, torch.uint8) for value in values[1:])
        return (
            name in _SIZED_BY_CONTENTS
            or (name == "getitem" and masked)
            or (name == "repeat_interleave" and len(values) > 1)
            or (name == "where" and len(node.args) == 1)
        )

    def _is_fixed(self, node: Node) -> bool:
        """Whether the number that ``node`` is, or the shape that it has, is the same for every input."""
        name = node.args[1] if node.target is getattr and len(node.args) > 1 else _name(node.target)
        sources = node.all_input_nodes
        return name in _KINDS or node.op == "get_attr" or (bool(sources) and self._fixed.issuperset(sources))

    def _given(self, given: Node, value: Any) -> Any:
        """What the model is called with for an argument: its proxy, or the structure it has with proxies in it."""
        tensors: list[Any] = []
        structure = take_apart(value, tensors)
        self.values[given] = value
        if isinstance(value, Tensor):
            return self.proxy(given)
        name = f"take_apart_{given.target}"
        if tensors:
            self.made[name] = TakeApart(structure)
            parts: Any = self.create_proxy("call_module", name, (self.proxy(given),), {})
            return structure.build([parts[place] for place in range(len(tensors))])
        if value is not None:
            self._check(given, value, f"the graph was captured with {given.target} = {value!r} and knows no other")
        return value

    def _returned(self, value: Any) -> Any:
        """What the graph returns for what the model does: the same, made by a module where no graph can hold it."""
        parts: list[Any] = []
        structure = take_apart(value, parts, (Tensor, Proxy))
        if fits_a_graph(structure):
            return structure.build(parts)
        self.made["build_output"] = Build(structure)
        return self.create_proxy("call_module", "build_output", tuple(parts), {})

    def _check(self, node: Node, value: Any, message: str) -> None:
        same = self.create_proxy("call_function", operator.eq, (self.proxy(node), value), {})
        self.create_proxy("call_function", torch._assert, (same, message), {})

    def _recorded(self, part: Opaque, method: Callable[..., Any]) -> Callable[..., Any]:
        """What stands for ``method`` while it is opaque: every call a node."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._executing:
                return method(*args, **kwargs)
            proxies: list[Any] = []
            arguments = take_apart((args, kwargs), proxies, (Tensor, Proxy))
            name = f"opaque_{len(self.made)}_{part.method}"
            self.made[name] = part.called_with(arguments)
            return self.create_proxy("call_module", name, tuple(proxies), {})

        return call

    def _symbolic(self, factory: Callable[..., Any]) -> Callable[..., Any]:
        """``factory``, a node of the graph when it is called with proxies, which torch would take for numbers."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._executing or not any(isinstance(leaf, Proxy) for leaf in pytree.tree_leaves((args, kwargs))):
                return factory(*args, **kwargs)
            return self.create_proxy("call_function", factory, args, kwargs)

        return call

    def _execute(self, node: Node) -> Any:
        args, kwargs = map_arg((node.args, node.kwargs), self.values.__getitem__)
        args, kwargs = tuple(map(thawed, args)), {name: thawed(value) for name, value in kwargs.items()}
        self._executing = True
        try:
            with mock.patch.object(_symbolic_trace, "_is_fx_tracing_flag", False):  # compiled functions ask for it
                return self._call(node, args, kwargs)
        finally:
            self._executing = False

    def _call(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with torch.no_grad():
            if node.op == "call_function":
                return node.target(*args, **kwargs)  # type: ignore[operator]
            if node.op == "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            name = str(node.target)
            found = self.made[name] if name in self.made else self._part(name)
            return found.forward(*args, **kwargs) if node.op == "call_module" else found

    def _part(self, path: str) -> Any:
        return operator.attrgetter(path)(self.root)


def trace(model: nn.Module) -> Graph:
    """The graph of ``model`` with every argument of its forward symbolic."""
    return SourceTracer().trace(model)


def trace_call(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> GraphModule:
    """The graph of ``model`` as it is called with ``args`` and ``kwargs``; see :class:`RunTracer`."""
    return RunTracer(model, args, kwargs).graph_module()


def trace_around(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> GraphModule:
    """As :func:`trace_call`, with every method that cannot be traced as one opaque node, the smallest that will do.

    Raises:
        Exception: what tracing raised, where it comes from the model's own forward.
    """
    opaque: list[tuple[nn.Module, str]] = []
    while True:
        try:
            with left_as_it_was(model):
                return RunTracer(model, args, kwargs, opaque).graph_module()
        except Exception as error:
            found = _innermost_method(error, model, opaque)
            if found is None:
                raise
            opaque.append(found)


def _innermost_method(
    error: Exception, model: nn.Module, known: Sequence[tuple[nn.Module, str]]
) -> tuple[nn.Module, str] | None:
    """The method of a module of ``model`` that was running when ``error`` arose, but none that is ``known``."""
    modules = set(model.modules())
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        owner, name = frame.f_locals.get("self"), frame.f_code.co_name
        if not isinstance(owner, nn.Module) or owner not in modules or (owner is model and name == "forward"):
            continue
        own = name == "forward" or not hasattr(nn.Module, name)  # a method of the model's, not of every module
        if own and callable(getattr(type(owner), name, None)) and (owner, name) not in known:
            found = owner, name
    return found


def _tensors(value: Any) -> list[Any]:
    tensors: list[Any] = []
    take_apart(value, tensors)
    return tensors


def _name(target: Any) -> str:
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    return str(name).split(".")[0].strip("_")
