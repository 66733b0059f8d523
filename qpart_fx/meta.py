"""What the analysis passes know about a node: one typed record under one key of ``node.meta``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_aggregate

KEY = "qpart"

_NOT_THE_MODEL = (str(Path(torch.__file__).parent), str(Path(__file__).with_name("tracing.py")))


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Shape and dtype of a tensor that flows along an edge of the graph, for the example inputs."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * self.dtype.itemsize

    @property
    def quantizable(self) -> bool:
        return self.dtype.is_floating_point


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """All that is known offline about one node.

    ``output`` mirrors the structure of the node's value, every tensor replaced by its :class:`TensorInfo`.
    ``weights`` maps the qualified name of every weight first used by this node to its number of elements.
    ``macs`` is None where no handler knows the operation. ``storages``: the memory that the value lies in, as numbers
    that views of one tensor share. ``writes``: the memory that the node writes to in place.
    ``constant``: the value follows from parameters, buffers and numbers alone, and each side of a cut makes its own.
    ``random``: the node draws random numbers. ``opaque``: the node calls code of the model that no graph can hold, and
    runs on the server only.
    """

    output: Any = None
    storages: frozenset[int] = frozenset()
    writes: frozenset[int] = frozenset()
    constant: bool = False
    random: bool = False
    opaque: bool = False
    weights: Mapping[str, int] = field(default_factory=dict)
    macs: int | None = 0

    @property
    def parameters(self) -> int:
        return sum(self.weights.values())

    @property
    def elements(self) -> int:
        return sum(tensor.elements for tensor in tensors_in(self.output))


def info(node: Node) -> NodeInfo:
    """The record of ``node``; an empty one before the first analysis pass."""
    record = node.meta.get(KEY)
    return record if isinstance(record, NodeInfo) else NodeInfo()


def set_info(node: Node, **changes: Any) -> None:
    """Change the named fields of the record of ``node``."""
    node.meta[KEY] = replace(info(node), **changes)


def tensors_of(value: Any) -> list[Tensor]:
    """Every tensor within ``value``."""
    found: list[Tensor] = []

    def leaf(item: Any) -> Any:
        if isinstance(item, Tensor):
            found.append(item)
        return item

    map_aggregate(value, leaf)
    return found


def describe(value: Any) -> Any:
    """``value`` with every tensor in it replaced by its :class:`TensorInfo`.

    >>> describe((torch.zeros(2, 3), 7))
    (TensorInfo(shape=(2, 3), dtype=torch.float32), 7)
    """

    def leaf(item: Any) -> Any:
        return TensorInfo(tuple(item.shape), item.dtype) if isinstance(item, Tensor) else item

    return map_aggregate(value, leaf)


def tensors_in(value: Any) -> Iterator[TensorInfo]:
    """Every :class:`TensorInfo` within a structure made by :func:`describe`."""
    found: list[TensorInfo] = []

    def leaf(item: Any) -> Any:
        if isinstance(item, TensorInfo):
            found.append(item)
        return item

    map_aggregate(value, leaf)
    yield from found


def constants_behind(node: Node) -> list[Node]:
    """The constant nodes that ``node`` uses, directly or through other constants."""
    found: dict[Node, None] = {}
    pending = [node]
    while pending:
        for source in pending.pop().all_input_nodes:
            if info(source).constant and source not in found:
                found[source] = None
                pending.append(source)
    return list(found)


def where(node: Node) -> str:
    """The node and the line of the model's source it came from, for error messages."""
    lines = [line.strip() for line in (node.stack_trace or "").splitlines()]
    frames = [line for line in lines if line.startswith("File ") and not any(path in line for path in _NOT_THE_MODEL)]
    if not frames:
        return f"node '{node.name}'"
    file, line = frames[-1].split(",")[:2]
    return f"node '{node.name}' ({file.removeprefix('File ').strip(chr(34))}:{line.removeprefix(' line ')})"
