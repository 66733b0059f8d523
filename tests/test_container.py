"""The container of every file: whole, or refused."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qpart_fx import ArtifactError
from qpart_fx.container import VERSION, Reader, decode, deflate, encode, inflate, text_of, write_file

MANIFEST: dict[str, Any] = {"numbers": [1, 2.5, None], "nested": {"text": 'ä€ "quoted" \n'}}
FILE = encode("head", MANIFEST, b"some data")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def forged(manifest: bytes, data: bytes = b"", *, header: bytes | None = None) -> bytes:
    """A file with whatever manifest and header, under the hash that belongs to it."""
    sizes = struct.pack("<IQ", len(manifest), len(data))
    content = (FILE[:6] + sizes if header is None else header) + manifest + data
    return content + hashlib.sha256(content).digest()


def zipped(manifest: Any) -> bytes:
    return deflate(json.dumps(manifest).encode())


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(), json_values), st.binary())
def test_what_is_decoded_is_what_was_encoded(manifest: dict[str, Any], data: bytes) -> None:
    kind, read, block = decode(encode("split", manifest, data), "profile", "split")
    assert kind == "split"
    assert read == manifest
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


def test_a_file_cut_short_anywhere_is_refused() -> None:
    for length in range(len(FILE)):
        with pytest.raises(ArtifactError, match=r"cut short|damaged"):
            decode(FILE[:length], "head")


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"\xff" * 100, b"PK\x03\x04 a zip", b"{}", b"QPRT"])
def test_what_is_not_ours_is_refused(content: bytes) -> None:
    with pytest.raises(ArtifactError, match="not one of qpart_fx"):
        decode(content, "head")


@pytest.mark.parametrize("more", [b"\0", FILE])
def test_a_file_that_goes_on_is_refused(more: bytes) -> None:
    with pytest.raises(ArtifactError, match="goes on behind its end"):
        decode(FILE + more, "head")


def safetensors(*names: str) -> bytes:
    table = {name: {"dtype": "U8", "shape": [1], "data_offsets": [at, at + 1]} for at, name in enumerate(names)}
    header = json.dumps(table, separators=(",", ":")).encode()
    return struct.pack("<Q", len(header)) + header + bytes(len(names))


def test_a_file_of_the_version_before_says_what_to_do() -> None:
    with pytest.raises(ArtifactError, match=f"of version 2 or before; this qpart_fx reads version {VERSION}: make it"):
        decode(safetensors("data", "manifest", "sha256"), "head")


def test_another_safetensors_file_is_refused() -> None:
    with pytest.raises(ArtifactError, match="not one of qpart_fx"):
        decode(safetensors("weight"), "head")


def test_another_kind_is_named_with_what_is_needed() -> None:
    with pytest.raises(ArtifactError, match="the file is a head, where a profile or split is needed"):
        decode(FILE, "profile", "split")


@pytest.mark.parametrize(
    ("version", "remedy"), [(VERSION + 1, "upgrade it"), (255, "upgrade it"), (0, "make it again")]
)
def test_another_version_is_named_with_the_remedy(version: int, remedy: str) -> None:
    header = FILE[:4] + bytes([version]) + FILE[5:18]
    with pytest.raises(ArtifactError, match=f"of version {version}; .*: {remedy}"):
        decode(forged(b"", header=header), "head")


@pytest.mark.parametrize(
    "manifest",
    [
        b"not compressed",
        b"",
        deflate(b"not JSON"),
        deflate(b'{"graph": 1'),
        deflate(b'{"graph": 1}')[:-1],
        deflate(b'{"graph": 1}') + b"more",
        deflate(b"\xff\xfe"),
        deflate(b"[" * 100_000),
        zipped([]),
        zipped("qpart.head"),
        zipped(None),
    ],
)
def test_a_forged_manifest_is_refused(manifest: bytes) -> None:
    with pytest.raises(ArtifactError, match="malformed"):
        decode(forged(manifest), "head")
    with pytest.raises(ArtifactError, match="malformed"):
        Reader("head").feed(forged(manifest))


def test_a_wrong_hash_is_refused_before_anything_is_read() -> None:
    content = forged(b"not even compressed")
    with pytest.raises(ArtifactError, match="do not match their hash"):
        decode(content[:-1] + bytes([content[-1] ^ 1]), "head")


@pytest.mark.parametrize("sizes", [(0, 2**64 - 1), (2**28, 0), (2**32 - 1, 2**64 - 1), (0, 2**40)])
def test_sizes_that_lie_allocate_nothing(sizes: tuple[int, int]) -> None:
    content = forged(zipped({}), header=FILE[:6] + struct.pack("<IQ", *sizes))
    tracemalloc.start()
    with pytest.raises(ArtifactError):
        decode(content, "head")
    with pytest.raises(ArtifactError):
        read_in_pieces(content, [len(content)], 1)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_file_is_framed_by_fifty_bytes() -> None:
    assert len(FILE) == 50 + len(deflate(text_of(MANIFEST))) + len(b"some data")


def read_in_pieces(content: bytes, sizes: list[int], size: int) -> tuple[dict[str, Any] | None, bytes]:
    """The manifest and the data, fed pieces of ``sizes`` and taken ``size`` bytes at a time."""
    reader, data, place = Reader("head", "split"), b"", 0
    for length in [*sizes, len(content)]:
        reader.feed(content[place : place + length])
        place += length
        while reader.left and (piece := reader.take(min(size, reader.left))) is not None:
            data += piece
    reader.close()
    return reader.manifest, data


@given(st.lists(st.integers(0, 40), max_size=20), st.integers(1, 12))
def test_a_file_that_arrives_in_pieces_is_read_as_a_whole_one(sizes: list[int], size: int) -> None:
    assert read_in_pieces(FILE, sizes, size) == (MANIFEST, b"some data")


def test_the_manifest_is_there_before_the_data_and_data_as_they_arrive() -> None:
    reader, end = Reader("head"), len(FILE) - 32 - len(b"some data")
    reader.feed(FILE[: end - 1])
    assert reader.manifest is None
    reader.feed(FILE[end - 1 : end + 4])
    assert reader.manifest == MANIFEST
    assert reader.left == 9
    assert reader.take(5) is None
    assert reader.take(4) == b"some"
    reader.feed(FILE[end + 4 : end + 9])
    assert reader.take(5) == b" data"
    with pytest.raises(ArtifactError, match="cut short"):
        reader.close()
    reader.feed(FILE[end + 9 :])
    reader.close()


@given(st.integers(0, len(FILE) - 1), st.integers(1, 255), st.lists(st.integers(0, 40), max_size=9))
def test_damage_is_noticed_however_a_file_arrives(place: int, change: int, sizes: list[int]) -> None:
    damaged = bytearray(FILE)
    damaged[place] ^= change
    with pytest.raises(ArtifactError):
        read_in_pieces(bytes(damaged), sizes, 4)


@given(st.integers(0, len(FILE) - 1), st.lists(st.integers(0, 40), max_size=9))
def test_what_is_cut_short_is_noticed_however_it_arrives(length: int, sizes: list[int]) -> None:
    with pytest.raises(ArtifactError, match="cut short"):
        read_in_pieces(FILE[:length], sizes, 4)
    with pytest.raises(ArtifactError, match="goes on"):
        read_in_pieces(FILE + FILE[: length + 1], sizes, 4)


@given(st.binary(), st.binary())
def test_what_is_deflated_for_a_reader_that_knows_some_of_it_comes_back(text: bytes, known: bytes) -> None:
    assert inflate(deflate(text, known), known) == text
    assert inflate(deflate(text)) == text


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
