"""The log: one JSON object a line, on standard error. It holds neither payloads nor tokens."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

_LOGGER = logging.getLogger("qpart_fx.serving")

_MOST_TEXT = 500
"""Characters of a text in it: what callers send must not fill a disk."""


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line = {"time": when, "level": record.levelname.lower(), "event": record.getMessage()[:_MOST_TEXT]}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def start_logging(level: str = "info") -> None:
    """Write lines of ``level`` and above to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    _LOGGER.handlers[:] = [handler]
    _LOGGER.propagate = False
    _LOGGER.setLevel(level.upper())


def log(level: str, event: str, *, trace: bool = False, **fields: Any) -> None:
    """Write a line. ``trace``: with that of the exception that is being handled."""
    short = {name: value[:_MOST_TEXT] if isinstance(value, str) else value for name, value in fields.items()}
    _LOGGER.log(getattr(logging, level.upper()), event, exc_info=trace, extra={"fields": short})


class Seldom:
    """Whether to write a line of a kind that could come a thousand times a second: once in ``every_s`` of each."""

    def __init__(self, every_s: float = 1.0) -> None:
        self._every_s = every_s
        self._last: dict[str, tuple[float, int]] = {}

    def due(self, kind: str) -> int | None:
        """How many there were since the last line, this one included; None while it is too early. There must be few
        kinds."""
        now = time.monotonic()
        last, count = self._last.get(kind, (-self._every_s, 0))
        if now - last < self._every_s:
            self._last[kind] = last, count + 1
            return None
        self._last[kind] = now, 0
        return count + 1
