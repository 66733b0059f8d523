"""The backend for PyTorch itself: the packed head for the device, the tail, the plan, and the code of both to read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qpart_fx.container import make_directory, write_file
from qpart_fx.runtimes import carried_by

from .base import Backend, Halves
from .packed import pack_head, pack_tail


@dataclass(frozen=True)
class EagerBackend(Backend):
    """Writes ``head.qpart`` and ``tail.qpart``, which :func:`qpart_fx.load` reads as graph modules."""

    carries = carried_by("eager")

    def export(self, halves: Halves, directory: Path) -> list[Path]:
        head, tail, plan = halves.head, halves.tail, halves.plan
        files = {
            "head.qpart": pack_head(head, plan),
            "tail.qpart": pack_tail(tail),
            "head.py.txt": head.code.strip().encode(),
            "tail.py.txt": tail.code.strip().encode(),
        }
        if plan is not None:
            files["plan.json"] = plan.to_json().encode()
        make_directory(directory)
        for name, content in files.items():
            write_file(directory / name, content)
        return [directory / name for name in files]
