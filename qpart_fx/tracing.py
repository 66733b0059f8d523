"""Symbolic tracing: with every input symbolic, or beside a run of one call that decides what plain tracing cannot."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node, Proxy, Tracer
from torch.fx.node import map_arg
from torch.fx.proxy import TraceError

from .interpreter import thawed

_CONTAINERS = (nn.TransformerEncoder, nn.TransformerDecoder, nn.Transformer, nn.ModuleList, nn.ModuleDict)
"""Modules of torch.nn that are traced through: their layers are what can be cut apart."""


class SourceTracer(Tracer):
    """Plain symbolic tracing that remembers the line of the model's source of every node."""

    record_stack_traces = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not isinstance(m, _CONTAINERS) and super().is_leaf_module(m, module_qualified_name)


class ValueProxy(Proxy):
    """A proxy that knows the value its node has in the run beside the trace."""

    tracer: RunTracer

    @property
    def value(self) -> Any:
        return self.tracer.values[self.node]

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator[Any]:
        return self.tracer.iter(self)

    def __contains__(self, item: Any) -> bool:
        return item in self.value

    def __int__(self) -> int:
        return int(_number(self.value))

    def __index__(self) -> int:
        return operator.index(_number(self.value))

    def __float__(self) -> float:
        return float(_number(self.value))

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

    A decision on the contents of a tensor is refused: on other data it might be another. An argument that the call
    leaves out has its default; a number or flag that it gives stays an input, which the graph checks.
    """

    proxy_buffer_attributes = True

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        self.values: dict[Node, Any] = {}
        self._arguments = arguments
        self._executing = False  # what a node does is no part of the graph

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        values = {name: self._placeholder(name, value) for name, value in self._arguments.items()}
        call = inspect.signature(root_fn).bind_partial(self.root, **values)
        return lambda *_: root_fn(*call.args, **call.kwargs), [self.root]

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
        return node

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        return forward(*args, **kwargs) if self._executing else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self._executing else super().getattr(attr, attr_val, parameter_proxy_cache)

    def to_bool(self, obj: Proxy) -> bool:
        value = self.values[obj.node]
        if isinstance(value, Tensor):
            raise TraceError("a decision on the contents of a tensor, which another input may take otherwise")
        return bool(value)

    def iter(self, obj: Proxy) -> Iterator[Any]:
        count = len(self.values[obj.node])
        return (self.create_proxy("call_function", operator.getitem, (obj, index), {}) for index in range(count))

    def keys(self, obj: Proxy) -> Any:
        return self.values[obj.node].keys()

    def _placeholder(self, name: str, value: Any) -> Any:
        given = self.graph.placeholder(name) if isinstance(value, Tensor) else self.graph.placeholder(name, None, value)
        self.values[given] = value
        if isinstance(value, Tensor):
            return self.proxy(given)
        if value is not None:
            same = self.create_proxy("call_function", operator.eq, (self.proxy(given), value), {})
            message = f"the graph was captured with {name} = {value!r} and knows no other"
            self.create_proxy("call_function", torch._assert, (same, message), {})
        return value

    def _execute(self, node: Node) -> Any:
        args, kwargs = map_arg((node.args, node.kwargs), self.values.__getitem__)
        args, kwargs = tuple(map(thawed, args)), {name: thawed(value) for name, value in kwargs.items()}
        self._executing = True
        try:
            return self._call(node, args, kwargs)
        finally:
            self._executing = False

    def _call(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with torch.no_grad():
            if node.op == "call_function":
                return node.target(*args, **kwargs)  # type: ignore[operator]
            if node.op == "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            found: Any = self.root
            for part in str(node.target).split("."):
                found = getattr(found, part)
            return found.forward(*args, **kwargs) if node.op == "call_module" else found


def trace(model: nn.Module) -> Graph:
    """The graph of ``model`` with every argument of its forward symbolic."""
    return SourceTracer().trace(model)


def trace_call(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Graph:
    """The graph of ``model`` as it is called with ``args`` and ``kwargs``; see :class:`RunTracer`.

    Raises:
        TypeError: an argument is a structure of tensors, or one of ``*args`` or ``**kwargs``.
    """
    bound = inspect.signature(model.forward).bind(*args, **kwargs)
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            raise TypeError(f"the call gives '{name}', arguments without a name of their own")
        if not isinstance(value, Tensor | bool | int | float | str | None):
            raise TypeError(f"the call gives '{name}', a {type(value).__name__}")
    return RunTracer(bound.arguments).trace(model)


def _number(value: Any) -> Any:
    if isinstance(value, Tensor):
        raise TraceError("a number taken from the contents of a tensor, which another input may have otherwise")
    return value
