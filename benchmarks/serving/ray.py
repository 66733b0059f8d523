"""The server on Ray beside one process: calls a second, and what becomes of calls while replicas are lost.

    python -m benchmarks.serving.ray [TIMES]

needs ``pip install "qpart-fx[ray]"``. Devices are :class:`qpart_fx.device.Client`, in two threads; the model takes no
time, so the calls a second tell what a call costs to pass on. Then replicas are killed, TIMES times each (3), and tails
become more and fewer; no call has a fallback, and each answer is looked at. With 0 only calls a second are counted.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from qpart_fx.device import Client
from tests.device.enduring import PATIENCE_S, REQUEST, Caller, Calls, Process, expected_of
from tests.device.heads import profile
from tests.serving.ray_server import endure_lost_replicas, endure_scaling, ray_server

_SECONDS = 5.0
_SIZES = [3, 1, 2]


def main(times: int) -> None:
    torch.set_num_threads(1)
    known = profile("classifier")
    expected = expected_of(known)
    with tempfile.TemporaryDirectory() as folder:
        known.save(Path(folder) / "model.qpart")
        process = Process(Path(folder))
        try:
            print(f"one process: {_calls_per_s(f'127.0.0.1:{process.port}', expected):.0f} calls a second")
        finally:
            process.kill()
        with ray_server(Path(folder), 2) as server:
            print(f"on Ray, two tails: {_calls_per_s(server.address, expected):.0f} calls a second", flush=True)
            if not times:
                return
            print(f"{'what happens':28} {'calls':>7} {'wrong':>6} {'lost':>5}  longest call")
            for name in ("Tails", "Planner", "Front"):
                calls = endure_lost_replicas(server, expected, name, times)
                _print(f"{name} killed {times} times", calls)
            _print(f"{', '.join(map(str, _SIZES))} tails", endure_scaling(server, expected, _SIZES))


def _calls_per_s(address: str, expected: list[NDArray[Any]]) -> float:
    with Client(address, "model", REQUEST, timeout_s=PATIENCE_S, replanning=None) as client:
        client.prepare()
        caller = Caller(client, expected)
        caller.wait_for("server", 100)
        before, start = caller.count("server"), time.perf_counter()
        time.sleep(_SECONDS)
        found = (caller.count("server") - before) / (time.perf_counter() - start)
        caller.stop()
        return found


def _print(what: str, calls: Calls) -> None:
    print(f"{what:28} {calls.sources['server']:7,} {calls.wrong:6} {calls.lost:5}  {calls.longest_s:.3f} s", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
