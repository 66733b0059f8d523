"""``qpart.v1.QPart``: plans, heads, and the second half of inferences; see :mod:`qpart_fx.serving_protocol`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

from ..errors import ArtifactError
from ..message import write_message
from ..serving_protocol import (
    BYTES,
    CALL,
    CHECK,
    CHUNK_BYTES,
    HASH,
    KIND,
    KNOWN,
    MAX_CALL_KEY,
    PLAN,
    SERVER_S,
    HeadQuery,
    PlanQuery,
    check_of,
)
from .access import Client
from .batching import Batcher
from .calls import Gate, deadline_of, qpart_service
from .plans import Plans
from .refusal import invalid


class QPartService:
    """Its three methods."""

    def __init__(self, plans: Plans, batcher: Batcher) -> None:
        self._plans, self._batcher = plans, batcher

    def handler(self, gate: Gate) -> grpc.GenericRpcHandler:
        """As gRPC takes it, behind ``gate``."""
        return qpart_service(
            gate.unary("Plan", self._plan), gate.streaming("Head", self._head), gate.unary("Infer", self._infer)
        )

    async def _plan(self, request: bytes, context: Any, metadata: dict[str, Any], client: Client) -> bytes:
        start = time.perf_counter()
        try:
            query = PlanQuery.decode(request)
        except ArtifactError as error:
            raise invalid(str(error)) from None
        client.require(query.model)
        answer, knows = await self._plans.answer(query)
        known = () if knows is None else ((KNOWN, knows),)
        context.set_trailing_metadata(((HASH, answer.hash), *known, *_end(start, request)))
        return answer.encode(self._plans.text(knows))

    async def _head(
        self, request: bytes, context: Any, metadata: dict[str, Any], client: Client
    ) -> AsyncIterator[bytes]:
        try:
            query = HeadQuery.decode(request)
        except ArtifactError as error:
            raise invalid(str(error)) from None
        record = self._plans.record(query.plan_id)
        client.require(record.model.name)
        kind, content = await self._plans.update(record, query.holds)
        await context.send_initial_metadata(((KIND, kind), (BYTES, str(len(content))), (HASH, record.head_hash)))
        for start in range(0, len(content), CHUNK_BYTES):
            yield content[start : start + CHUNK_BYTES]

    async def _infer(self, request: bytes, context: Any, metadata: dict[str, Any], client: Client) -> bytes:
        start = time.perf_counter()
        plan_id, call = metadata.get(PLAN), metadata.get(CALL)
        if not isinstance(plan_id, str) or not isinstance(call, str) or not 0 < len(call) <= MAX_CALL_KEY:
            raise invalid(f"the metadata {PLAN} and {CALL} are needed, the latter of {MAX_CALL_KEY} characters at most")
        record = self._plans.record(plan_id)
        client.require(record.model.name)
        tail = self._plans.ready_tail(record) or await self._plans.tail(record)
        rows = await self._batcher.run(tail, tail.read(request), deadline_of(context))
        answer = write_message(rows)
        context.set_trailing_metadata(((CALL, call), *_end(start, answer)))
        return answer


def _end(start: float, message: bytes) -> tuple[tuple[str, str], ...]:
    """What every caller is told of a call that began at ``start``."""
    return (CHECK, check_of(message)), (SERVER_S, f"{time.perf_counter() - start:.6f}")
