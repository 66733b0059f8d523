"""How long the package takes to import, in a process of its own: what a device waits for before anything else."""

import subprocess
import sys

import pytest
from pytest_benchmark.fixture import BenchmarkFixture


@pytest.mark.parametrize("code", ["pass", "import qpart_fx", "import qpart_fx; qpart_fx.Request"])
def test_import(benchmark: BenchmarkFixture, code: str) -> None:
    benchmark.pedantic(subprocess.check_call, args=([sys.executable, "-c", code],), rounds=5, warmup_rounds=1)
