"""What an experiment found, as a section of the report: words, tables and figures, and the command that makes them."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

REPORT = Path(__file__).parents[1] / "report"
_SMALL = re.compile(r"[a-z][a-z0-9-]*")


@dataclass(frozen=True)
class Table:
    """``rows`` of as many cells as there are ``names``; the first column is left-aligned, the others right."""

    title: str
    names: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.names):
                raise ValueError(f"{self.title}: a row has {len(row)} cells for {len(self.names)} columns: {row}")


@dataclass(frozen=True)
class Figure:
    """``file``: its name in ``report/figures/``, as :func:`save_figure` gives it. ``title`` says what is to be seen."""

    title: str
    file: str


Part = str | Table | Figure
"""A text is Markdown."""


@dataclass(frozen=True)
class Section:
    """``name``: of its files, in lower case. ``command``: makes it again. ``seconds``: that it took."""

    name: str
    title: str
    command: str
    seconds: float
    parts: Sequence[Part]
    machine: str = ""

    def publish(self, report: Path = REPORT) -> None:
        """Write the section into ``report``, in place of the one of its name, and make the whole anew."""
        from .render import render

        if not _SMALL.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no name of a section: lower-case letters, digits and dashes")
        path = report / "sections" / f"{self.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_as_json(self), indent=1) + "\n")
        render(report)


def read_sections(report: Path) -> list[Section]:
    """All that were published, by name."""
    return [_from_json(json.loads(path.read_text())) for path in sorted((report / "sections").glob("*.json"))]


def save_figure(name: str, title: str, drawing: Drawing, report: Path = REPORT) -> Figure:
    """Write a drawing of matplotlib as ``report/figures/NAME.png``; the same drawing gives the same bytes."""
    path = report / "figures" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})
    return Figure(title, path.name)


def this_machine() -> str:
    """Its processor and versions, for a section's ``machine``."""
    import torch

    named = re.search(r"model name\s*:\s*(.*)", _cpuinfo())
    cpu = named.group(1) if named else platform.processor() or platform.machine()
    return f"{cpu}, {torch.get_num_threads()} threads, Python {platform.python_version()}, torch {torch.__version__}"


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def _as_json(section: Section) -> dict[str, Any]:
    def part(item: Part) -> dict[str, Any]:
        if isinstance(item, str):
            return {"text": item}
        if isinstance(item, Figure):
            return {"figure": item.file, "title": item.title}
        return {"table": [list(item.names), *map(list, item.rows)], "title": item.title}

    return {
        "name": section.name,
        "title": section.title,
        "command": section.command,
        "seconds": round(section.seconds, 1),
        "machine": section.machine or this_machine(),
        "parts": [part(item) for item in section.parts],
    }


def _from_json(known: dict[str, Any]) -> Section:
    def part(item: dict[str, Any]) -> Part:
        if "text" in item:
            return str(item["text"])
        if "figure" in item:
            return Figure(item["title"], item["figure"])
        names, *rows = item["table"]
        return Table(item["title"], names, rows)

    return Section(**{**known, "parts": [part(item) for item in known["parts"]]})
