"""The report as Markdown (``README.md``, which a forge shows) and as one page of HTML that needs nothing else."""

from __future__ import annotations

import base64
import html
import re
from pathlib import Path

from .section import Figure, Part, Section, Table, read_sections

ORDER = ("paper-mnist", "paper-networks", "grid", "simulator", "peers", "micro")
"""Sections stand in this order; others after them."""

INTRODUCTION = """# What qpart_fx does, measured

Each section is made by the command that stands under its title, and can be made alone. `make paper` makes the
experiments of the paper and those beyond it, `make bench` the micro-benchmarks, `make peers` what other tools do.
Accuracies are on samples that served neither to make nor to choose a plan; ± is one standard error.
"""

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1c2330; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 3rem; border-bottom: 1px solid #d5dae3; padding-bottom: .3rem; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; font-size: .85rem; display: block; overflow-x: auto; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #e4e8ef; text-align: right; vertical-align: top; }
th:first-child, td:first-child { text-align: left; } th { background: #f4f6fa; }
img { max-width: 100%; } code { background: #f4f6fa; padding: .1rem .3rem; border-radius: 3px; }
pre { background: #f4f6fa; padding: .6rem .8rem; overflow-x: auto; } pre code { padding: 0; }
"""


def render(report: Path) -> None:
    """Write both from the sections in ``report``."""
    sections = sorted(read_sections(report), key=_place)
    markdown = INTRODUCTION + "".join(map(_markdown, sections))
    (report / "README.md").write_text(markdown)
    (report / "index.html").write_text(_page(markdown, report))


def _place(section: Section) -> tuple[int, str]:
    known = section.name in ORDER
    return ORDER.index(section.name) if known else len(ORDER), section.name


def _markdown(section: Section) -> str:
    head = f"\n## {section.title}\n\n```\n{section.command}\n```\n\n{section.seconds:,.0f} s on {section.machine}.\n"
    return head + "".join(f"\n{_part(part)}\n" for part in section.parts)


def _part(part: Part) -> str:
    if isinstance(part, Figure):
        return f"![{_plain(part.title)}](figures/{part.file})"
    if isinstance(part, Table):
        return f"**{_plain(part.title)}**\n\n{_table(part)}"
    return part


def _table(table: Table) -> str:
    ruler = [":--", *["--:"] * (len(table.names) - 1)]
    lines = [table.names, ruler, *table.rows]
    return "\n".join("| " + " | ".join(_plain(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _plain(text: str) -> str:
    """Text that is no markup, in Markdown."""
    return html.escape(text, quote=False)


def _page(markdown: str, report: Path) -> str:
    from markdown import markdown as to_html

    def embedded(found: re.Match[str]) -> str:
        content = base64.b64encode((report / found.group(1)).read_bytes()).decode()
        return f'src="data:image/png;base64,{content}"'

    body = to_html(markdown, extensions=["tables", "fenced_code", "toc"])
    body = re.sub(r'src="(figures/[^"]+)"', embedded, body)
    title = html.escape(markdown.splitlines()[0].removeprefix("# "))
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title>\n'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body>\n</html>\n"
    )
