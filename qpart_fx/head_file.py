"""A head's file as a device reads it: without torch, and while it arrives, one tensor after the other.

reader = HeadReader()
for chunk in download:
    for tensor in reader.feed(chunk):
        ...
head = reader.close()
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import container
from .container import read_checked
from .errors import ArtifactError
from .plan_summary import PlanSummary
from .stored_tensor import Row, StoredTensor, read_tensor, size_of

ONNX_GRAPH = "ONNX graph"
"""The tensor that holds the graph of a head for a device without torch; no parameter can be called so."""


@dataclass(frozen=True, eq=False)
class Head:
    """``graph``: the record that ``graph_json`` describes; of a head whose graph is ONNX, in the tensor
    :data:`ONNX_GRAPH`, what its outputs are rounded to. ``tensors``: by qualified name; tied ones are one object.
    ``plan``: None for a head that was packed without."""

    graph: dict[str, Any]
    tensors: Mapping[str, StoredTensor]
    plan: PlanSummary | None


class HeadReader:
    """Reads a head's file while it arrives. What it gives counts once :meth:`close` has returned: the hash of the file
    comes last."""

    def __init__(self) -> None:
        self.graph: dict[str, Any] | None = None
        """The record of the graph, None until it has arrived."""
        self.plan: PlanSummary | None = None
        """What the file says of its plan, None until it has arrived, or if it says nothing."""
        self.tensors: dict[str, StoredTensor] = {}
        """Those that have arrived."""
        self._file = container.Reader("head")
        self._rows: list[Row] = []

    def feed(self, chunk: bytes) -> list[StoredTensor]:
        """Take in the bytes that have arrived next: the tensors that are whole now, in the file's order.

        Raises:
            ArtifactError: the bytes are those of no head.
        """
        self._file.feed(chunk)
        if self._file.manifest is None:
            return []
        return read_checked(self._read)

    def close(self) -> Head:
        """The file has arrived.

        Raises:
            ArtifactError: it has not: it is cut short; or it is damaged.
        """
        self._file.close()
        if self._rows or self._file.left or self.graph is None:
            raise ArtifactError(f"the file holds {self._file.left:,} bytes more than its tensors take")
        return Head(self.graph, self.tensors, self.plan)

    def _read(self) -> list[StoredTensor]:
        if self.graph is None:
            manifest: Any = self._file.manifest
            self.graph, self._rows = manifest["graph"]["graph"], list(manifest["graph"]["tensors"])
            if not isinstance(self.graph, dict):
                raise ArtifactError("the file's manifest is malformed: its graph is no record")
            if "plan" in manifest:
                self.plan = PlanSummary.from_record(manifest["plan"])
        found: list[StoredTensor] = []
        while self._rows:
            row = self._rows[0]
            if "same" in row:
                self.tensors[row["name"]] = self.tensors[row["same"]]
            else:
                size = size_of(row)
                if size > self._file.left:
                    raise ArtifactError(
                        f"tensor '{row['name']}' claims {size:,} bytes, and the file has {self._file.left:,} left"
                    )
                piece = self._file.take(size)
                if piece is None:
                    break
                found.append(read_tensor(row, piece))
                self.tensors[row["name"]] = found[-1]
            del self._rows[0]
        return found


def read_head(content: bytes) -> Head:
    """The head in a file that has arrived.

    Raises:
        ArtifactError: the file is cut short, damaged, of another version, or no head's.
    """
    reader = HeadReader()
    reader.feed(content)
    return reader.close()
