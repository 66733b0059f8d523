"""OpenVINO: a head and a tail in its intermediate representation, quantized weights as 4- and 8-bit integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.fx import GraphModule

from qpart_fx.container import make_directory
from qpart_fx.errors import MissingDependencyError, QPartError
from qpart_fx.failing_node import failure
from qpart_fx.onnx_model import onnx_model
from qpart_fx.runtimes import carried_by

from .base import Backend, Halves

if TYPE_CHECKING:
    import openvino

_CONTAINERS = (4, 8, 16)
"""Widths of the integers that weights may lie in: OpenVINO reads none of 2 bits from ONNX."""


@dataclass(frozen=True)
class OpenvinoBackend(Backend):
    """Writes ``head.xml`` and ``tail.xml`` with their ``.bin``, for any batch size.

    What crosses is rounded in floats: OpenVINO does not round to integers of 16 bits, and not always as QuantizeLinear
    is defined to those of 8. Compiled with ``INFERENCE_PRECISION_HINT`` = ``f32``, halves equal PyTorch's.
    """

    carries = carried_by("openvino")

    def export(self, halves: Halves, directory: Path) -> list[Path]:
        try:
            import openvino
        except ModuleNotFoundError as error:
            raise MissingDependencyError("OpenVINO", extra="openvino") from error
        inputs, payload = halves.examples()
        models = {"head": _model(halves.head, inputs, halves.crossing), "tail": _model(halves.tail, payload)}
        if halves.plan is not None:
            models["head"].set_rt_info(halves.plan.to_json(), "qpart.plan")
        make_directory(directory)
        for name, model in models.items():
            openvino.save_model(model, directory / f"{name}.xml", compress_to_fp16=False)
        return [directory / f"{name}.{ending}" for name in models for ending in ("xml", "bin")]


def _model(graph_module: GraphModule, inputs: tuple[Any, ...], outputs: Sequence[str] | None = None) -> openvino.Model:
    try:
        return _read(graph_module, inputs, outputs)
    except QPartError:
        raise
    except Exception as error:  # OpenVINO raises RuntimeError, of many lines
        raise failure(graph_module, inputs, "OpenVINO", _read, error) from error


def _read(graph_module: GraphModule, inputs: tuple[Any, ...], outputs: Sequence[str] | None = None) -> openvino.Model:
    import openvino

    model = onnx_model(graph_module, inputs, {}, outputs, containers=_CONTAINERS, round_to_integers=False)
    return openvino.Core().read_model(model.SerializeToString(), b"")
