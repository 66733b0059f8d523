"""ONNX: a head and a tail for any runtime that reads it, quantized weights as integers behind DequantizeLinear."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qpart_fx.container import make_directory, write_file
from qpart_fx.onnx_model import onnx_model
from qpart_fx.runtimes import carried_by

from .base import Backend, Halves


@dataclass(frozen=True)
class OnnxBackend(Backend):
    """Writes ``head.onnx`` and ``tail.onnx``, for any batch size; nodes are called by the model's layers.

    The head returns what crosses, rounded, under the names of the plan's cut; the tail takes it under these. Weights
    lie in the least integers of ONNX that hold their codes: 2, 4, 8 or 16 bits. In onnxruntime the head equals
    PyTorch's with the session option ``session.disable_quant_qdq`` = 1; without, it may round activations where 4-bit
    weights are multiplied.
    """

    carries = carried_by("onnx")

    def export(self, halves: Halves, directory: Path) -> list[Path]:
        inputs, payload = halves.examples()
        about = {} if halves.plan is None else {"qpart.plan": halves.plan.to_json()}
        models = {
            "head.onnx": onnx_model(halves.head, inputs, {"qpart.side": "head", **about}, outputs=halves.crossing),
            "tail.onnx": onnx_model(halves.tail, payload, {"qpart.side": "tail", **about}),
        }
        make_directory(directory)
        for name, model in models.items():
            write_file(directory / name, model.SerializeToString())
        return [directory / name for name in models]
