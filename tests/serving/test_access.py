"""The file of tokens, and how often one may call."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import qpart_fx as qpart
from qpart_fx.serving import access
from qpart_fx.serving.access import Access
from qpart_fx.serving.refusal import Refused

DIGEST = "0" * 64
GOOD: dict[str, Any] = {"name": "one", "token_sha256": DIGEST, "models": ["net"]}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{**GOOD, "more": 1}], "fields"),
        ([{"name": "one", "models": "*"}], "fields"),
        (["one"], "fields"),
        ([{**GOOD, "name": ""}], "name"),
        ([{**GOOD, "name": 1}], "name"),
        ([{**GOOD, "token_sha256": "secret"}], "token_sha256"),
        ([{**GOOD, "token_sha256": DIGEST.upper() + "A"}], "token_sha256"),
        ([{**GOOD, "models": "net"}], "models"),
        ([{**GOOD, "models": [1]}], "models"),
        ([{**GOOD, "calls_per_s": 0}], "calls_per_s"),
        ([{**GOOD, "calls_per_s": True}], "calls_per_s"),
        ([GOOD, {**GOOD, "name": "two"}], r"clients\[1\]"),
        ([GOOD, {**GOOD, "token_sha256": "1" * 64}], r"clients\[1\]"),
    ],
)
def test_mistakes_in_the_file_are_named(rows: list[Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps({"clients": rows}))
    with pytest.raises(qpart.RequestError, match=words):
        Access(path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"clients": 1}', '{"clients": [], "more": 1}', "[" * 100_000])
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(text)
    with pytest.raises(qpart.RequestError, match="--tokens"):
        Access(path)


def test_a_bucket_fills_at_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(access, "time", SimpleNamespace(monotonic=lambda: now))
    gate = Access(calls_per_s=4)

    def taken(peer: str = "a") -> int:
        for count in range(10):
            try:
                gate.admit({}, peer)
            except Refused as why:
                return count if 0 < (why.retry_after_s or 0) <= 0.25 else -1
        return 10

    assert taken() == 4
    assert taken("b") == 4  # its own
    now += 0.5
    assert taken() == 2
    now += 1000
    assert taken() == 4


def test_there_are_no_more_buckets_than_there_is_room_for() -> None:
    gate = Access(calls_per_s=1)
    for place in range(access._MOST_BUCKETS + 100):
        gate.admit({}, f"peer {place}")
    assert len(gate._buckets) == access._MOST_BUCKETS
