"""The container of every file: whole, or refused."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from qpart_fx import ArtifactError
from qpart_fx.container import VERSION, decode, encode, write_file

MANIFEST: dict[str, Any] = {"numbers": [1, 2.5, None], "nested": {"text": 'ä€ "quoted" \n'}}
FILE = encode("head", MANIFEST, b"some data")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def forged(manifest: bytes, data: bytes = b"", **others: bytes) -> bytes:
    """A file with whatever manifest, under the hash that belongs to it."""
    parts = {"manifest": manifest, "data": data, "sha256": hashlib.sha256(manifest + data).digest(), **others}
    return save({name: np.frombuffer(part, dtype=np.uint8) for name, part in parts.items()})


def zipped(manifest: Any) -> bytes:
    return zlib.compress(json.dumps(manifest).encode())


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text().filter(lambda key: key not in ("format", "version")), json_values), st.binary())
def test_what_is_decoded_is_what_was_encoded(manifest: dict[str, Any], data: bytes) -> None:
    kind, read, block = decode(encode("split", manifest, data), "profile", "split")
    assert kind == "split"
    assert read == {"format": "qpart.split", "version": VERSION, **manifest}
    assert bytes(block) == data


def test_the_same_contents_make_the_same_file() -> None:
    assert encode("head", MANIFEST, b"some data") == FILE


@pytest.mark.parametrize("change", [0x01, 0x80, 0xFF])
def test_any_changed_byte_is_noticed(change: int) -> None:
    for place in range(len(FILE)):
        damaged = bytearray(FILE)
        damaged[place] ^= change
        with pytest.raises(ArtifactError):
            decode(bytes(damaged), "head")


def test_whatever_is_changed_only_the_same_contents_are_ever_read() -> None:
    """Every value of every byte of the header; a blank in it may become a tab."""
    good = decode(FILE, "head")
    for place in range(len(FILE) - len(b"some data")):
        for value in range(0, 256, 5 if place > 8 else 1):
            damaged = bytearray(FILE)
            damaged[place] = value
            try:
                assert decode(bytes(damaged), "head") == good
            except ArtifactError:
                continue


def test_a_file_cut_short_anywhere_is_refused() -> None:
    for length in range(len(FILE)):
        with pytest.raises(ArtifactError, match=r"cut short|damaged"):
            decode(FILE[:length], "head")


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 100, b"\xff" * 100, b"PK\x03\x04 a zip", b"{}", FILE + b"\0", FILE * 2]
)
def test_what_is_not_ours_is_refused(content: bytes) -> None:
    with pytest.raises(ArtifactError, match="not one of qpart_fx"):
        decode(content, "head")


def test_another_safetensors_file_is_refused() -> None:
    with pytest.raises(ArtifactError, match="not one of qpart_fx"):
        decode(save({"weight": np.zeros(3, np.float32)}), "head")


def test_another_kind_is_named_with_what_is_needed() -> None:
    with pytest.raises(ArtifactError, match="the file is a head, where a profile or split is needed"):
        decode(FILE, "profile", "split")


@pytest.mark.parametrize("version", [VERSION + 1, 0, "1", None, [1]])
def test_another_version_is_named(version: Any) -> None:
    with pytest.raises(ArtifactError, match="version"):
        decode(forged(zipped({"format": "qpart.head", "version": version})), "head")


@pytest.mark.parametrize(
    "manifest",
    [
        b"not compressed",
        zlib.compress(b"not JSON"),
        zlib.compress(b'{"format": "qpart.head", "version": 1'),
        zlib.compress(b'{"format": "qpart.head", "version": 1}')[:-6],
        zlib.compress(b"\xff\xfe"),
        zlib.compress(b"[" * 100_000),
        zipped([]),
        zipped("qpart.head"),
        zipped({}),
        zipped({"format": "qpart.head"}),
        zipped({"version": 1}),
    ],
)
def test_a_forged_manifest_is_refused(manifest: bytes) -> None:
    with pytest.raises(ArtifactError, match=r"malformed|version|cut short"):
        decode(forged(manifest), "head")


def test_a_wrong_hash_is_refused_before_anything_is_read() -> None:
    with pytest.raises(ArtifactError, match="do not match their hash"):
        decode(forged(b"not even compressed", sha256=bytes(32)), "head")


def test_a_number_that_json_has_not_is_not_written() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        encode("head", {"number": float("nan")}, b"")


def test_a_file_is_written_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.qpart"
    write_file(path, b"old")
    write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file.qpart"]


def test_the_old_file_stays_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "file.qpart"
    path.write_bytes(b"old")
    with pytest.raises(TypeError):
        write_file(path, "no bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.qpart"]


def test_the_old_file_stays_when_it_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.qpart"
    path.write_bytes(b"old")

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ArtifactError, match=r"cannot write .*file\.qpart: no space left"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.qpart"]


def test_a_folder_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(ArtifactError, match=r"cannot write .*taken"):
        write_file(tmp_path / "taken", b"new")
    assert os.listdir(tmp_path) == ["taken"]
