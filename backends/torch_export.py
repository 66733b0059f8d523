"""``torch.export``: a head and a tail as programs that PyTorch loads without this package."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import torch

from qpart_fx.container import make_directory, write_file
from qpart_fx.exported_program import exported_program
from qpart_fx.exporting import quiet
from qpart_fx.runtimes import carried_by

from .base import Backend, Halves


@dataclass(frozen=True)
class TorchExportBackend(Backend):
    """Writes ``head.pt2`` and ``tail.pt2``, for any batch size, which ``torch.export.load`` reads.

    ``load(path).module()`` gives what the halves give, bit for bit. Quantized weights lie in 8 or 16 bits, and are made
    floats at every call; ``head.pt2`` holds the plan as ``plan.json`` among its extra files.
    """

    carries = carried_by("torch_export")

    def export(self, halves: Halves, directory: Path) -> list[Path]:
        inputs, payload = halves.examples()
        programs = {
            "head.pt2": exported_program(halves.head, inputs, "torch.export"),
            "tail.pt2": exported_program(halves.tail, payload, "torch.export"),
        }
        about = {} if halves.plan is None else {"plan.json": halves.plan.to_json()}
        make_directory(directory)
        for name, program in programs.items():
            content = io.BytesIO()
            with quiet():
                torch.export.save(program, content, extra_files=about if name == "head.pt2" else None)
            write_file(directory / name, content.getvalue())
        return [directory / name for name in programs]
