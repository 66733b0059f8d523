"""The demo: three requests, three answers, and what it leaves behind."""

from __future__ import annotations

from pathlib import Path

import pytest

import qpart_fx as qpart
from qpart_fx.cli import main

NAMES = ("weak_device_fast_link", "strong_device_slow_link", "strict_accuracy")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "demo"
    assert main(["demo", "--directory", str(path)]) == 0
    return path


def test_three_requests_get_three_different_answers(directory: Path) -> None:
    plans = [qpart.Plan.from_json((directory / name / "plan.json").read_text()) for name in NAMES]
    on_device = [len(plan.weight_bits) for plan in plans]
    assert on_device[0] == 0
    assert on_device[1] == len(plans[1].layers)
    assert 0 < on_device[2] < len(plans[2].layers)
    for plan in plans:
        assert plan.measured_drop is not None
        assert plan.measured_drop <= plan.max_accuracy_drop


def test_leaves_plans_models_and_plots(directory: Path) -> None:
    assert isinstance(qpart.load(directory / "profile.qpart"), qpart.Profile)
    for name in NAMES:
        assert isinstance(qpart.load(directory / name / "split.qpart"), qpart.SplitModel)
        assert (directory / name / "plan.png").read_bytes().startswith(b"\x89PNG")
        assert (directory / name / "head.qpart").exists()


def test_same_seed_same_files(directory: Path, tmp_path: Path) -> None:
    assert main(["demo", "--directory", str(tmp_path), "--no-plots"]) == 0
    for name in NAMES:
        for file in ("split.qpart", "head.qpart", "plan.json"):
            assert (tmp_path / name / file).read_bytes() == (directory / name / file).read_bytes()
