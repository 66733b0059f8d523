"""``qpart calibrate-server``: what is written down is what was measured, and requests take it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import qpart_fx as qpart
from qpart_fx.cli import main
from qpart_fx.serving.calibration import calibrate_server
from qpart_fx.serving.tails import ServedTail

from .running import REQUEST, profile


def test_a_server_is_measured_by_its_tails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile().save(tmp_path / "net.qpart")
    command = ["calibrate-server", str(tmp_path / "net.qpart"), "-o", str(tmp_path / "server.json"), "--threads", "1"]
    assert main([*command, "--clock-hz", "2e9", "--price-per-s", "3"]) == 0
    server = qpart.Server.from_json((tmp_path / "server.json").read_text())
    assert (server.clock_hz, server.price_per_s) == (2e9, 3.0)
    assert qpart.Server.from_json(server.to_json()) == server
    said = capsys.readouterr().out
    assert "nanoseconds for a MAC" in said
    assert "server.json" in said
    plan = profile().plan(qpart.Request(0.05, REQUEST.device, server, REQUEST.link))
    assert plan.prices["server_time_s"] >= 0


def test_what_a_mac_takes_is_the_tails_time_by_their_macs() -> None:
    report = calibrate_server(profile(), threads=1)
    macs, seconds = sum(tail.macs for tail in report.tails), sum(tail.seconds for tail in report.tails)
    assert report.server.cycles_per_mac / report.server.clock_hz == pytest.approx(seconds / macs)
    assert report.tails[0].macs == max(cut.server_macs for cut in profile().closed_cuts)


def test_one_sample_is_measured_as_calls_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    samples: list[int] = []
    run = ServedTail.run

    def noted(self: ServedTail, payloads: Any) -> Any:
        samples.extend(payload.samples for payload in payloads)
        return run(self, payloads)

    monkeypatch.setattr(ServedTail, "run", noted)
    calibrate_server(profile(), threads=1)
    assert set(samples) == {1}


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--threads", "0"], "threads = 0"), (["--clock-hz", "-1"], "clock_hz"), (["--price-per-s", "-1"], "price_per_s")],
)
def test_mistakes_are_named(options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile().save(tmp_path / "net.qpart")
    assert main(["calibrate-server", str(tmp_path / "net.qpart"), *options]) == 1
    assert words in capsys.readouterr().err


def test_a_file_that_is_no_profile_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.qpart").write_bytes(b"nothing")
    assert main(["calibrate-server", str(tmp_path / "x.qpart")]) == 1
    assert "x.qpart" in capsys.readouterr().err


def test_a_text_that_is_no_server_is_refused() -> None:
    with pytest.raises(qpart.RequestError, match="clock_hz"):
        qpart.Server.from_json('{"cycles_per_mac": 1}')
