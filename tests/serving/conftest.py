"""What tests of servers have in common: a catalog, and who signs certificates."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.serving.certificates import Authority, authority
from tests.serving.running import profile


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two names for one model."""
    folder = tmp_path_factory.mktemp("catalog")
    for name in ("net", "other"):
        profile().save(folder / f"{name}.qpart")
    return folder


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority that is trusted."""
    return authority(tmp_path_factory.mktemp("ours"), "ours")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Another one."""
    return authority(tmp_path_factory.mktemp("theirs"), "theirs")
