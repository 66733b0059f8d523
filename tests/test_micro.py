"""Runs of the micro-benchmarks beside each other: ratios, what is new or gone, and saved runs that are damaged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.micro.comparison import NOISE, SavedRunError, Timed, compare, read_pytest, read_saved, save
from benchmarks.micro.workload import workload_s


def written(path: Path, *benchmarks: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"benchmarks": benchmarks}))
    return path


def record(name: str, median: float, **extra: float) -> dict[str, Any]:
    return {
        "name": f"test_{name}", "fullname": f"benchmarks/bench_compiler.py::test_{name}",
        "stats": {"median": median}, "extra_info": extra,
    }  # fmt: skip


def test_a_slower_machine_is_no_regression(tmp_path: Path) -> None:
    fast = read_pytest(written(tmp_path / "fast.json", record("plan", 0.010, workload_s=0.002)))
    slow = read_pytest(written(tmp_path / "slow.json", record("plan", 0.030, workload_s=0.006)))
    (row,) = compare(slow, fast)
    assert row.change == pytest.approx(1.0)
    assert row.verdict == ""


@pytest.mark.parametrize(("factor", "verdict"), [(1.05 * NOISE, "slower"), (0.95 / NOISE, "faster"), (1.1, "")])
def test_what_is_beyond_the_noise_is_marked(factor: float, verdict: str) -> None:
    (row,) = compare({"a": Timed(1.0, factor)}, {"a": Timed(1.0, 1.0)})
    assert row.verdict == verdict


def test_what_is_new_and_what_was_not_run_is_said() -> None:
    rows = {row.name: row.verdict for row in compare({"new": Timed(1.0, 1.0)}, {"old": Timed(1.0, 1.0)})}
    assert rows == {"new": "new", "old": "not run"}


def test_a_selection_replaces_only_what_was_run(tmp_path: Path) -> None:
    path, old = tmp_path / "saved.json", {"a": Timed(1.0, 1.0), "b": Timed(2.0, 2.0)}
    save(path, {"b": Timed(3.0, 3.0)}, old, "a machine")
    assert read_saved(path) == {"a": Timed(1.0, 1.0), "b": Timed(3.0, 3.0)}


def test_benchmarks_without_a_workload_beside_them_are_left_out(tmp_path: Path) -> None:
    run = read_pytest(written(tmp_path / "run.json", record("plan", 0.01), record("cut", 0.01, workload_s=0.01)))
    assert [*run] == ["compiler: cut"]


def test_nothing_is_read_where_there_is_nothing(tmp_path: Path) -> None:
    assert read_saved(tmp_path / "none.json") == {}
    assert read_pytest(tmp_path / "none.json") == {}


@pytest.mark.parametrize(
    "content",
    ["", "no JSON", "[]", "{}", '{"benchmarks": []}', '{"benchmarks": {"a": {}}}',
     '{"benchmarks": {"a": {"seconds": 1, "ratio": 0}}}', '{"benchmarks": {"a": {"seconds": 1, "ratio": NaN}}}'],
)  # fmt: skip
def test_a_damaged_saved_run_is_refused_and_left_as_it_is(tmp_path: Path, content: str) -> None:
    path = tmp_path / "saved.json"
    path.write_text(content)
    with pytest.raises(SavedRunError, match="restore it from git, or delete it"):
        read_saved(path)
    assert path.read_text() == content


def test_the_workload_takes_time() -> None:
    assert workload_s() > 0


def test_the_command_runs_benchmarks_and_says_what_they_take() -> None:
    command = [sys.executable, "-m", "benchmarks.micro", "--no-save", "-k", "samples_needed"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (row,) = (line for line in ended.stdout.splitlines() if "confidence: samples_needed" in line)
    assert "not run" not in row
