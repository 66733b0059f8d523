"""``qpart.v1.QPart``: plans, heads, and the second half of inferences; see :mod:`qpart_fx.serving_protocol`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import grpc

from ..errors import ArtifactError
from ..message import write_message
from ..serving_protocol import (
    BYTES,
    CALL,
    CHECK,
    CHUNK_BYTES,
    HASH,
    INTRODUCES,
    KIND,
    KNOWN,
    MAX_CALL_KEY,
    PLAN,
    SERVER_S,
    UNKNOWN,
    HeadQuery,
    Introduction,
    PlanQuery,
    check_of,
    parted,
)
from .access import Client
from .calls import Gate, deadline_of, qpart_service
from .plans import Plans
from .records import Record
from .refusal import invalid
from .runner import Runner

T = TypeVar("T")


class QPartService:
    """Its three methods."""

    def __init__(self, plans: Plans, runner: Runner) -> None:
        self._plans, self._runner = plans, runner

    def handler(self, gate: Gate) -> grpc.GenericRpcHandler:
        """As gRPC takes it, behind ``gate``."""
        return qpart_service(
            gate.unary("Plan", self._plan), gate.streaming("Head", self._head), gate.unary("Infer", self._infer)
        )

    async def _plan(self, request: bytes, context: Any, metadata: dict[str, Any], client: Client) -> bytes:
        start = time.perf_counter()
        introduction, query = _read(request, metadata, PlanQuery.decode)
        client.require(query.model)
        held = None if introduction is None else self._record(None, introduction, client)
        found = await self._plans.answer(query, held)
        said = (HASH, found.answer.hash), (KNOWN, found.knows), (UNKNOWN, found.unknown), *_end(start, request)
        context.set_trailing_metadata(tuple((key, value) for key, value in said if value is not None))
        return found.answer.encode(self._plans.text(found.knows))

    async def _head(
        self, request: bytes, context: Any, metadata: dict[str, Any], client: Client
    ) -> AsyncIterator[bytes]:
        introduction, query = _read(request, metadata, HeadQuery.decode)
        record = self._record(query.plan_id, introduction, client)
        sent = await self._plans.update(record, query.holds)
        await context.send_initial_metadata(((KIND, sent.kind), (BYTES, str(len(sent.content))), (HASH, sent.hash)))
        for start in range(0, len(sent.content), CHUNK_BYTES):
            yield sent.content[start : start + CHUNK_BYTES]

    async def _infer(self, request: bytes, context: Any, metadata: dict[str, Any], client: Client) -> bytes:
        start = time.perf_counter()
        plan_id, call = metadata.get(PLAN), metadata.get(CALL)
        if not isinstance(plan_id, str) or not isinstance(call, str) or not 0 < len(call) <= MAX_CALL_KEY:
            raise invalid(f"the metadata {PLAN} and {CALL} are needed, the latter of {MAX_CALL_KEY} characters at most")
        introduction, message = _read(request, metadata, bytes)
        record = self._record(plan_id, introduction, client)
        answer = write_message(await self._runner.run(record, message, deadline_of(context)))
        context.set_trailing_metadata(((CALL, call), *_end(start, answer)))
        return answer

    def _record(self, plan_id: str | None, introduction: Introduction | None, client: Client) -> Record:
        """The plan that a client means, if it may: one that is known, or that it introduces.

        Raises:
            Refused: there is none, or the client may not use its model.
        """
        if introduction is not None:
            client.require(introduction.model)
            return self._plans.introduced(introduction, plan_id)
        record = self._plans.record(plan_id or "")
        client.require(record.model.name)
        return record


def _read(request: bytes, metadata: dict[str, Any], decode: Callable[[bytes], T]) -> tuple[Introduction | None, T]:
    """The introduction in a request, if there is one, and the rest of it.

    Raises:
        Refused: it is malformed.
    """
    try:
        introduction, rest = parted(request, metadata.get(INTRODUCES))
        return introduction, decode(rest)
    except ArtifactError as error:
        raise invalid(str(error)) from None


def _end(start: float, message: bytes) -> tuple[tuple[str, str], ...]:
    """What every caller is told of a call that began at ``start``."""
    return (CHECK, check_of(message)), (SERVER_S, f"{time.perf_counter() - start:.6f}")
