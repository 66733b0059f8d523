"""What becomes of a device's calls while networks and servers fail, each fault many times.

    python -m benchmarks.serving.faults [TIMES] [FAULT ...]

The server is one of this process behind a proxy that misbehaves, or `qpart serve`, which is frozen or killed. The model
takes no time; a call has a second for the server, and the fallback takes none. Where one server of two is killed there
is no fallback, and a call has as long as it takes. Where bits are altered, the connection is encrypted: without TLS, a
bit that says what a frame is may end the whole process within gRPC.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import grpc
import torch

from qpart_fx.device import Tls
from tests.device.enduring import (
    ALTERED,
    FAULTS,
    TIMEOUT_S,
    Calls,
    Process,
    endure_loss,
    endure_network,
    endure_one_of_two,
    expected_of,
)
from tests.device.fake_server import FakeServer
from tests.device.heads import profile
from tests.faults import FaultProxy
from tests.serving.certificates import authority

LOSSES = ("frozen", "killed")
ONE_OF_TWO = "one server of two killed"


def main(times: int, names: list[str]) -> None:
    torch.set_num_threads(1)
    known = profile("classifier")
    expected = expected_of(known)
    print(f"{'fault':26} {'times':>6} {'by server':>10} {'fallback':>9} {'wrong':>6} {'lost':>5}  longest call")
    with tempfile.TemporaryDirectory() as folder:
        signer = authority(Path(folder), "authority")
        certificate, key = (path.read_bytes() for path in signer.sign("server"))
        credentials = grpc.ssl_server_credentials([(key, certificate)])
        tls = Tls(ca=signer.certificate, server_name="localhost")
        for fault in FAULTS:
            if names and fault not in names:
                continue
            encrypted = fault in ALTERED
            server = FakeServer(known, credentials=credentials if encrypted else None)
            with FaultProxy(server.port) as proxy:
                _print(fault, times, endure_network(proxy, expected, fault, times, tls if encrypted else None))
            server.stop()
    with tempfile.TemporaryDirectory() as folder:
        known.save(Path(folder) / "model.qpart")
        for harm in LOSSES:
            if not names or f"server {harm}" in names:
                process = Process(Path(folder))
                try:
                    _print(f"server {harm}", times, endure_loss(process, expected, harm, times))
                finally:
                    process.kill()
        if not names or ONE_OF_TWO in names:
            both = Process(Path(folder)), Process(Path(folder))
            try:
                _print(ONE_OF_TWO, times, endure_one_of_two(*both, expected, times))
            finally:
                for process in both:
                    process.kill()
    print(f"a call has {TIMEOUT_S:g} s for the server")


def _print(fault: str, times: int, calls: Calls) -> None:
    print(
        f"{fault:26} {times:6} {calls.sources['server']:10,} {calls.sources['fallback']:9,} {calls.wrong:6} "
        f"{calls.lost:5}  {calls.longest_s:.3f} s",
        flush=True,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100, sys.argv[2:])
