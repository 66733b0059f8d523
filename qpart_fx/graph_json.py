"""A graph module as plain JSON and a table of tensors, and back: no pickle, and nothing but known operations."""

from __future__ import annotations

import keyword
import math
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from .errors import ArtifactError
from .operations import (
    check_attribute,
    check_method,
    function_name,
    function_named,
    module_from_record,
    module_to_record,
)

_OPCODES = ("placeholder", "get_attr", "call_function", "call_method", "call_module", "output")
_PART = re.compile(r"[\w +/:-]+")
_ENUMS: dict[type, str] = {torch.dtype: "dtype", torch.memory_format: "memory_format", torch.layout: "layout"}


def graph_to_record(graph_module: GraphModule) -> dict[str, Any]:
    """The structure of ``graph_module`` as plain JSON; its tensors are :func:`tensors_of`.

    Raises:
        ArtifactError: it calls something, or holds a constant, that a file may not.
    """
    nodes, modules = [], {}
    for node in graph_module.graph.nodes:
        nodes.append(node_to_record(node))
        if node.op == "call_module":
            modules[str(node.target)] = module_to_record(str(node.target), graph_module.get_submodule(str(node.target)))
    return {"name": graph_module._get_name(), "nodes": nodes, "modules": modules}


def node_to_record(node: Node) -> list[Any]:
    """A node of the graph as plain JSON.

    Raises:
        ArtifactError: it calls something, or holds a constant, that a file may not.
    """
    target = function_name(node.target) if node.op == "call_function" else str(node.target)
    if node.target is getattr:
        check_attribute(node.args[1])
    return [node.op, node.name, target, _encode(node.args), _encode(dict(node.kwargs))]


def graph_from_record(record: Any, tensors: Mapping[str, Tensor]) -> GraphModule:
    """The graph module in eval mode that :func:`graph_to_record` described, with ``tensors`` as its state.

    A tensor that requires a gradient becomes a parameter, as do all that the modules keep as parameters.

    Raises:
        ArtifactError: the record is malformed, calls an unknown operation, or misses a tensor.
    """
    try:
        root = _modules(record["modules"])
        _assign(root, tensors)
        graph = _graph(record["nodes"], record["modules"], tensors)
        return GraphModule(root, graph, class_name=_identifier(record["name"]))
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, AssertionError, SyntaxError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"the graph in the file is malformed: {type(error).__name__}: {error}") from error


def tensors_of(graph_module: GraphModule) -> dict[str, Tensor]:
    """Every tensor that ``graph_module`` needs, by qualified name, in its order; one that has two names is there
    twice."""
    tensors: dict[str, Tensor] = dict(graph_module.named_parameters(remove_duplicate=False))
    tensors |= dict(graph_module.named_buffers(remove_duplicate=False))
    for node in graph_module.graph.nodes:
        if node.op == "get_attr" and node.target not in tensors:
            value: Any = graph_module
            for part in str(node.target).split("."):
                value = getattr(value, part)
            if not isinstance(value, Tensor):
                raise ArtifactError(
                    f"the constant '{node.target}' is a {type(value).__name__}; a file holds tensors only"
                )
            tensors[str(node.target)] = value
    return dict(sorted(tensors.items()))


def _modules(records: Mapping[str, Any]) -> nn.Module:
    root = nn.Module()
    root.training = False
    for name, record in records.items():
        owner, leaf = _owner(root, name)
        owner.add_module(leaf, module_from_record(name, record))
    return root


