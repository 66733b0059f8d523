"""Why a call is not answered, in words and as a status of gRPC."""

from __future__ import annotations

from typing import Any

from grpc import StatusCode

from ..serving_protocol import LIMIT, RETRY_AFTER


class Refused(Exception):  # noqa: N818  # what happened is no error of the server
    """The caller gets ``code`` and the words.

    ``retry_after_s``: when it may be worth to try again. ``limit``: the field of a request that no plan can meet.
    """

    def __init__(
        self, code: StatusCode, words: str, *, retry_after_s: float | None = None, limit: str | None = None
    ) -> None:
        super().__init__(words)
        self.code = code
        self.words = words
        self.retry_after_s = retry_after_s
        self.limit = limit

    def __reduce__(self) -> tuple[Any, ...]:
        """One that was made in another process tells the same."""
        return _again, (self.code.name, self.words, self.retry_after_s, self.limit)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What is sent beside the words."""
        found = []
        if self.retry_after_s is not None:
            found.append((RETRY_AFTER, f"{self.retry_after_s:.3f}"))
        if self.limit is not None:
            found.append((LIMIT, self.limit))
        return tuple(found)


def _again(code: str, words: str, retry_after_s: float | None, limit: str | None) -> Refused:
    return Refused(StatusCode[code], words, retry_after_s=retry_after_s, limit=limit)


def invalid(words: str) -> Refused:
    """The caller's mistake."""
    return Refused(StatusCode.INVALID_ARGUMENT, words)


def not_found(words: str) -> Refused:
    """There is no such thing, or no longer."""
    return Refused(StatusCode.NOT_FOUND, words)


def overloaded(words: str, retry_after_s: float) -> Refused:
    """More than can be taken now."""
    return Refused(StatusCode.RESOURCE_EXHAUSTED, f"overloaded: {words}", retry_after_s=retry_after_s)


def expired() -> Refused:
    """The caller's deadline has passed."""
    return Refused(StatusCode.DEADLINE_EXCEEDED, "the deadline passed before the call could run")
