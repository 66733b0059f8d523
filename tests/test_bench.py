"""``qpart bench``: which steps it times, what it compares, and what it says when it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qpart_fx as qpart
from qpart_fx import RequestError, container
from qpart_fx.bench import Settings, Stopwatch, bench_head, measured
from qpart_fx.bench_split import SUM, WHOLE, _unrounded, bench_split
from qpart_fx.cli import main
from qpart_fx.quantized import payload_quantizers
from tests.device.heads import plain, rounded
from tests.test_cli import failing

FEW = Settings(batch=2, repeats=3, threads=1)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("split") / "split.qpart"
    rounded("classifier", "_2", 8).split.save(path)
    return path


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("head") / "head.qpart"
    path.write_bytes(rounded("classifier", "_2", 8).packed())
    return path


def test_every_part_of_a_split_is_timed(file: Path) -> None:
    report = bench_split(file.read_bytes(), FEW)
    steps = [WHOLE, "head", "packing", "unpacking", "tail", SUM, "head and packing in onnxruntime"]
    assert list(report.times_s) == steps
    assert all(seconds > 0 for seconds in report.times_s.values())
    assert report.ratio(WHOLE) == 1
    assert report.notes == ()
    case = rounded("classifier", "_2", 8)
    sent = case.split.pack_activation(case.split.head(case.inputs[0][:2]))
    assert report.bytes == {
        "message": len(sent),
        "head's file": len(case.split.packed_head()),
        "head's file for onnxruntime": len(case.packed()),
    }


def test_the_whole_model_rounds_nothing_that_crosses() -> None:
    case = rounded("unet", ("relu", "relu_1"), 5)
    made, expected = _unrounded(case.split.head)(*case.inputs), case.split.head(*case.inputs)
    for value, other, grid in zip(made, expected, payload_quantizers(case.split.head), strict=True):
        assert len(value.unique()) > 32 >= len(other.unique())
        assert grid is not None
        assert torch.equal(grid(value), other)


def test_medians_are_of_what_comes_after_warming_up() -> None:
    taken = iter([9.0, 9.0, 9.0, 1.0, 5.0, 2.0])
    assert measured(lambda: {"step": next(taken)}, 3) == {"step": 2.0}


def test_a_stopwatch_hands_on_what_a_step_returns() -> None:
    watch = Stopwatch()
    assert watch("first", lambda: 7) == 7
    assert watch("second", lambda: None) is None
    assert list(watch.times_s) == ["first", "second"]


@pytest.mark.parametrize("name", ["recurrent", "two inputs"])
def test_inputs_are_made_for_any_network(name: str) -> None:
    cut: Any = {"recurrent": "relu", "two inputs": ("right", "add")}[name]
    head = plain(name, cut).packed()
    assert set(bench_head(head, FEW).times_s) == {"loading", "head", "head and packing"}


class Frozen(nn.Module):
    """Takes two samples, and no other number."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.second(torch.relu(self.first(x)).reshape(6))
        return scores


def test_a_batch_that_a_model_does_not_take_is_refused(tmp_path: Path) -> None:
    qpart.split(Frozen(), (torch.zeros(2, 4),), cut="relu").save(tmp_path / "split.qpart")
    content = (tmp_path / "split.qpart").read_bytes()
    assert bench_split(content, FEW).times_s
    with pytest.raises(RequestError, match="does not run on a batch of 3"):
        bench_split(content, Settings(batch=3, repeats=1))


@pytest.mark.parametrize("field", ["batch", "repeats", "threads"])
def test_numbers_of_nothing_are_refused(field: str) -> None:
    with pytest.raises(RequestError, match=f"{field} = 0: give a number above 0"):
        Settings(**{field: 0})


# The command


def test_the_table_and_the_json_say_the_same(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", str(file), "--batch", "2", "--repeats", "2", "--threads", "1"]
    assert main([*arguments, "--json", str(tmp_path / "bench.json")]) == 0
    out, err = capsys.readouterr()
    record = json.loads((tmp_path / "bench.json").read_text())
    assert err == ""
    assert "Sequential, cut at _2" in out
    assert "batch: 2, threads: 1, medians of 2 runs" in out
    assert record["settings"] == {"batch": 2, "repeats": 2, "threads": 1}
    assert record["ratios"][WHOLE] == 1
    for step, seconds in record["times_s"].items():
        (line,) = [line for line in out.splitlines() if line.startswith(f"{step}  ")]
        assert line.split()[-2:] == [f"{1e3 * seconds:.3f}", f"{record['ratios'][step]:.3f}"]
    for name, size in record["bytes"].items():
        assert f"{size:,}" in next(line for line in out.splitlines() if line.startswith(f"{name}  "))


def test_what_cannot_be_measured_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain("two inputs", "input").split.save(tmp_path / "split.qpart")
    assert main(["bench", str(tmp_path / "split.qpart"), "--repeats", "1"]) == 0
    out = capsys.readouterr().out
    assert "Not measured in onnxruntime: " in out
    assert "head and packing in onnxruntime" not in out


def test_a_device_benches_a_head_without_torch(head: Path) -> None:
    script = "import sys; sys.modules['torch'] = None; from qpart_fx.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "bench", str(head), "--repeats", "2", "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "The head of Sequential, cut at _2, in onnxruntime" in done.stdout
    assert f"{head.stat().st_size:,}" in done.stdout


def test_other_files_are_refused(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "No such file" in failing(["bench", str(tmp_path / "nothing")], capsys)
    (tmp_path / "tail.qpart").write_bytes(container.encode("tail", {}, b""))
    assert "is a tail, where a split or head is needed" in failing(["bench", str(tmp_path / "tail.qpart")], capsys)
    (tmp_path / "head.qpart").write_bytes(rounded("classifier", "_2", 8).split.packed_head())
    assert "this head is for PyTorch" in failing(["bench", str(tmp_path / "head.qpart")], capsys)
    assert "repeats = 0" in failing(["bench", str(file), "--repeats", "0"], capsys)
