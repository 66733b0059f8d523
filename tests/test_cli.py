"""The command ``qpart``: what it prints, where, and with which status."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import qpart_fx as qpart
from qpart_fx import Plan
from qpart_fx.cli import main
from qpart_fx.plan import PlannedLayer
from qpart_fx.prices import price

MACS = {"device_macs": 12.0, "server_macs": 6.0}


@pytest.fixture
def plan() -> Plan:
    request = qpart.Request.paper()
    prices = price(request, **MACS, download_bits=60.0, upload_bits=12.0)
    return Plan(
        model="Net", method="paper", max_accuracy_drop=0.01, cut=("_1",), device_nodes=("input", "_0", "_1"),
        layers=(PlannedLayer("_0", "Linear", 12, 12, 5), PlannedLayer("_2", "Linear", 6, 6, None)),
        activation_bits={"_1": 4}, time_s=prices.time_s, energy_j=prices.energy_j, cost=prices.server_cost,
        objective=prices.objective(request), prices=prices.as_dict(), download_bytes=8, upload_bytes=2,
        device_memory_bytes=36, inferences_per_download=1,
    )  # fmt: skip


@pytest.fixture
def split() -> qpart.SplitModel:
    return qpart.split(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), (torch.zeros(1, 4),))


def failing(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that fails says; nothing on standard output, one line on standard error."""
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("qpart: ")
    assert err.count("\n") == 1
    return err


def test_show_prints_a_plan(plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan.save(tmp_path / "plan.json")
    assert main(["show", str(tmp_path / "plan.json")]) == 0
    assert capsys.readouterr() == (f"{plan}\n", "")


def test_show_prints_the_plan_of_a_split(
    plan: Plan, split: qpart.SplitModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split.plan = plan
    split.save(tmp_path / "model.qpart")
    assert main(["show", str(tmp_path / "model.qpart")]) == 0
    assert capsys.readouterr() == (f"{plan}\n", "")


def test_show_can_draw_as_well(plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan.save(tmp_path / "plan.json")
    assert main(["show", str(tmp_path / "plan.json"), "--plot", str(tmp_path / "plan.png")]) == 0
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert str(plan) in capsys.readouterr().out


def test_a_split_without_a_plan_is_said_to_have_none(
    split: qpart.SplitModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split.save(tmp_path / "model.qpart")
    assert "made without a plan" in failing(["show", str(tmp_path / "model.qpart")], capsys)


def test_a_head_is_said_to_be_one(split: qpart.SplitModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "head.qpart").write_bytes(split.packed_head())
    assert "is a head, where a split is needed" in failing(["show", str(tmp_path / "head.qpart")], capsys)


def test_a_file_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing.json: No such file" in failing(["show", str(tmp_path / "nothing.json")], capsys)
    assert str(tmp_path) in failing(["show", str(tmp_path)], capsys)


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"{", b"{}", b'{"format": "qpart.plan", "version": 1}', b"\0" * 99]
)
def test_a_file_that_is_none_of_ours_is_refused(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(content)
    failing(["show", str(tmp_path / "file")], capsys)


@pytest.mark.parametrize("target", ["nowhere/plan.png", "plan.xyz"])
def test_a_picture_that_cannot_be_written_is_named(
    target: str, plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan.save(tmp_path / "plan.json")
    assert main(["show", str(tmp_path / "plan.json"), "--plot", str(tmp_path / target)]) == 1
    assert "qpart: cannot write" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"qpart {qpart.__version__}\n"


@pytest.mark.parametrize(("arguments", "told"), [(["--help"], "show"), (["show", "--help"], "--plot")])
def test_help_tells_what_there_is(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: qpart")
    assert told in out


@pytest.mark.parametrize("arguments", [[], ["dance"], ["show"], ["show", "a", "b"], ["show", "a", "--colour"]])
def test_a_wrong_command_is_told_how_to_be_right(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: qpart")


def test_show_needs_no_torch(plan: Plan, split: qpart.SplitModel, tmp_path: Path) -> None:
    split.plan = plan
    split.save(tmp_path / "model.qpart")
    script = (
        "import sys; sys.modules['torch'] = None; from qpart_fx.cli import main; sys.exit(main(['show', sys.argv[1]]))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "model.qpart")]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{plan}\n"
