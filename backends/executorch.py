"""ExecuTorch: a head and a tail as programs for devices, through XNNPACK."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.fx import GraphModule

from qpart_fx.container import make_directory, write_file
from qpart_fx.errors import MissingDependencyError, QPartError
from qpart_fx.exported_program import exported_program
from qpart_fx.exporting import quiet
from qpart_fx.failing_node import failure
from qpart_fx.runtimes import carried_by

from .base import Backend, Halves

_SAMPLES = 4
"""That programs are made for at least: torch.export takes two sizes for one."""


@dataclass(frozen=True)
class ExecutorchBackend(Backend):
    """Writes ``head.pte`` and ``tail.pte``, for as many samples at once as the example inputs have, four at least: the
    memory of a program is planned for the most.

    XNNPACK takes integer weights only where activations are integers too, and else only floats that are constants. So
    matrices lie in 8 or 16 bits, are made floats at every call, and multiplied by ExecuTorch's own kernels, in some 20
    times the time. For convolutions that would be 60 times and more: their weights are floats, each on its grid.
    """

    carries = carried_by("executorch")

    def export(self, halves: Halves, directory: Path) -> list[Path]:
        inputs, payload = halves.examples()
        programs = {"head.pte": _program(halves.head, inputs), "tail.pte": _program(halves.tail, payload)}
        make_directory(directory)
        for name, program in programs.items():
            write_file(directory / name, program)
        return [directory / name for name in programs]


def _program(graph_module: GraphModule, inputs: tuple[Any, ...]) -> bytes:
    try:
        return _lowered(graph_module, inputs)
    except QPartError:
        raise
    except Exception as error:
        raise failure(graph_module, inputs, "ExecuTorch", _lowered, error) from error


def _lowered(graph_module: GraphModule, inputs: tuple[Any, ...]) -> bytes:
    with quiet():
        try:
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower
            from executorch.runtime import Runtime
        except ModuleNotFoundError as error:
            raise MissingDependencyError("ExecuTorch", extra="executorch") from error
        samples = max(value.shape[0] if value.dim() else 1 for value in inputs)
        program = exported_program(graph_module, inputs, "ExecuTorch", integers=_is_matrix, most=max(samples, _SAMPLES))
        edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        content: bytes = edge.to_executorch().buffer
        Runtime.get().load_program(content).load_method("forward")  # XNNPACK refuses some programs only here
    return content


def _is_matrix(weight: Tensor) -> bool:
    return weight.dim() == 2
