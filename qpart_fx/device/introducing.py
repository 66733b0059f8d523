"""How a server is told of a plan that another one made, or that it made itself before it was started again."""

from __future__ import annotations

from ..serving_protocol import Introduction, PlanAnswer

_CALLS = 8
"""So many calls say it, once one had to: with several servers the next one goes to another of them, and only some later
one comes to the server that did not know."""


class Introducing:
    """Says with which calls the plan of ``answer`` is to be introduced. Threads may come in between: then it is one
    call more or less.

    Args:
        model: its name in the server's catalog.
    """

    def __init__(self, model: str, answer: PlanAnswer) -> None:
        self._of = Introduction(model, answer.model_hash, answer.plan)
        self._content: bytes | None = None
        self._left = 0

    @property
    def content(self) -> bytes:
        """The introduction."""
        if self._content is None:
            self._content = self._of.encode()
        return self._content

    def forgotten(self) -> None:
        """A server does not know the plan."""
        self._left = _CALLS

    def next(self) -> bytes | None:
        """What the next call has to say; None for nothing."""
        if not self._left:
            return None
        self._left -= 1
        return self.content
