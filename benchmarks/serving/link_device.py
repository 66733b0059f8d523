"""A device at one end of a shaped link, a process without torch: it does what it is told, a JSON object a line on
standard input, and says what came of it, one a line on standard output.

python -m benchmarks.serving.link_device TARGET MODEL INPUTS_NPZ SLOWER

It is SLOWER times as slow as this machine: each message is made so many times.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from qpart_fx.device import Client, HeadRuntime, Replanning
from qpart_fx.device.arrays import Array
from qpart_fx.device.transport import Reply, Transport
from qpart_fx.request import Request

TIMEOUT_S = 60.0


class Device:
    """One client at a time; ``said``: what it has logged since the last call."""

    def __init__(self, target: str, model: str, inputs: list[Array]) -> None:
        self._target, self._model, self._inputs = target, model, inputs
        self._client: Client | None = None
        self._called = 0
        self._said = _Said()
        logger = logging.getLogger("qpart_fx.device")
        logger.setLevel(logging.INFO)
        logger.addHandler(self._said)

    def open(self, request: Any, replanning: bool, cache: str) -> dict[str, Any]:
        """A new client in place of the one before; returns its plan."""
        if self._client is not None:
            self._client.close()
        self._client = Client(
            self._target, self._model, Request.from_json(json.dumps(request)), cache=cache, timeout_s=TIMEOUT_S,
            replanning=Replanning() if replanning else None, refresh_s=60.0 if replanning else None, threads=1,
        )  # fmt: skip
        return self._plan()

    def call(self, times: int) -> list[dict[str, Any]]:
        """What became of so many calls, one after the other."""
        assert self._client is not None
        made = []
        for _ in range(times):
            self._said.lines.clear()
            spent.clear()
            answer = self._client.answer(self._inputs[self._called % len(self._inputs)])
            self._called += 1
            record = {name: value for name, value in asdict(answer).items() if name != "outputs"}
            record["spent"] = dict(spent)
            record["asked"] = any("asking for another plan" in line for line in self._said.lines)
            made.append(record)
        return made

    def link(self) -> dict[str, Any]:
        """As it was measured."""
        assert self._client is not None
        return asdict(self._client.link)

    def _plan(self) -> dict[str, Any]:
        assert self._client is not None
        plan: dict[str, Any] = json.loads(self._client.prepare(300.0).to_json())
        return plan


class _Said(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


spent: dict[str, float] = {}
"""Seconds of the last call: the ``head``'s, the ``server``'s own as it says, and all others' (``link``)."""


def slow_down(times: int) -> None:
    """Let heads make everything so many times; and write down what calls spend."""

    def slowed(work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            for _ in range(times):
                made = work(*args, **kwargs)
            spent["head"] = time.perf_counter() - start
            return made

        return run

    infer = Transport.infer

    def timed(
        self: Transport, plan_id: str, message: bytes, timeout_s: float, introduces: bytes | None = None
    ) -> Reply:
        reply = infer(self, plan_id, message, timeout_s, introduces)
        spent.update(link=reply.seconds, server=reply.server_s)
        return reply

    # The client makes its own runtimes and transport, and has no place for others: a benchmark is no reason for one.
    HeadRuntime.message = slowed(HeadRuntime.message)  # type: ignore[method-assign]  # see above
    HeadRuntime.__call__ = slowed(HeadRuntime.__call__)  # type: ignore[method-assign]  # see above
    Transport.infer = timed  # type: ignore[method-assign]  # see above


def main(target: str, model: str, inputs: str, slower: str) -> None:
    slow_down(int(slower))
    with np.load(inputs, allow_pickle=False) as data:
        samples = data["x"]
    device = Device(target, model, [samples[place : place + 1] for place in range(len(samples))])
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(getattr(device, order.pop("do"))(**order)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
