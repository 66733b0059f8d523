"""A server as a process, and a caller of it."""

from __future__ import annotations

import hashlib
import json
import queue
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import grpc
import torch
from torch import nn

import qpart_fx as qpart
from qpart_fx.device import unpack_arrays
from qpart_fx.serving_protocol import (
    CALL,
    HASH,
    HEAD_METHOD,
    INFER_METHOD,
    KIND,
    KNOWN,
    PLAN,
    PLAN_METHOD,
    HeadQuery,
    PlanAnswer,
    PlanQuery,
    build_outputs,
)
from tests.networks import images

PATIENCE_S = 120.0
"""For what should take seconds: a busy machine must not fail a test."""

LINK = qpart.Link(uplink_bps=1e6, downlink_bps=1e7)
SERVER = qpart.Server(clock_hz=3e9, cycles_per_mac=1.25, price_per_s=1.0)
REQUEST = qpart.Request(0.05, qpart.Device(1e7, 5.0, kappa=0.0, runtime="onnx"), SERVER, LINK, device_holds_head=True)


def narrow(seed: int) -> nn.Module:
    """A classifier that is narrow after a few operations, and large behind: there is its best cut."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 4),
    ).eval()  # fmt: skip


@cache
def profile(seed: int = 0) -> qpart.Profile:
    """Of a small network; each seed has other weights."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    made = qpart.profile(narrow(seed), [images(200, seed)], progress=False)
    torch.set_num_threads(threads)
    return made


def token_row(name: str, token: str, models: object, **more: object) -> dict[str, object]:
    """A row of a file of tokens."""
    return {"name": name, "token_sha256": hashlib.sha256(token.encode()).hexdigest(), "models": models, **more}


def write_tokens(path: Path, *clients: Mapping[str, object]) -> None:
    """A file of tokens."""
    path.write_text(json.dumps({"clients": clients}))


class Running:
    """``qpart serve``, and the lines that it has written so far."""

    def __init__(self, catalog: Path, *options: str) -> None:
        command = [sys.executable, "-m", "qpart_fx", "serve", str(catalog), "--port", "0", "--threads", "1", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self._fresh: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.port = int(self.wait_for("serving")["port"])

    def wait_for(self, event: str, **fields: Any) -> dict[str, Any]:
        """The next line of this event, with these fields."""
        while (line := self._fresh.get(timeout=PATIENCE_S)) is not None:
            if line["event"] == event and fields.items() <= line.items():
                return line
        raise AssertionError("the server has ended:\n" + "\n".join(self.lines))

    def stop(self, number: int = signal.SIGTERM) -> int:
        """The exit status after this signal."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip())
            if line.startswith("{"):
                self._fresh.put(json.loads(line))
        self._fresh.put(None)


@contextmanager
def running(catalog: Path, *options: str) -> Iterator[Running]:
    server = Running(catalog, *options)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@dataclass
class Caller:
    """Speaks the protocol, and checks what it can."""

    port: int
    credentials: Any = None
    token: str | None = None
    host: str = "localhost"

    @cached_property
    def channel(self) -> Any:
        address = f"{self.host}:{self.port}"
        if self.credentials is None:
            return grpc.insecure_channel(address)
        return grpc.secure_channel(address, self.credentials)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return () if self.token is None else (("authorization", f"Bearer {self.token}"),)

    def plan(
        self, model: str, request: qpart.Request, *, holds: str | None = None, known: PlanAnswer | None = None
    ) -> PlanAnswer:
        return self.plan_and_bytes(model, request, holds=holds, known=known)[0]

    def plan_and_bytes(
        self, model: str, request: qpart.Request, *, holds: str | None = None, known: PlanAnswer | None = None
    ) -> tuple[PlanAnswer, int]:
        """The answer, and the bytes of both messages."""
        query = PlanQuery(model, json.loads(request.to_json()), holds, None if known is None else known.hash).encode()
        packed, call = self.channel.unary_unary(PLAN_METHOD).with_call(
            query, metadata=self.metadata, timeout=PATIENCE_S
        )
        said = dict(call.trailing_metadata())
        text = b""
        if KNOWN in said:
            assert known is not None
            assert said[KNOWN] == known.hash
            text = known.text
        return PlanAnswer.decode(packed, said[HASH], text), len(query) + len(packed)

    def head(self, plan_id: str, holds: str | None = None) -> tuple[str, bytes]:
        """The kind of what comes, and it."""
        call = self.channel.unary_stream(HEAD_METHOD)(
            HeadQuery(plan_id, holds).encode(), metadata=self.metadata, timeout=PATIENCE_S
        )
        said = dict(call.initial_metadata())
        content = b"".join(call)
        if said[KIND] == "head":
            assert hashlib.sha256(content).hexdigest() == said[HASH]
        return said[KIND], content

    def infer(self, plan_id: str, message: bytes, *, timeout: float | None = PATIENCE_S) -> Sequence[Any]:
        key = str(uuid.uuid4())
        metadata = (*self.metadata, (PLAN, plan_id), (CALL, key))
        answer, call = self.channel.unary_unary(INFER_METHOD).with_call(message, metadata=metadata, timeout=timeout)
        assert dict(call.trailing_metadata())[CALL] == key
        return unpack_arrays(answer)

    def output(self, answer: PlanAnswer, message: bytes) -> Any:
        return build_outputs(answer.outputs, self.infer(answer.plan_id, message))


def split_of(known: qpart.Profile, answer: PlanAnswer) -> qpart.SplitModel:
    """The split of an answer's plan, made here."""
    return known.compile(plan_of(answer), progress=False)


def plan_of(answer: PlanAnswer) -> qpart.Plan:
    return qpart.Plan.from_json(json.dumps(answer.plan))


def without_prices(plan: qpart.Plan) -> qpart.Plan:
    return replace(plan, by_cut=())


def refusal(error: grpc.RpcError) -> tuple[str, str, Mapping[str, Any]]:
    """The status, the words and the trailing metadata."""
    found: Any = error
    return found.code().name, found.details(), dict(found.trailing_metadata() or ())
