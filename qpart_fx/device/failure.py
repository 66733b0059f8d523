"""How calls to a server fail, as far as it matters to who called."""

from __future__ import annotations

from enum import Enum


class Kind(Enum):
    """What a failure means for who called.

    ``BROKEN``: the connection, or what came over it. ``LATE``: the time is up. ``OVERLOADED``: later. ``FORGOTTEN``:
    the server does not know the plan. ``REFUSED``: who asks, or what. ``INFEASIBLE``: no plan meets the request.
    ``UNFIT``: the server cannot read what was sent, or the link altered it.
    """

    BROKEN, LATE, OVERLOADED, FORGOTTEN, REFUSED, INFEASIBLE, UNFIT = range(7)


class Failure(Exception):  # noqa: N818  # an outcome, which never leaves this package
    """A call without an answer. ``rest_s``: seconds in which the server wants no other one."""

    def __init__(self, kind: Kind, words: str, *, rest_s: float = 0.0, limit: str | None = None) -> None:
        super().__init__(words)
        self.kind = kind
        self.rest_s = rest_s
        self.limit = limit
