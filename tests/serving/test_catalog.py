"""The catalog: what it offers, what it leaves out, and what it sees of changes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

import qpart_fx as qpart
from qpart_fx import container
from qpart_fx.serving.catalog import Catalog
from qpart_fx.serving.refusal import Refused


def file(content: bytes = b"some data", kind: str = "profile") -> bytes:
    return container.encode(kind, {}, content)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "catalog"
    made.mkdir()
    return made


def names(folder: Path) -> list[str]:
    catalog = Catalog(folder)
    catalog.refresh()
    return sorted(catalog.models)


def test_names_are_those_of_the_files(folder: Path) -> None:
    for name in ("a.qpart", "B-1_x.y.qpart", "0.qpart"):
        (folder / name).write_bytes(file())
    assert names(folder) == ["0", "B-1_x.y", "a"]


@pytest.mark.parametrize(
    "name", [".hidden.qpart", "a b.qpart", "é.qpart", ".qpart", "a\nb.qpart", "a.QPART", "a.txt", "x" * 200 + ".qpart"]
)
def test_other_names_are_left_out(folder: Path, name: str) -> None:
    (folder / name).write_bytes(file())
    assert names(folder) == []


@pytest.mark.parametrize("content", [b"", b"nothing of ours", file()[:-1], file() + b"x", file(kind="head")])
def test_broken_and_other_files_are_left_out(folder: Path, content: bytes) -> None:
    (folder / "bad.qpart").write_bytes(content)
    (folder / "good.qpart").write_bytes(file())
    assert names(folder) == ["good"]


def test_links_that_leave_the_folder_are_left_out(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "secret.qpart"
    outside.write_bytes(file())
    (folder / "absolute.qpart").symlink_to(outside)
    (folder / "relative.qpart").symlink_to("../secret.qpart")
    (folder / "dangling.qpart").symlink_to("nowhere.qpart")
    (folder / "round.qpart").symlink_to("round.qpart")
    (folder / "real.qpart").write_bytes(file())
    (folder / "inside.qpart").symlink_to("real.qpart")
    (tmp_path / "catalog-2").mkdir()
    (tmp_path / "catalog-2" / "x.qpart").write_bytes(file())
    (folder / "sibling.qpart").symlink_to("../catalog-2/x.qpart")
    assert names(folder) == ["inside", "real"]


def test_what_is_no_file_is_left_out(folder: Path) -> None:
    (folder / "folder.qpart").mkdir()
    os.mkfifo(folder / "pipe.qpart")
    assert names(folder) == []


@pytest.mark.parametrize("name", ["../catalog/a", "/etc/passwd", "a.qpart", "a/../a", "", "a\x00", "A"])
def test_a_name_never_becomes_a_path(folder: Path, name: str) -> None:
    (folder / "a.qpart").write_bytes(file())
    catalog = Catalog(folder)
    catalog.refresh()
    assert catalog.model("a").name == "a"
    with pytest.raises(Refused, match="no model"):
        catalog.model(name)


def test_changes_are_seen(folder: Path) -> None:
    catalog = Catalog(folder)
    assert not catalog.refresh()
    first, second = file(b"first"), file(b"second, longer")
    (folder / "a.qpart").write_bytes(first)
    assert catalog.refresh()
    assert not catalog.refresh()
    known = catalog.model("a")
    assert (known.hash, known.size) == (hashlib.sha256(first).hexdigest(), len(first))
    (folder / "a.qpart").write_bytes(second[:-3])  # not whole yet
    catalog.refresh()
    assert catalog.model("a") == known
    (folder / "a.qpart").write_bytes(second)
    assert catalog.refresh()
    assert catalog.is_current("a", hashlib.sha256(second).hexdigest())
    assert not catalog.is_current("a", known.hash)
    (folder / "a.qpart").unlink()
    assert catalog.refresh()
    assert not catalog.is_current("a", hashlib.sha256(second).hexdigest())


def test_a_catalog_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(qpart.RequestError, match="no folder"):
        Catalog(tmp_path / "nothing")
