"""All experiments by one command: which are run, with what, and what is said of those that cannot be or fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import reproduce
from benchmarks.reproduce import Experiment, main


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commands that would have been run."""
    commands: list[str] = []

    def run(each: Experiment, directory: Path | None) -> int:
        commands.append(" ".join(each.command(directory)))
        return 0

    monkeypatch.setattr(Experiment, "run", run)
    monkeypatch.setattr(reproduce, "render", lambda _: None)
    return commands


def test_without_data_the_rest_is_run_and_the_others_are_named(
    ran: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["reproduce"])
    main()
    assert sorted(ran) == ["-m benchmarks.grid --jobs 2", "-m benchmarks.simulator"]
    said = capsys.readouterr().out
    assert "Left out for want of DIRECTORY: Figs. 3 to 10" in said
    assert "Left out for want of DIRECTORY: Table IV" in said


def test_with_data_all_are_run(ran: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "zoo.py").touch()
    monkeypatch.setattr("sys.argv", ["reproduce", str(tmp_path)])
    main()
    assert sorted(ran) == sorted(
        [f"-m benchmarks.paper {tmp_path} --only mnist", f"-m benchmarks.paper {tmp_path} --only networks",
         f"-m benchmarks.grid {tmp_path} --jobs 2", "-m benchmarks.simulator"]
    )  # fmt: skip


def test_one_that_fails_is_named_and_the_others_are_run(ran: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Experiment.run
    monkeypatch.setattr(Experiment, "run", lambda each, directory: whole(each, directory) or int(each.name == "grid"))
    monkeypatch.setattr("sys.argv", ["reproduce"])
    with pytest.raises(SystemExit, match=r"failed: grid; run it alone: python -m benchmarks\.grid"):
        main()
    assert "-m benchmarks.simulator" in ran


def test_a_folder_without_data_is_refused(
    ran: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["reproduce", str(tmp_path)])
    with pytest.raises(SystemExit):
        main()
    assert "holds no zoo.py" in capsys.readouterr().err
    assert not ran
