"""Queries and answers: what is written is read, and what is malformed is refused."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest

import qpart_fx as qpart
from qpart_fx.container import deflate
from qpart_fx.serving_protocol import (
    MAX_QUERY_BYTES,
    HeadQuery,
    PlanAnswer,
    PlanQuery,
    build_outputs,
    checked_outputs,
    output_names,
)

HASH = "0123456789abcdef" * 4
QUERY = PlanQuery("net", {"a": 1}, HASH, HASH)
STRUCTURE = {"dict": [["a", {"value": 1}], ["b", {"tuple": [{"value": 0}, {"list": [{"constant": None}]}]}]]}
ANSWER = PlanAnswer({"cut": ["x"]}, "id", HASH, 12, None, STRUCTURE, HASH)


def test_queries_are_read_as_written() -> None:
    assert PlanQuery.decode(QUERY.encode()) == QUERY
    assert PlanQuery.decode(PlanQuery("net", {}).encode()) == PlanQuery("net", {})
    query = HeadQuery("id", HASH)
    assert HeadQuery.decode(query.encode()) == query


def test_answers_are_read_as_written_and_take_little_where_one_is_known() -> None:
    assert PlanAnswer.decode(ANSWER.encode(), ANSWER.hash) == ANSWER
    other = PlanAnswer({"cut": ["x", "y"]}, "id", HASH, 12, 7, STRUCTURE, HASH)
    packed = other.encode(ANSWER.text)
    assert len(packed) < len(other.encode()) / 2
    assert PlanAnswer.decode(packed, other.hash, ANSWER.text) == other


def test_altered_answers_are_noticed() -> None:
    packed = bytearray(ANSWER.encode())
    for place in range(len(packed)):
        packed[place] ^= 4
        with suppress(qpart.ArtifactError):
            assert PlanAnswer.decode(bytes(packed), ANSWER.hash) == ANSWER  # some bits of deflate mean nothing
        packed[place] ^= 4
    with pytest.raises(qpart.ArtifactError, match="hash"):
        PlanAnswer.decode(bytes(packed), HASH)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2}, {"model": ""}, {"model": 1}, {"model": "x" * 300}, {"request": []}, {"holds": "abc"},
        {"holds": HASH.upper()}, {"knows": 1}, {"more": 1},
    ],
)  # fmt: skip
def test_malformed_queries_are_refused(change: dict[str, Any]) -> None:
    record = {"version": 1, "model": "net", "request": {}, "holds": None, "knows": None}
    assert PlanQuery.decode(deflate(json.dumps(record).encode())).model == "net"
    with pytest.raises(qpart.ArtifactError):
        PlanQuery.decode(deflate(json.dumps({**record, **change}).encode()))


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"null", b"\xff", b"[" * 50_000, b" " * (MAX_QUERY_BYTES + 1)])
def test_other_texts_are_refused(text: bytes) -> None:
    with pytest.raises(qpart.ArtifactError):
        PlanQuery.decode(deflate(text))
    with pytest.raises(qpart.ArtifactError):
        PlanQuery.decode(text)
    with pytest.raises(qpart.ArtifactError):
        HeadQuery.decode(text)


def test_a_bomb_is_not_inflated() -> None:
    with pytest.raises(qpart.ArtifactError):
        PlanQuery.decode(deflate(b'{"version":1,' + b" " * (1 << 27)))


def test_outputs_are_built() -> None:
    structure = checked_outputs(STRUCTURE)
    assert build_outputs(structure, ["zero", "one"]) == {"a": "one", "b": ("zero", [None])}
    assert output_names(structure) == ["b.0", "a"]
    with pytest.raises(qpart.ArtifactError, match="3 values"):
        build_outputs(structure, [1, 2, 3])


@pytest.mark.parametrize(
    "structure",
    [
        None, [], {}, {"value": "0"}, {"value": 1}, {"value": True}, {"constant": []}, {"other": 1}, {"tuple": {}},
        {"dict": {"a": {"value": 0}}}, {"dict": [["a"]]}, {"dict": [[["a"], {"value": 0}]]},
        {"tuple": [{"value": 0}, {"value": 0}]}, {"value": 0, "constant": 1},
    ],
)  # fmt: skip
def test_malformed_structures_are_refused(structure: Any) -> None:
    with pytest.raises(qpart.ArtifactError):
        checked_outputs(structure)


def test_deep_structures_are_refused() -> None:
    structure: Any = {"value": 0}
    for _ in range(100):
        structure = {"list": [structure]}
    with pytest.raises(qpart.ArtifactError):
        checked_outputs(structure)
