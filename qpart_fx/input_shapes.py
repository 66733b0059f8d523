"""What a graph's inputs looked like when it was captured, in a file: what traces the graph again needs examples."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule

from .errors import ArtifactError
from .meta import TensorInfo, info, set_info


def input_shapes(graph_module: GraphModule) -> dict[str, Any]:
    """The dtype and shape of every input that is a tensor, as JSON, by the names of their nodes."""
    known = {node.name: info(node).output for node in graph_module.graph.nodes if node.op == "placeholder"}
    return {
        name: [str(each.dtype).removeprefix("torch."), list(each.shape)]
        for name, each in known.items()
        if isinstance(each, TensorInfo)
    }


def set_input_shapes(graph_module: GraphModule, record: dict[str, Any]) -> None:
    """Say again what :func:`input_shapes` said.

    Raises:
        ArtifactError: it is no such record.
    """
    for node in graph_module.graph.nodes:
        if node.op == "placeholder" and node.name in record:
            name, shape = record[node.name]
            dtype = getattr(torch, str(name), None)
            if not isinstance(dtype, torch.dtype) or not all(type(size) is int and 0 <= size < 2**31 for size in shape):
                raise ArtifactError(f"the file says that the input '{node.name}' is of the impossible {name}{shape}")
            set_info(node, output=TensorInfo(tuple(shape), dtype))
