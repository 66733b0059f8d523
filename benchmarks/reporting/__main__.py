"""See the package."""

from __future__ import annotations

from .render import render
from .section import REPORT

render(REPORT)
print(f"{REPORT / 'README.md'} and index.html")
