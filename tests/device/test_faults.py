"""What networks and servers do to a device: no call hangs, none is lost, none is answered wrongly, and all is well
again when the server is. Each fault a few times; a hundred times in the slow run, or ten where a server has to start
again each time (``python -m benchmarks.serving.faults`` does that as often as is wished)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from numpy.typing import NDArray

import qpart_fx as qpart
from qpart_fx.device import Tls
from tests.device.enduring import ALTERED, FAULTS, Process, endure_loss, endure_network, endure_one_of_two, expected_of
from tests.device.fake_server import FakeServer
from tests.device.heads import profile
from tests.faults import FaultProxy
from tests.serving.certificates import authority

REPEATS = [pytest.param(3, id="some"), pytest.param(100, id="many", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def known() -> qpart.Profile:
    return profile("classifier")


@pytest.fixture(scope="module")
def expected(known: qpart.Profile) -> list[NDArray[Any]]:
    return expected_of(known)


@pytest.fixture(scope="module")
def server(known: qpart.Profile) -> Iterator[FakeServer]:
    server = FakeServer(known)
    yield server
    server.stop()


@pytest.fixture
def proxy(server: FakeServer) -> Iterator[FaultProxy]:
    with FaultProxy(server.port) as proxy:
        yield proxy


@pytest.mark.parametrize("times", REPEATS)
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in ALTERED])
def test_a_network_that_misbehaves(proxy: FaultProxy, expected: list[NDArray[Any]], fault: str, times: int) -> None:
    calls = endure_network(proxy, expected, fault, times)
    assert (calls.wrong, calls.lost) == (0, 0)


@pytest.mark.parametrize("times", REPEATS)
@pytest.mark.parametrize("fault", ALTERED)
def test_a_network_that_alters_what_is_encrypted(
    known: qpart.Profile, expected: list[NDArray[Any]], fault: str, times: int, tmp_path: Path
) -> None:
    signer = authority(tmp_path, "authority")
    certificate, key = (path.read_bytes() for path in signer.sign("server"))
    server = FakeServer(known, credentials=grpc.ssl_server_credentials([(key, certificate)]))
    with FaultProxy(server.port) as proxy:
        calls = endure_network(proxy, expected, fault, times, Tls(ca=signer.certificate, server_name="localhost"))
    server.stop()
    assert (calls.wrong, calls.lost) == (0, 0)


@pytest.fixture(scope="module")
def process(known: qpart.Profile, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    catalog = tmp_path_factory.mktemp("catalog")
    known.save(catalog / "model.qpart")
    process = Process(catalog)
    yield process
    process.kill()


@pytest.mark.parametrize(
    ("harm", "times"),
    [
        pytest.param("frozen", 1, id="frozen-once"),
        pytest.param("killed", 1, id="killed-once"),
        pytest.param("frozen", 100, id="frozen-many", marks=pytest.mark.slow),
        pytest.param("killed", 10, id="killed-some", marks=pytest.mark.slow),
    ],
)
def test_a_server_that_is_gone(process: Process, expected: list[NDArray[Any]], harm: str, times: int) -> None:
    calls = endure_loss(process, expected, harm, times)
    assert (calls.wrong, calls.lost) == (0, 0)


@pytest.mark.parametrize("times", [pytest.param(1, id="once"), pytest.param(10, id="some", marks=pytest.mark.slow)])
def test_one_of_two_servers_that_is_gone(
    process: Process, known: qpart.Profile, expected: list[NDArray[Any]], times: int, tmp_path: Path
) -> None:
    known.save(tmp_path / "model.qpart")
    other = Process(tmp_path)
    try:
        calls = endure_one_of_two(process, other, expected, times)
    finally:
        other.kill()
    assert calls.sources.keys() == {"server"}
    assert (calls.wrong, calls.lost) == (0, 0)