def _assign(root: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    parameters: dict[int, nn.Parameter] = {}  # tied tensors stay tied
    for name, tensor in tensors.items():
        owner, leaf = _owner(root, name)
        expected = owner._parameters.get(leaf, owner._buffers.get(leaf))
        if expected is not None and expected.shape != tensor.shape:
            raise ArtifactError(f"tensor '{name}' is of shape {list(tensor.shape)}, not {list(expected.shape)}")
        if leaf in owner._parameters or isinstance(tensor, nn.Parameter):
            made = parameters.setdefault(id(tensor), nn.Parameter(tensor.detach(), tensor.requires_grad))
            owner.register_parameter(leaf, made)
        else:
            owner.register_buffer(leaf, tensor, persistent=leaf not in owner._non_persistent_buffers_set)
    for name, value in (*root.named_parameters(), *root.named_buffers()):
        if value.is_meta:
            raise ArtifactError(f"the file does not hold the tensor '{name}'")


def _owner(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    *path, leaf = name.split(".")
    if not all(_PART.fullmatch(part) for part in (*path, leaf)):  # a part becomes a part of generated code
        raise ArtifactError(f"{name!r} is no valid name of a module or tensor")
    owner = root
    for part in path:
        if part not in owner._modules:
            container = nn.Module()
            container.training = False
            owner.add_module(part, container)
        owner = owner.get_submodule(part)
    return owner, leaf


def _graph(records: list[Any], modules: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Graph:
    graph = Graph()
    nodes: dict[str, Node] = {}
    for opcode, name, target, args, kwargs in records:
        if opcode not in _OPCODES:
            raise ArtifactError(f"node '{name}' has the unknown opcode {opcode!r}")
        _identifier(name)
        args, kwargs = _decode(args, nodes), _decode(kwargs, nodes)
        if not isinstance(args, tuple) or not isinstance(kwargs, dict):
            raise ArtifactError(f"the arguments of node '{name}' are no tuple and dict")
        for key in kwargs:
            _identifier(key)
        call: Any = target
        if opcode == "call_function":
            call = function_named(target)
            if call is getattr:
                check_attribute(args[1])
        elif opcode == "call_method":
            check_method(target)
        elif opcode == "get_attr" and target not in tensors:
            raise ArtifactError(f"node '{name}' reads the tensor '{target}', which the file does not hold")
        elif opcode == "call_module" and target not in modules:
            raise ArtifactError(f"node '{name}' calls the module '{target}', which the file does not hold")
        elif opcode == "placeholder" and _identifier(target.removeprefix("*").removeprefix("*")) == "self":
            raise ArtifactError("an input cannot be called 'self'")
        nodes[name] = graph.create_node(opcode, call, args, kwargs, name)
    if [record[0] for record in records].index("output") != len(records) - 1:
        raise ArtifactError("the graph goes on behind its output")
    graph.lint()
    return graph


def _identifier(name: Any) -> str:
    """A name that becomes a part of generated code: it must be nothing but a name."""
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise ArtifactError(f"{name!r} is no valid name")
    if unicodedata.normalize("NFKC", name) != name:  # Python would read another name
        raise ArtifactError(f"{name!r} is no valid name")
    return name


def _encode(value: Any) -> Any:
    """A node's argument as JSON: plain values as they are, all else as a one-entry object that says what it is."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, Node):
        return {"node": value.name}
    if isinstance(value, torch.Size | tuple):
        return {"tuple": [_encode(item) for item in value]}
    if isinstance(value, list):
        return [_encode(item) for item in value]
    if isinstance(value, Mapping):
        return {"dict": [[_encode(key), _encode(item)] for key, item in value.items()]}
    if isinstance(value, slice):
        return {"slice": [_encode(value.start), _encode(value.stop), _encode(value.step)]}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if value is Ellipsis:
        return {"ellipsis": True}
    if type(value) in _ENUMS:
        return {_ENUMS[type(value)]: str(value).removeprefix("torch.")}
    raise ArtifactError(f"the graph holds a constant of type {type(value).__name__}, which no file can hold")


def _decode(value: Any, nodes: Mapping[str, Node]) -> Any:
    if isinstance(value, list):
        return [_decode(item, nodes) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "node":
        return nodes[content]
    if kind == "tuple":
        return tuple(_decode(item, nodes) for item in content)
    if kind == "dict":
        return {_decode(key, nodes): _decode(item, nodes) for key, item in content}
    if kind == "slice":
        return slice(*(_decode(item, nodes) for item in content))
    if kind == "float":
        return float(content)
    if kind == "device":
        return torch.device(content)
    if kind == "ellipsis":
        return Ellipsis
    for owner, name in _ENUMS.items():
        if kind == name and isinstance(found := getattr(torch, content, None), owner):
            return found
    raise ArtifactError(f"the graph holds a constant of the unknown kind {kind!r}")
