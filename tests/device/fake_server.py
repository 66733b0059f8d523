"""A small server of the protocol, in this process or as one of its own, that can be told to misbehave.

As a process: ``python -m tests.device.fake_server PROFILE PORT``.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import torch

import qpart_fx as qpart
from qpart_fx import serving_protocol as protocol
from qpart_fx.device import pack_arrays
from qpart_fx.device.head_cache import hash_of
from qpart_fx.head_update import make_update
from qpart_fx.serving_protocol import HeadQuery, PlanAnswer, PlanQuery

Refusal = tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]


@dataclass
class Misbehaviour:
    """``refuse``: what calls of a method end in. ``say``: what the tail's answer becomes. ``key``: the call's key
    that is echoed. ``delay_s``: before an answer of the tail. ``late_s``: before a call is looked at, as where the
    event loop is busy: the server does not know of it. ``spoil_head``: what a head's bytes become."""

    refuse: dict[str, Refusal] = field(default_factory=dict)
    say: Callable[[bytes], bytes] = bytes
    key: Callable[[str], str] = str
    delay_s: float = 0.0
    late_s: float = 0.0
    spoil_head: Callable[[bytes], bytes] = bytes


@dataclass(frozen=True)
class Made:
    """A plan with its halves."""

    answer: PlanAnswer
    head: bytes
    split: qpart.SplitModel


