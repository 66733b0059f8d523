"""Heads on a device's disk: whole or not there, within their bound, shared by processes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from qpart_fx import RequestError
from qpart_fx.device import HeadCache
from qpart_fx.device.head_cache import hash_of


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".qpart")


def test_what_is_stored_comes_back(tmp_path: Path) -> None:
    cache = HeadCache(tmp_path / "made" / "when needed")
    assert cache.get(hash_of(b"head")) is None
    digest = cache.put(b"head")
    assert digest == hash_of(b"head")
    assert cache.get(digest) == b"head"
    assert HeadCache(cache.directory).get(digest) == b"head"


@pytest.mark.parametrize("damage", [b"", b"hea", b"Head", b"head and more"])
def test_a_damaged_head_is_none_and_is_dropped(tmp_path: Path, damage: bytes) -> None:
    cache = HeadCache(tmp_path)
    digest = cache.put(b"head")
    (tmp_path / f"{digest}.qpart").write_bytes(damage)
    assert cache.get(digest) is None
    assert not files(tmp_path)
    cache.put(b"head")
    assert cache.get(digest) == b"head"


def test_the_head_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = HeadCache(tmp_path, max_bytes=35)
    digests = [cache.put(bytes([number]) * 10) for number in range(3)]
    for age, digest in enumerate(digests):
        os.utime(tmp_path / f"{digest}.qpart", (1000 + age, 1000 + age))
    assert cache.get(digests[0]) is not None  # it is used now
    digests.append(cache.put(b"3" * 10))
    assert [cache.get(digest) is not None for digest in digests] == [True, False, True, True]


def test_files_keep_within_the_bound(tmp_path: Path) -> None:
    cache = HeadCache(tmp_path, max_bytes=1000)
    for number in range(50):
        content = bytes([number]) * (7 * number % 400 + 1)
        assert cache.get(cache.put(content)) == content
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1000
    cache.put(b"x" * 1001)
    assert cache.get(hash_of(b"x" * 1001)) is None


def test_a_file_larger_than_all_others_may_be_is_not_read(tmp_path: Path) -> None:
    digest = HeadCache(tmp_path).put(b"x" * 100)
    assert HeadCache(tmp_path, max_bytes=99).get(digest) is None


def test_unfinished_files_are_not_seen_and_old_ones_go(tmp_path: Path) -> None:
    cache = HeadCache(tmp_path)
    old, new = tmp_path / ".old.part", tmp_path / ".new.part"
    old.write_bytes(b"left by a process that was killed")
    new.write_bytes(b"another process is writing this")
    os.utime(old, (1000, 1000))
    cache.put(b"head")
    assert not old.exists()
    assert new.exists()


def test_a_name_leads_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "secret.qpart").write_bytes(b"secret")
    cache = HeadCache(tmp_path / "heads")
    for digest in ("../secret", "", "A" * 64, "0" * 63, f"{'0' * 64}\n"):
        with pytest.raises(RequestError, match="is no SHA-256"):
            cache.get(digest)


def test_records_are_read_whole_or_not(tmp_path: Path) -> None:
    cache = HeadCache(tmp_path)
    assert cache.recall("../model") is None
    cache.remember("../model", b"plan")
    cache.remember("another", b"its plan")
    cache.remember("../model", b"newer plan")
    assert cache.recall("../model") == b"newer plan"
    assert cache.recall("another") == b"its plan"
    for path in tmp_path.glob("*.record"):
        path.write_bytes(path.read_bytes()[:-1])
    assert cache.recall("../model") is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_stores_nothing(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    cache = HeadCache(tmp_path)
    assert cache.get(cache.put(b"head")) is None


def test_a_file_in_the_place_of_the_folder_stores_nothing(tmp_path: Path) -> None:
    (tmp_path / "heads").write_bytes(b"no folder")
    cache = HeadCache(tmp_path / "heads")
    assert cache.get(cache.put(b"head")) is None


def test_a_bound_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="max_bytes = 0"):
        HeadCache(tmp_path, max_bytes=0)


def test_processes_share_a_folder(tmp_path: Path) -> None:
    """Several write, read and evict at once: none fails, none ever reads what is wrong, and the bound is kept."""
    work = """
        import random, sys
        from qpart_fx.device.head_cache import HeadCache, hash_of
        cache, draw = HeadCache(sys.argv[1], max_bytes=20_000), random.Random(int(sys.argv[2]))
        found = 0
        for _ in range(150):
            content = bytes([draw.randrange(12)]) * 3000
            cache.put(content)
            read = cache.get(hash_of(bytes([draw.randrange(12)]) * 3000))
            found += read is not None
            assert read is None or len(set(read)) == 1 and len(read) == 3000
        assert found
    """
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(work), str(tmp_path), str(seed)], stderr=subprocess.PIPE
        )
        for seed in range(3)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=60)
        assert worker.returncode == 0, errors.decode()
        assert b"damaged" not in errors
    HeadCache(tmp_path, max_bytes=20_000).put(b"last")
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 20_000


def test_a_process_that_was_stopped_with_the_lock_stops_no_other(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    cache = HeadCache(tmp_path)
    cache.put(b"first")
    with open(tmp_path / ".lock", "ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert cache.get(cache.put(b"second")) == b"second"
