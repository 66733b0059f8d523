"""``qpart run``, against a server in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import qpart_fx as qpart
from qpart_fx.cli import main
from qpart_fx.device.run import request_of
from tests.device.fake_server import FakeServer
from tests.device.heads import network, profile


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    server = FakeServer(profile("classifier"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def images() -> NDArray[np.float32]:
    made: NDArray[np.float32] = network("classifier")[1][0][:5].numpy()
    return made


def test_outputs_are_written(
    server: FakeServer, images: NDArray[np.float32], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", images)
    command = ["run", server.address, "model", "--input", str(tmp_path / "x.npy"), "--cache", str(tmp_path / "heads")]
    assert main([*command, "--output", str(tmp_path / "y.npy"), "--repeat", "3", "--max-drop", "0.05"]) == 0
    split = next(reversed(server.plans.values())).split
    with torch.no_grad():
        assert np.array_equal(np.load(tmp_path / "y.npy"), split(torch.from_numpy(images)).numpy())
    said = capsys.readouterr().err
    assert said.count("ms: server, ") == 3
    assert "link: " in said
    assert main(command) == 0
    assert capsys.readouterr().out.startswith("output: [[")


def test_arrays_by_name_are_arguments_by_name(
    server: FakeServer, images: NDArray[np.float32], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "x.npz", nothing_of_the_model=images)
    assert main(["run", server.address, "model", "--input", str(tmp_path / "x.npz")]) == 1
    assert "was given 0 arrays and ['nothing_of_the_model']" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--repeat", "0"], "--repeat 0"),
        (["--device", "no.json"], "cannot read no.json"),
        (["--max-drop", "2"], "max_accuracy_drop"),
        (["--input", "no.npy"], "cannot read no.npy"),
        (["--fallback", "no.qpart"], "cannot read no.qpart"),
        (["--tls-ca", "no.pem"], "cannot read no.pem"),
        (["--tls-key", "no.pem"], "belong together"),
        (["--output", "y.txt"], "give a file called .npz"),
    ],
)
def test_mistakes_are_said(
    server: FakeServer, images: NDArray[np.float32], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    options: list[str], words: str,
) -> None:  # fmt: skip
    np.save(tmp_path / "x.npy", images)
    assert main(["run", server.address, "model", "--input", str(tmp_path / "x.npy"), *options]) == 1
    assert words in capsys.readouterr().err


def test_nobody_there_is_said(images: NDArray[np.float32], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", images)
    command = ["run", "127.0.0.1:9", "model", "--input", str(tmp_path / "x.npy"), "--timeout", "0.5"]
    assert main(command) == 1
    assert "no server answers for model 'model'" in capsys.readouterr().err


def test_a_request_is_made_of_what_is_given(tmp_path: Path) -> None:
    path = tmp_path / "device.json"
    assert request_of(None, None).max_accuracy_drop == 0.01
    path.write_text(json.dumps({"clock_hz": 2e8, "cycles_per_mac": 5.0}))
    assert request_of(path, 0.03).device == qpart.Device(clock_hz=2e8, cycles_per_mac=5.0)
    full = qpart.Request.paper(0.02, deadline_s=0.5)
    path.write_text(full.to_json())
    assert request_of(path, None) == full
    path.write_text('{"clock_hertz": 1}')
    with pytest.raises(qpart.RequestError, match="clock_hertz"):
        request_of(path, None)
    path.write_text("[")
    with pytest.raises(qpart.ArtifactError, match="is no JSON"):
        request_of(path, None)
