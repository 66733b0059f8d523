"""What the tests share: one thread, the debug variable off, and the real networks where they are at hand."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

collect_ignore = ["coverage"]  # a suite of its own, with libraries of its own: `make coverage`

ZOO = Path(__file__).parents[2] / "shared" / "data" / "zoo.py"


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)  # small tensors: more threads only wait for each other


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QPART_DEBUG", raising=False)


@pytest.fixture(scope="session")
def zoo() -> ModuleType:
    """Real networks and data; users do not have them."""
    if not ZOO.exists():
        pytest.skip("needs the real networks and data, which are not part of the project")
    spec = importlib.util.spec_from_file_location("zoo", ZOO)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
