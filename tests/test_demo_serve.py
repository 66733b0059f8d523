"""The demo of serving: its parts, and in the slow run the whole play."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from qpart_fx.demo_device import nearest
from qpart_fx.demo_serve import requests, run
from qpart_fx.slow_link import SlowLink

PATIENCE_S = 60.0


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that gives back what it gets, to one caller after the other."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:  # it is closed
                    return
                with connection:
                    while data := connection.recv(65536):
                        connection.sendall(data)

        threading.Thread(target=answer, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def test_a_slow_link_passes_all_bytes_at_any_rate(echo: int) -> None:
    link = SlowLink(echo, 8e6)
    try:
        for bps in (8e6, 8e5, 8e7):
            link.bps = bps
            sent = np.random.default_rng(0).bytes(20_000)
            with socket.create_connection(("127.0.0.1", link.port), PATIENCE_S) as connection:
                connection.sendall(sent)
                found = b""
                while len(found) < len(sent) and (data := connection.recv(65536)):
                    found += data
            assert found == sent
    finally:
        link.close()


def test_a_slow_link_to_nobody_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    link = SlowLink(port, 8e6)
    try:
        caller = socket.create_connection(("127.0.0.1", link.port), PATIENCE_S)
        with caller, suppress(ConnectionResetError):
            assert caller.recv(1) == b""
    finally:
        link.close()


def test_the_two_devices_differ() -> None:
    strong, weak = requests()["strong"].device, requests()["weak"].device
    assert strong.clock_hz / strong.float_cycles_per_mac > 10 * weak.clock_hz / weak.float_cycles_per_mac


def test_the_lesser_model_takes_the_nearest_class() -> None:
    centres = np.eye(3).reshape(3, 1, 1, 3)
    assert nearest(centres[[2, 0, 1]] * 0.9, centres).argmax(axis=1).tolist() == [2, 0, 1]


@pytest.mark.slow
def test_the_play_has_all_its_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, part_s=4.0)
    said = capsys.readouterr().out
    parts = ("two devices start", "the link slows", "the server is killed", "the server is there", "the end")
    places = [said.index(part) for part in parts]
    assert places == sorted(places)
    before, after = said[: places[2]], said[places[2] : places[3]]
    for name in ("strong", "weak"):
        assert any(name in line and "the plan in use" in line for line in before.splitlines())
    assert "by the server" in before
    assert "by the fallback" in after
    assert "by the server" in said[places[3] :]
    shares = [float(line.split("; ")[1].split("%")[0]) for line in said.splitlines() if "% right" in line]
    assert min(shares) > 50  # the lesser model's, and more of the others
    assert "Traceback" not in said
