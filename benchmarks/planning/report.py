"""Tables for people, and one JSON file for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def print_table(title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A titled table; the first column left, the others right."""
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    print(f"\n{title}\n")
    for row in (names, *rows):
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        print("  " + "  ".join([row[0].ljust(widths[0]), *cells[1:]]))


def write_results(path: Path, topic: str, by_network: Mapping[str, Any]) -> None:
    """Put a topic's results into the JSON file at ``path``; those of other topics and networks stay."""
    known = json.loads(path.read_text()) if path.exists() else {}
    known[topic] = {**known.get(topic, {}), **_without_nan(by_network)}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(known, indent=1) + "\n")


def _without_nan(value: Any) -> Any:
    """``value`` with null for what JSON has no number for."""
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
