"""Damaged and lying files: every one must be refused, or load, in little time; none may crash.

    python -m benchmarks.bytes.fuzz [--files 100000] [--seed 0]

Heads, updates of heads, splits, profiles and activations of a few small networks are changed in one to three places:
bits flipped, bytes cut, inserted, swapped. So are what lies behind their hash (the data, the text of the manifest,
single numbers of it), with a hash that agrees. Damage that the hash covers must be refused or make no difference; a
file that lies under a good hash may also load as another one. The exit status is 1 if any file broke these rules.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

import qpart_fx as qpart
from qpart_fx import container
from qpart_fx.backends.packed import pack_head, pack_split, unpack_side, unpack_split
from qpart_fx.checksum import checksum
from qpart_fx.head_file import read_head
from qpart_fx.head_update import apply_update, make_update
from qpart_fx.profile_file import unpack_profile

_SLOW = 5.0
"""Seconds that no file may take."""

_MEMORY = 4 << 30
"""Bytes that all of it may take, beside what was taken before."""

_SHOWN = 10
"""Crashes whose traceback is printed."""

REFUSED, EQUAL, OTHERWISE, WRONG, CRASHED, SLOW = (
    "refused", "loaded equal", "loaded otherwise", "loaded otherwise, not re-hashed", "crashed", "took > 5 s"
)  # fmt: skip
OUTCOMES = (REFUSED, EQUAL, OTHERWISE, WRONG, CRASHED, SLOW)
_FAULTS = (WRONG, CRASHED, SLOW)


@dataclass(frozen=True)
class Subject:
    """A good file: ``read`` it, and ``write`` what was read again, to see whether it is the same."""

    kind: str
    content: bytes
    read: Callable[[bytes], Any]
    write: Callable[[Any], bytes]


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(5, 8, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.cell(x)[0][:, -1])  # type: ignore[no-any-return]


def _networks() -> list[tuple[nn.Module, Tensor]]:
    convolutions = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    dense = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 4))
    shapes = (6,), (3, 8, 8), (6, 5)
    return [
        (net, torch.randn(64, *shape)) for net, shape in zip((dense, convolutions, _Recurrent()), shapes, strict=True)
    ]


def subjects() -> list[Subject]:
    """The good files of all networks, with compensated rounding; of the first, with the paper's as well."""
    torch.manual_seed(0)
    request = qpart.Request.paper(0.05)
    found: list[Subject] = []
    for number, (model, inputs) in enumerate(_networks()):
        for rounding in ("compensated", "nearest")[: 2 if number == 0 else 1]:
            profile = qpart.profile(model.eval(), [inputs], progress=False, rounding=rounding)
            split = profile.compile(request, cut="output")
            middle = profile.closed_cuts[len(profile.closed_cuts) // 2].crossing
            found += _files(profile, profile.compile(request, cut=middle), split, inputs)
    return found


def _files(profile: qpart.Profile, middle: qpart.SplitModel, whole: qpart.SplitModel, inputs: Tensor) -> list[Subject]:
    def read_split(content: bytes) -> Any:
        _, manifest, data = container.decode(content, "split")
        return unpack_split(manifest, data)

    def without_torch(content: bytes) -> bytes:
        for tensor in read_head(content).tensors.values():
            _ = tensor.values
        return content

    def coded(payload: tuple[Any, ...]) -> bytes:
        return middle.pack_activation(payload, uplink_bps=1.0)

    def read_profile(content: bytes) -> qpart.Profile:
        _, manifest, data = container.decode(content, "profile")
        return unpack_profile(manifest, data)

    payload, held, whole_head = middle.head(inputs[:2]), middle.packed_head(), pack_head(whole.head)
    return [
        Subject("head", whole_head, unpack_side, pack_head),
        Subject("head", whole.packed_head(), without_torch, bytes),
        Subject("update", make_update(held, whole_head), partial(apply_update, held), partial(make_update, held)),
        Subject("split", pack_split(middle.head, middle.tail, middle.plan), read_split, lambda each: pack_split(*each)),
        Subject("profile", _saved(profile), read_profile, _saved),
        Subject("activation", middle.pack_activation(payload), middle.unpack_activation, middle.pack_activation),
        Subject("activation", coded(payload), middle.unpack_activation, coded),
    ]


def _saved(profile: qpart.Profile) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "profile"
        profile.save(path)
        return path.read_bytes()


def damaged(content: bytes, random: Random, *, same_length: bool = False) -> bytes:
    """``content`` with bits flipped, bytes cut, inserted, swapped, in one to three places."""
    data = bytearray(content)
    for _ in range(random.randint(1, 3)):
        place, length = random.randrange(len(data) + 1), random.randint(1, 16)
        match random.choice((0, 3, 4) if same_length else (0, 1, 2, 3, 4)):
            case 0 if place < len(data):
                data[place] ^= 1 << random.randrange(8)
            case 1:
                del data[place : len(data) if random.random() < 0.5 else place + length]
            case 2:
                data[place:place] = random.randbytes(length)
            case 3 if place < len(data):
                other = random.randrange(len(data))
                data[place : place + length], data[other : other + length] = (
                    data[other : other + length], data[place : place + length]
                )  # fmt: skip
            case 4:  # a size or a count that lies
                data[place : place + 4] = struct.pack("<I", random.choice((0, 1, 2**16, 2**20, 2**31, 2**32 - 1)))
    return bytes(data)


def lying(subject: Subject, random: Random) -> bytes:
    """The file with other contents under a hash that agrees with them."""
    if subject.kind == "activation":
        content = damaged(subject.content[:-4], random)
        return content + struct.pack("<I", checksum(content))
    _, manifest, block = container.decode(subject.content, "head", "update", "split", "profile")
    packed, data = container.deflate(container.text_of(manifest)), bytes(block)
    way = random.randrange(9)
    if way < 3:
        data = damaged(data, random, same_length=way > 0)
    elif way == 3:
        packed = damaged(packed, random)
    elif way == 4:
        packed = container.deflate(damaged(container.text_of(manifest), random))
    elif way < 8:
        for _ in range(random.randint(1, 2)):
            _lie(manifest, random)
        packed = container.deflate(json.dumps(manifest).encode())
        if way == 7:
            data = damaged(data, random)
    header = subject.content[:6] + struct.pack("<IQ", len(packed), len(data))
    content = (damaged(header, random) if way == 8 else header) + packed + data
    return content + hashlib.sha256(content).digest()


def _lie(manifest: dict[str, Any], random: Random) -> None:
    """Change one thing of a manifest, most often in a table of tensors or codes."""
    if not manifest:  # all of it was deleted before
        return
    sides = [side for name in ("graph", "head", "tail") if isinstance(side := manifest.get(name), dict)]
    tables = [*(side.get("tensors") for side in sides), manifest.get("rounding")]
    tables = [table for table in tables if isinstance(table, list) and table]
    value: Any = random.choice(tables) if tables and random.random() < 0.7 else manifest
    while True:
        key = random.choice(list(value) if isinstance(value, dict) else range(len(value)))
        if not isinstance(value[key], dict | list) or not value[key] or random.random() < 0.05:
            break
        value = value[key]
    if random.random() < 0.1:
        del value[key]
        return
    old = value[key]
    lies: list[Any] = [0, -1, 1, 7, 2**16, 2**20, 2**31, 2**40, 2**63, 10**30, 0.5, -1e308, 1e-300]
    lies += ["x", None, [], {}, True]
    if type(old) is int:
        lies += [old + 1, old - 1, 2 * old, -old, old // 2, old << 16] * 2
    if isinstance(old, str):
        lies += ["float16", "float64", "int32", "bool", old + "x", old[::-1], ""]
    value[key] = random.choice(lies)


def outcome(subject: Subject, content: bytes, *, rehashed: bool) -> str:
    """What becomes of a file. A crash is printed by the caller: it is the exception that is being handled."""
    try:
        found = subject.read(content)
    except qpart.ArtifactError:
        return REFUSED
    try:
        equal = subject.write(found) == subject.content
    except Exception:  # what was loaded otherwise need not be what can be written
        equal = False
    if equal:
        return EQUAL
    return OTHERWISE if rehashed else WRONG


def fuzz(files: int, seed: int) -> tuple[Counter[tuple[str, str]], float]:
    """Counts by what was changed and what became of it, and the longest time that one file took."""
    known, counts, longest, shown = subjects(), Counter[tuple[str, str]](), 0.0, 0
    for subject in known:
        assert subject.write(subject.read(subject.content)) == subject.content
    _limit_memory()
    for number in range(files):
        random = Random(f"{seed} {number}")
        subject = known[number % len(known)]
        rehashed = random.random() < 0.75
        content = lying(subject, random) if rehashed else damaged(subject.content, random)
        start, trace = time.perf_counter(), ""
        try:
            what = outcome(subject, content, rehashed=rehashed)
        except KeyboardInterrupt:
            raise
        except BaseException:  # a panic of the coder's is no Exception
            what, trace = CRASHED, traceback.format_exc()
        seconds = time.perf_counter() - start
        longest = max(longest, seconds)
        if what != CRASHED and seconds > _SLOW:
            what = SLOW
        if what in _FAULTS and shown < _SHOWN:
            shown += 1
            print(f"\nfile {number} of seed {seed}, a {subject.kind}: {what}, {seconds:.1f} s", file=sys.stderr)
            print(trace, file=sys.stderr)
        counts[f"{subject.kind}, {'re-hashed' if rehashed else 'damaged'}", what] += 1
    return counts, longest


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _MEMORY, hard))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    counts, longest = fuzz(options.files, options.seed)
    seconds = time.perf_counter() - start
    print(f"{'':24}" + "".join(name.rjust(len(name) + 3) for name in OUTCOMES))
    for kind in (*sorted({kind for kind, _ in counts}), "all"):
        found = {
            name: sum(n for (of, what), n in counts.items() if kind in (of, "all") and what == name)
            for name in OUTCOMES
        }
        print(f"{kind:24}" + "".join(f"{n:,}".rjust(len(name) + 3) for name, n in found.items()))
    rate = options.files / seconds
    print(f"{options.files:,} files in {seconds:.0f} s, {rate:,.0f} a second; the longest took {longest:.2f} s")
    sys.exit(any(counts[key] for key in counts if key[1] in _FAULTS))


if __name__ == "__main__":
    main()
