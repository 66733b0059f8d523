"""What every call goes through, of whichever service: who calls, how it ends, and what is counted and logged of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from grpc import StatusCode

from ..serving_protocol import SERVICE
from .access import Access, Client
from .log import Seldom, log
from .metrics import Metrics
from .refusal import Refused, overloaded

_STOPPING_RETRY_S = 1.0
_CROWDED_RETRY_S = 0.1

Unary = Callable[[Any, Any], Awaitable[Any]]
Streaming = Callable[[Any, Any], AsyncIterator[Any]]


class Gate:
    """Lets calls in, until it is closed.

    Args:
        most_calls: at once; gRPC's own limit would cost each call a tenth of its time.
        by_certificate: callers have shown a certificate, and are known by it.
    """

    def __init__(self, access: Access, metrics: Metrics, *, most_calls: int, by_certificate: bool) -> None:
        self.stopping = False
        self._most_calls = most_calls
        self._active = 0
        self._idle = asyncio.Event()
        self._access, self._metrics, self._by_certificate = access, metrics, by_certificate
        self._seldom = Seldom()

    def unary(self, method: str, work: Callable[[Any, Any, dict[str, Any], Client], Awaitable[Any]]) -> Unary:
        """A handler of gRPC for ``work(request, context, metadata, client)``, which may raise :class:`Refused`."""

        async def handle(request: Any, context: Any) -> Any:
            start = time.perf_counter()
            try:
                metadata = dict(context.invocation_metadata() or ())
                client = self._admitted(context, metadata)
                self._active += 1
                try:
                    answer = await work(request, context, metadata, client)
                finally:
                    self._left()
            except (Exception, asyncio.CancelledError) as error:
                why = self._why(method, error, start, _size(request))
            else:
                self._metrics.ended(method, "OK", time.perf_counter() - start, _size(request), _size(answer))
                return answer
            return await context.abort(why.code, why.words, why.metadata)

        return handle

    def streaming(
        self, method: str, work: Callable[[Any, Any, dict[str, Any], Client], AsyncIterator[bytes]]
    ) -> Streaming:
        """The same for a stream of answers."""

        async def handle(request: Any, context: Any) -> AsyncIterator[Any]:
            start, sent = time.perf_counter(), 0
            try:
                metadata = dict(context.invocation_metadata() or ())
                client = self._admitted(context, metadata)
                self._active += 1
                try:
                    async for answer in work(request, context, metadata, client):
                        yield answer
                        sent += len(answer)
                finally:
                    self._left()
            except (Exception, asyncio.CancelledError) as error:
                why = self._why(method, error, start, _size(request), sent)
            else:
                self._metrics.ended(method, "OK", time.perf_counter() - start, _size(request), sent)
                return
            await context.abort(why.code, why.words, why.metadata)

        return handle

    async def close(self, patience_s: float) -> None:
        """Refuse what comes from now on; returns when what was let in has ended, or after ``patience_s``."""
        self.stopping = True
        if self._active:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), patience_s)

    def _left(self) -> None:
        self._active -= 1
        if not self._active:
            self._idle.set()

    def _admitted(self, context: Any, metadata: dict[str, Any]) -> Client:
        if self.stopping:
            raise Refused(StatusCode.UNAVAILABLE, "the server stops", retry_after_s=_STOPPING_RETRY_S)
        if self._active >= self._most_calls:
            raise overloaded(f"{self._active} calls at once", _CROWDED_RETRY_S)
        return self._access.admit(metadata, self._peer(context))

    def _peer(self, context: Any) -> str:
        if self._by_certificate:
            names = context.auth_context().get("x509_common_name")
            if names:
                return f"certificate:{names[0].decode(errors='replace')}"
        address: str = context.peer()
        return address.rpartition(":")[0]

    def _why(self, method: str, error: BaseException, start: float, received: int, sent: int = 0) -> Refused:
        """What the caller is told; counted and logged."""
        if isinstance(error, asyncio.CancelledError):
            self._metrics.ended(method, "CANCELLED", time.perf_counter() - start, received, sent)
            raise error
        if isinstance(error, Refused):
            why = error
        else:
            why = Refused(StatusCode.INTERNAL, "the server failed: see its log")
            log("error", "call failed", trace=True, method=method)
        self._metrics.ended(method, why.code.name, time.perf_counter() - start, received, sent)
        if (count := self._seldom.due(f"{method} {why.code.name}")) is not None:
            log("info", "refused", method=method, code=why.code.name, words=why.words, count=count)
        return why


def deadline_of(context: Any) -> float | None:
    """By the clock of the loop; None where the caller waits forever."""
    left: float | None = context.time_remaining()
    return None if left is None else asyncio.get_running_loop().time() + left


def health_service(ready: Callable[[], bool]) -> grpc.GenericRpcHandler:
    """``grpc.health.v1.Health/Check``, which those who start servers ask: of two messages of two bytes."""

    async def check(request: bytes, context: Any) -> bytes:
        return b"\x08\x01" if ready() else b"\x08\x02"  # SERVING, NOT_SERVING

    return grpc.method_handlers_generic_handler(
        "grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(check)}
    )


def qpart_service(plan: Unary, head: Streaming, infer: Unary) -> grpc.GenericRpcHandler:
    """Of bytes in and bytes out."""
    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "Plan": grpc.unary_unary_rpc_method_handler(plan),
            "Head": grpc.unary_stream_rpc_method_handler(head),
            "Infer": grpc.unary_unary_rpc_method_handler(infer),
        },
    )


def _size(message: Any) -> int:
    return len(message) if isinstance(message, bytes) else int(message.ByteSize())
