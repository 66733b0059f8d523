"""Measuring the link while nothing else is on it: what waits behind own messages says nothing of the link."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_HELD_SHARE = 0.25
"""Of its time, that a call waits at most while the link is measured."""

_LEAST_S = 0.001


class QuietLink:
    """Tells calls when to wait; any number of threads may call at once, and one of them measures."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._calls = 0
        self._measured = False

    @contextmanager
    def measured(self, patience_s: float) -> Iterator[bool]:
        """While this lasts calls wait, for a part of their time at most. Gives whether those under way have ended
        within ``patience_s``; if not, none waits."""
        with self._changed:
            self._measured = True
            alone = self._changed.wait_for(lambda: not self._calls, patience_s)
            self._measured = alone
            self._changed.notify_all()
        try:
            yield alone
        finally:
            with self._changed:
                self._measured = False
                self._changed.notify_all()

    @contextmanager
    def used(self, timeout_s: float) -> Iterator[float]:
        """For a call that has ``timeout_s``: the seconds that are left to it once it may begin."""
        start = time.monotonic()
        with self._changed:
            self._changed.wait_for(lambda: not self._measured, _HELD_SHARE * timeout_s)
            self._calls += 1
        try:
            yield max(timeout_s - (time.monotonic() - start), _LEAST_S)
        finally:
            with self._changed:
                self._calls -= 1
                self._changed.notify_all()