class FakeServer:
    """Serves ``profile`` as the model ``"model"``; ``asked`` are the methods that were called, ``calls`` the keys of
    calls of the tail that were answered."""

    def __init__(
        self, profile: qpart.Profile, *, port: int = 0, structure: Any = None, credentials: Any = None
    ) -> None:
        self.profile = profile
        self.misbehaviour = Misbehaviour()
        self.alone: tuple[int, ...] | None = None
        self.asked: list[str] = []
        self.calls: list[str] = []
        self.queries: list[PlanQuery] = []
        self.plans: dict[str, Made] = {}
        self._structure = structure or {"value": 0}
        self._by_query: dict[str, PlanAnswer] = {}
        self._heads: dict[str, bytes] = {}
        self._answers: dict[str, PlanAnswer] = {}
        self._lock = threading.Lock()
        self._server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", -1)])
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    protocol.SERVICE,
                    {
                        "Plan": grpc.unary_unary_rpc_method_handler(self._plan),
                        "Head": grpc.unary_stream_rpc_method_handler(self._head),
                        "Infer": grpc.unary_unary_rpc_method_handler(self._infer),
                    },
                ),
                grpc.method_handlers_generic_handler(
                    "inference.GRPCInferenceService",
                    {"ServerLive": grpc.unary_unary_rpc_method_handler(self._live)},
                ),
            )
        )
        address = f"127.0.0.1:{port}"
        self.port: int = (
            self._server.add_insecure_port(address)
            if credentials is None
            else self._server.add_secure_port(address, credentials)
        )
        self._server.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def forget(self) -> None:
        """As a restarted one would."""
        self.plans.clear()
        self._by_query.clear()
        self._answers.clear()

    def stop(self) -> None:
        self._server.stop(0).wait()

    def wait(self) -> None:
        self._server.wait_for_termination()

    def _entered(self, name: str, context: Any) -> None:
        time.sleep(self.misbehaviour.late_s)
        self.asked.append(name)
        if (refusal := self.misbehaviour.refuse.get(name)) is not None:
            code, words, metadata = refusal
            context.set_trailing_metadata(metadata)
            context.abort(code, words)

    def _live(self, _: bytes, context: Any) -> bytes:
        self._entered("ServerLive", context)
        return b"\x08\x01"

    def _plan(self, packed: bytes, context: Any) -> bytes:
        self._entered("Plan", context)
        start = time.perf_counter()
        query = PlanQuery.decode(without_introduction(packed, context))
        self.queries.append(query)
        if query.model != "model":
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no model '{query.model}'")
        asked = json.dumps([query.request, query.holds])
        with self._lock:
            if asked not in self._by_query:
                try:
                    self._by_query[asked] = self._made(query)
                except qpart.InfeasibleError as error:
                    context.set_trailing_metadata(((protocol.LIMIT, error.limit),))
                    context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
            answer = self._by_query[asked]
            known = self._answers.get(query.knows or "")
            self._answers[answer.hash] = answer
        metadata = [(protocol.HASH, answer.hash), (protocol.CHECK, protocol.check_of(packed))]
        metadata.append((protocol.SERVER_S, f"{time.perf_counter() - start}"))
        if known is not None:
            metadata.append((protocol.KNOWN, known.hash))
        context.set_trailing_metadata(metadata)
        return answer.encode(b"" if known is None else known.text)

    def _made(self, query: PlanQuery) -> PlanAnswer:
        plan = self.profile.plan(qpart.Request.from_json(json.dumps(query.request)))
        split = self.profile.compile(plan, progress=False)
        head = split.packed_head("onnx")
        held = self._heads.get(query.holds or "")
        update = None
        if query.holds == hash_of(head):
            update = 0
        elif held is not None and len(made := make_update(held, head)) < len(head):
            update = len(made)
        record = json.loads(plan.to_json()) | {"by_cut": []}
        answer = PlanAnswer(
            record, hash_of(head)[:40], hash_of(head), len(head), update, self._structure, "0" * 64, self.alone
        )
        self._heads[hash_of(head)] = head
        self.plans[answer.plan_id] = Made(answer, head, split)
        return answer

    def _found(self, plan_id: str, context: Any) -> Made:
        if (made := self.plans.get(plan_id)) is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "there is no such plan")
        return made  # type: ignore[return-value]  # abort raises

    def _head(self, packed: bytes, context: Any) -> Iterator[bytes]:
        self._entered("Head", context)
        query = HeadQuery.decode(without_introduction(packed, context))
        made = self._found(query.plan_id, context)
        kind, content = protocol.HEAD, made.head
        held = self._heads.get(query.holds or "")
        if held == made.head:
            kind, content = protocol.SAME, b""
        elif held is not None and len(update := make_update(held, made.head)) < len(made.head):
            kind, content = protocol.UPDATE, update
        content = self.misbehaviour.spoil_head(content)
        context.send_initial_metadata(
            ((protocol.KIND, kind), (protocol.BYTES, str(len(content))), (protocol.HASH, made.answer.head_hash))
        )
        for start in range(0, len(content), 4096):
            yield content[start : start + 4096]

    def _infer(self, message: bytes, context: Any) -> bytes:
        self._entered("Infer", context)
        start = time.perf_counter()
        metadata = dict(context.invocation_metadata())
        made = self._found(metadata[protocol.PLAN], context)
        try:
            payload = made.split.unpack_activation(without_introduction(message, context))
        except qpart.ArtifactError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        time.sleep(self.misbehaviour.delay_s)
        with torch.no_grad():
            output = made.split.tail(*payload)
        values = (
            output if isinstance(output, tuple) else tuple(output.values()) if isinstance(output, dict) else (output,)
        )
        self.calls.append(metadata[protocol.CALL])
        answer = self.misbehaviour.say(pack_arrays([value.numpy() for value in values]))
        own = (
            (protocol.CALL, self.misbehaviour.key(metadata[protocol.CALL])),
            (protocol.CHECK, protocol.check_of(answer)),
            (protocol.SERVER_S, f"{time.perf_counter() - start}"),
        )
        context.set_trailing_metadata(own)
        return answer


def without_introduction(message: bytes, context: Any) -> bytes:
    """This server takes no other's word for a plan: it is asked anew."""
    return protocol.parted(message, dict(context.invocation_metadata()).get(protocol.INTRODUCES))[1]


if __name__ == "__main__":
    torch.set_num_threads(1)
    loaded = qpart.load(sys.argv[1])
    assert isinstance(loaded, qpart.Profile)
    server = FakeServer(loaded, port=int(sys.argv[2]))
    print(f"listening on {server.port}", flush=True)
    server.wait()
