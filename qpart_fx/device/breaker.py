"""A circuit breaker: whether the server is worth asking, so that a dead one costs one call its time, not every call."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from enum import Enum


class State(Enum):
    """``CLOSED``: calls go to the server. ``OPEN``: none do. ``TRIAL``: the next call does, and decides."""

    CLOSED, OPEN, TRIAL = "closed", "open", "trial"


class Breaker:
    """Opens when a call fails, for a time that doubles while calls go on failing. Who has found the server well again
    lets a call try; only an answer to a call closes it. Safe for many threads.

    Args:
        first_s: how long it is open after the first failure, seconds.
        most_s: the most it is ever open, seconds.
        clock: monotonic seconds.
        draw: a random number from 0 to 1: devices that lost a server should not all come back at once.
    """

    def __init__(
        self,
        *,
        first_s: float = 0.1,
        most_s: float = 3.0,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._first_s, self._most_s, self._clock, self._draw = first_s, most_s, clock, draw
        self._lock = threading.Lock()
        self._state = State.CLOSED
        self._failures = 0
        self._until = 0.0
        self._on_trial = False
        self._why: Exception | None = None

    @property
    def state(self) -> State:
        return self._state

    @property
    def why(self) -> Exception | None:
        """The last failure; None while all is well."""
        return self._why

    @property
    def rests_s(self) -> float:
        """Seconds until the server should be looked at again; 0 unless open."""
        with self._lock:
            return max(0.0, self._until - self._clock()) if self._state is State.OPEN else 0.0

    def admits(self) -> bool:
        """Whether this call may go to the server. One that may has to end in ``worked``, ``failed`` or ``undecided``:
        in a trial no other one goes before."""
        with self._lock:
            if self._state is State.TRIAL and not self._on_trial:
                self._on_trial = True
                return True
            return self._state is State.CLOSED

    def worked(self) -> bool:
        """A call was answered. Returns whether this closed it."""
        with self._lock:
            closed = self._state is not State.CLOSED
            self._state, self._failures, self._on_trial, self._why = State.CLOSED, 0, False, None
            return closed

    def failed(self, why: Exception, *, rest_s: float = 0.0) -> bool:
        """A call failed, and none should follow for some time, ``rest_s`` at least. Returns whether this opened it."""
        with self._lock:
            opened = self._state is State.CLOSED
            if self._state is not State.OPEN:  # or else it is one of the calls that were under way
                self._failures += 1
                self._rest(rest_s)
            else:
                self._until = max(self._until, self._clock() + rest_s)
            self._state, self._on_trial, self._why = State.OPEN, False, why
            return opened

    def still_bad(self, why: Exception, *, rest_s: float = 0.0) -> None:
        """Who looked at the server found it no better."""
        with self._lock:
            self._failures += 1
            self._state, self._on_trial, self._why = State.OPEN, False, why
            self._rest(rest_s)

    def looks_well(self) -> None:
        """Who looked at the server found it well: a call may try."""
        with self._lock:
            if self._state is State.OPEN:
                self._state, self._on_trial = State.TRIAL, False

    def undecided(self) -> None:
        """A call that was admitted went to no server, or says nothing about it: another one may try."""
        with self._lock:
            self._on_trial = False

    def _rest(self, least_s: float) -> None:
        wait = min(self._most_s, self._first_s * 2.0 ** min(self._failures - 1, 30))
        self._until = self._clock() + max(least_s, wait * (0.5 + self._draw() / 2))
