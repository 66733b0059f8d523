"""Calling a client all the time while something bad happens to its server, and counting what becomes of the calls."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import qpart_fx as qpart
from qpart_fx.device import Client, Tls
from tests.device.heads import SERVER, network
from tests.faults import FaultProxy, Faults

REQUEST = qpart.Request(
    0.05,
    qpart.Device(clock_hz=1e5, cycles_per_mac=1, runtime="onnx"),
    SERVER,
    qpart.Link(uplink_bps=1e6, downlink_bps=1e6),
    inferences_per_download=1000,
)
TIMEOUT_S = 1.0
THREADS = 2
PATIENCE_S = 120.0
"""Far more than recovering takes: no test may depend on the machine's speed."""


@cache
def pictures() -> NDArray[np.float32]:
    made: NDArray[np.float32] = network("classifier")[1][0].numpy()
    return made


def images(place: int) -> NDArray[np.float32]:
    """Different ones for each place."""
    return pictures()[place % 40 : place % 40 + 1]


@dataclass
class Calls:
    """What became of calls: how many were answered by whom, how many wrongly, and the longest, in seconds."""

    sources: Counter[str]
    wrong: int = 0
    lost: int = 0
    longest_s: float = 0.0


class Caller:
    """Calls a client from several threads, all the time, and looks at each answer."""

    def __init__(self, client: Client, expected: list[NDArray[Any]]) -> None:
        self.calls = Calls(Counter())
        self._client, self._expected = client, expected
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(THREADS)
        self._made = [self._pool.submit(self._run, number) for number in range(THREADS)]

    def _run(self, number: int) -> None:
        place = 17 * number
        while not self._stopped.is_set():
            place += 1
            answer = self._client.answer(images(place))  # raises what would be a lost call
            if answer.source == "fallback":
                right = answer.outputs == place_of(images(place))
            else:  # calls that run together differ in the last bits; pictures differ in the first
                right = np.allclose(answer.outputs, self._expected[place % 40], rtol=1e-5, atol=1e-6)
            time.sleep(0.002)  # or the calls would take both cores
            with self._lock:
                self.calls.sources[answer.source] += 1
                self.calls.wrong += not right
                self.calls.longest_s = max(self.calls.longest_s, answer.seconds)

    def count(self, source: str) -> int:
        with self._lock:
            return self.calls.sources[source]

    def wait_for(self, source: str, more: int) -> bool:
        """Until so many more answers have come from there."""
        before, until = self.count(source), time.monotonic() + PATIENCE_S
        while self.count(source) < before + more:
            for each in self._made:
                if each.done():  # a lost call
                    each.result()
            if time.monotonic() > until:
                return False
            time.sleep(0.005)
        return True

    def stop(self) -> Calls:
        self._stopped.set()
        for each in self._made:
            self.calls.lost += each.exception(PATIENCE_S) is not None
        self._pool.shutdown()
        return self.calls


def place_of(x: NDArray[Any]) -> float:
    """The fallback's answer: no server gives it, and it differs from input to input."""
    return float(np.float64(x).sum())


def expected_of(known: qpart.Profile) -> list[NDArray[Any]]:
    """What the server's answers have to be."""
    split = known.compile(known.plan(REQUEST), progress=False)
    with torch.no_grad():
        return [split(torch.from_numpy(images(place))).numpy() for place in range(40)]


class Process:
    """A server as a process of its own, that can be killed, stopped and started again on the same port."""

    def __init__(self, catalog: Path) -> None:
        self._catalog = catalog
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.start()

    def start(self) -> None:
        command = [
            sys.executable, "-m", "qpart_fx", "serve", str(self._catalog), "--port", str(self.port), "--threads", "1",
            "--metrics-port", "0",
        ]  # fmt: skip
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE)
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if b'"event": "serving"' in line:
                self._metrics = json.loads(line)["metrics_port"]
                break
        else:
            raise AssertionError("the server does not start")
        threading.Thread(target=self._process.stderr.read, daemon=True).start()  # or it would wait for a reader

    def answered(self) -> int:
        """Calls of the tail since the last start."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics}/metrics") as page:
            found = re.search(r'^qpart_calls_total{code="OK",method="Infer"} (\S+)$', page.read().decode(), re.M)
        return 0 if found is None else int(float(found[1]))

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)


def client_of(address: str, tls: Tls | None = None) -> Client:
    # as on a device that calls all the time; the link is not what is looked at
    return Client(address, "model", REQUEST, fallback=place_of, timeout_s=TIMEOUT_S, replanning=None, tls=tls)


FAULTS: dict[str, Faults] = {
    "cut at once": Faults(cut_after=0),
    "cut in the middle": Faults(cut_after=150),
    "swallowed": Faults(swallow_after=150),
    "frozen": Faults(frozen=True),
    "refused": Faults(refuse=True),
    "a bit altered": Faults(alter_after=120),
    "many bits altered": Faults(alter_after=120, altered=20),
    "requests altered": Faults(alter_up_after=120),
}


ALTERED = tuple(fault for fault in FAULTS if "altered" in fault)
"""Faults that TLS is against: without it, a bit that says what a frame is may end the whole process within gRPC."""


def endure_network(
    proxy: FaultProxy, expected: list[NDArray[Any]], fault: str, times: int, tls: Tls | None = None
) -> Calls:
    """A fault of the network, ``times`` times, and each time what comes after it."""
    with client_of(proxy.address, tls) as client:
        client.prepare()
        caller = Caller(client, expected)
        for repeat in range(times):
            assert caller.wait_for("server", 5)
            proxy.faults = replace(FAULTS[fault], seed=repeat)
            if fault == "refused":
                proxy.cut()
            if fault in ALTERED:  # which calls may survive, and a fallback may not be needed
                time.sleep(0.02)
            else:
                assert caller.wait_for("fallback", 1)
            proxy.faults = Faults()
            assert caller.wait_for("server", 1)
        return caller.stop()


def endure_loss(process: Process, expected: list[NDArray[Any]], harm: str, times: int) -> Calls:
    """A server that is frozen and goes on, or is killed and started again."""
    with client_of(f"127.0.0.1:{process.port}") as client:
        client.prepare()
        caller = Caller(client, expected)
        for _ in range(times):
            assert caller.wait_for("server", 5)
            process.freeze() if harm == "frozen" else process.kill()
            assert caller.wait_for("fallback", 5)
            process.thaw() if harm == "frozen" else process.start()
            assert caller.wait_for("server", 1)
        return caller.stop()


def endure_one_of_two(steady: Process, other: Process, expected: list[NDArray[Any]], times: int) -> Calls:
    """Two servers, no fallback, and one server that is killed and started again: it knows nothing then. Each has to
    answer some of the calls before and after."""
    target = f"ipv4:127.0.0.1:{steady.port},127.0.0.1:{other.port}"
    with Client(target, "model", REQUEST, timeout_s=PATIENCE_S, replanning=None) as client:
        client.prepare()
        caller = Caller(client, expected)
        for _ in range(times):
            assert _answers_more(caller, steady)
            assert _answers_more(caller, other)
            other.kill()
            assert caller.wait_for("server", 20)
            other.start()
        assert _answers_more(caller, other)
        return caller.stop()


def _answers_more(caller: Caller, process: Process) -> bool:
    """Whether calls come to a server."""
    before, until = process.answered(), time.monotonic() + PATIENCE_S
    while process.answered() < before + 5 and time.monotonic() < until:
        if not caller.wait_for("server", 5):
            return False
    return process.answered() >= before + 5
