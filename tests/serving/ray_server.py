"""The server on Ray as a process, whose replicas can be killed, and become more or fewer.

As a process: ``python -m tests.serving.ray_server CATALOG PORT TAILS``; it reads numbers of tails.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from qpart_fx.device import Client
from tests.device.enduring import PATIENCE_S, REQUEST, Caller, Calls

FRONTS = 2
CPUS = 4
"""Of Ray's, which are a number and no processors: so many tails at most."""


class RayServer:
    """``port``: where its front listens, and one that takes its place."""

    def __init__(self, catalog: Path, tails: int) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "tests.serving.ray_server", str(catalog), str(self.port), str(tails)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._lines: list[dict[str, Any]] = []
        threading.Thread(target=self._read, daemon=True).start()
        self._told("port", self.port)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def scale(self, tails: int) -> None:
        """Returns when there are so many."""
        assert self.process.stdin is not None
        print(tails, file=self.process.stdin, flush=True)
        self._told("tails", tails)

    def replicas(self, deployment: str) -> list[int]:
        """The processes of a deployment."""
        return replicas_below(self.process.pid, deployment)

    def kill(self, deployment: str) -> None:
        """One of its replicas; returns when there are as many as before."""
        before = self.replicas(deployment)
        os.kill(before[0], signal.SIGKILL)
        until = time.monotonic() + PATIENCE_S
        while before[0] in (now := self.replicas(deployment)) or len(now) < len(before):
            assert time.monotonic() < until, f"{deployment} is not replaced"
            time.sleep(0.1)

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()

    def _told(self, name: str, value: Any = None) -> Any:
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until and self.process.poll() is None:
            for line in list(self._lines):
                if name in line and value in (None, line[name]):
                    self._lines.remove(line)
                    return line[name]
            time.sleep(0.05)
        raise AssertionError(f"the server says nothing of {name}")

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                self._lines.append(json.loads(line))


@contextmanager
def ray_server(catalog: Path, tails: int) -> Iterator[RayServer]:
    server = RayServer(catalog, tails)
    try:
        yield server
    finally:
        server.stop()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def replicas_below(ancestor: int, deployment: str) -> list[int]:
    """The processes of a deployment's replicas among those that a process has started."""
    rows = subprocess.run(["ps", "-eo", "pid,ppid,args"], stdout=subprocess.PIPE, text=True, check=True).stdout
    parents: dict[int, int] = {}
    found = []
    for row in rows.splitlines()[1:]:
        pid, parent, words = row.split(maxsplit=2)
        parents[int(pid)] = int(parent)
        if words.startswith(f"ray::ServeReplica:qpart:{deployment}"):
            found.append(int(pid))

    def is_below(pid: int) -> bool:
        return pid == ancestor or (pid in parents and is_below(parents[pid]))

    return sorted(pid for pid in found if is_below(pid))


def endure_lost_replicas(server: RayServer, expected: list[NDArray[Any]], deployment: str, times: int) -> Calls:
    """A replica that is killed while calls run, ``times`` times, without a fallback."""
    with Client(server.address, "model", REQUEST, timeout_s=PATIENCE_S, replanning=None) as client:
        client.prepare()
        caller = Caller(client, expected)
        for _ in range(times):
            assert caller.wait_for("server", 50)
            server.kill(deployment)
            assert caller.wait_for("server", 50)
        return caller.stop()


def endure_scaling(server: RayServer, expected: list[NDArray[Any]], sizes: list[int]) -> Calls:
    """More replicas of tails, and fewer, while calls run. The application is deployed anew each time, so all
    replicas are replaced, one after the other."""
    with Client(server.address, "model", REQUEST, timeout_s=PATIENCE_S, replanning=None) as client:
        client.prepare()
        caller = Caller(client, expected)
        for size in sizes:
            assert caller.wait_for("server", 50)
            server.scale(size)
        assert caller.wait_for("server", 50)
        return caller.stop()


def main(catalog: str, port: str, tails: str) -> None:
    import ray
    from ray import serve

    from qpart_fx.serving.ray import application

    def run(count: int) -> Any:
        made = application({"catalog": catalog, "port": port, "threads": 1, "tails": count, "fronts": FRONTS})
        return serve.run(made, name="qpart", route_prefix=None)

    def tails_running() -> int:
        status = serve.status().applications["qpart"].deployments["Tails"]
        return sum(status.replica_states.values())

    store = 200 << 20
    ray.init("local", num_cpus=CPUS, include_dashboard=False, object_store_memory=store, log_to_driver=False)
    try:
        serve.start(proxy_location="Disabled")
        print(json.dumps({"port": run(int(tails)).port.remote().result()}), flush=True)
        for line in sys.stdin:
            run(int(line))
            while tails_running() != int(line):
                time.sleep(0.1)
            print(json.dumps({"tails": int(line)}), flush=True)
        serve.shutdown()
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
