"""Heads read without torch, layer by layer as they arrive: the same numbers, and every damaged file refused."""

from __future__ import annotations

import subprocess
import sys
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import qpart_fx as qpart
from qpart_fx import ArtifactError, container
from qpart_fx.backends.packed import pack_head, unpack_side
from qpart_fx.graph_json import graph_to_record, tensors_of
from qpart_fx.head_file import Head, HeadReader, read_head
from qpart_fx.plan_summary import PlanSummary
from qpart_fx.stored_tensor import ChannelTensor
from tests.networks import Residual, Tokens, images

NAMES = ["residual", "tokens", "paper"]


@cache
def made(name: str) -> qpart.SplitModel:
    torch.manual_seed(0)
    model: nn.Module = Tokens() if name == "tokens" else Residual()
    x = torch.randint(11, (60, 7)) if name == "tokens" else images(60)
    rounding = "nearest" if name == "paper" else "compensated"
    profile = qpart.profile(model.eval(), [x], progress=False, rounding=rounding)
    return profile.compile(qpart.Request.paper(0.05), cut="output")


@pytest.mark.parametrize("name", NAMES)
def test_the_tensors_are_torch_s_to_the_last_bit(name: str) -> None:
    head, content = made(name).head, made(name).packed_head()
    found, tensors = read_head(content), tensors_of(head)
    assert found.graph == graph_to_record(head) == graph_to_record(unpack_side(content))
    assert list(found.tensors) == list(tensors)
    for key, tensor in tensors.items():
        values = found.tensors[key].values
        assert values.dtype == tensor.detach().numpy().dtype
        assert values.tobytes() == tensor.detach().contiguous().numpy().tobytes()
        assert values.shape == tensor.shape
    assert any(isinstance(tensor, ChannelTensor) for tensor in found.tensors.values()) == (name != "paper")


def test_tied_tensors_are_one() -> None:
    split = qpart.split(Tied(), (torch.randn(1, 4),), cut="output")
    tensors = read_head(split.packed_head()).tensors
    assert tensors["first.weight"] is tensors["second.weight"]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).relu())  # type: ignore[no-any-return]


def test_the_file_says_what_its_plan_is_and_what_proves_it() -> None:
    split = made("residual")
    plan, found = split.plan, read_head(split.packed_head()).plan
    assert plan is not None
    assert found == PlanSummary.of(plan)
    assert found.cut == plan.cut
    assert plan.weights_hash is not None
    assert plan.weights_hash.startswith(found.weights_hash or "missing")
    assert plan.drop_upper_bound is not None
    assert found.drop_upper_bound is not None
    assert plan.drop_upper_bound <= found.drop_upper_bound <= 1.001 * plan.drop_upper_bound
    assert found.samples == plan.samples
    assert len(split.packed_head()) - len(pack_head(split.head)) < 150


def test_a_head_without_a_plan_says_nothing_of_one() -> None:
    assert read_head(pack_head(made("residual").head)).plan is None


def test_another_plan_with_the_same_widths_is_told_apart() -> None:
    split = made("residual")
    assert split.plan is not None
    other = split.plan.with_evidence(labelled=True)
    found = read_head(pack_head(split.head, other)).plan
    assert found is not None
    assert found.plan_hash != PlanSummary.of(split.plan).plan_hash


def test_tensors_come_as_soon_as_their_bytes_are_there() -> None:
    content = made("residual").packed_head()
    reader, whole = HeadReader(), read_head(content)
    _, manifest, data = container.decode(content, "head")
    place = len(content) - container.HASH_SIZE - len(data)
    reader.feed(content[: place - 1])
    assert reader.graph is None
    first = next(iter(whole.tensors.values()))
    arrived = reader.feed(content[place - 1 : place])
    assert reader.graph == manifest["graph"]["graph"]
    assert reader.plan == whole.plan
    assert arrived == []
    seen: list[str] = []
    for at in range(place, len(content)):
        for tensor in reader.feed(content[at : at + 1]):
            seen.append(tensor.name)
            assert np.array_equal(tensor.values, whole.tensors[tensor.name].values)
            if tensor.name == first.name:
                assert at < len(content) - container.HASH_SIZE - 1
    assert seen == [tensor.name for tensor in whole.tensors.values()]
    assert reader.close().tensors.keys() == whole.tensors.keys()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2000), max_size=9))
def test_a_head_that_arrives_in_pieces_is_read_as_a_whole_one(sizes: list[int]) -> None:
    content = made("residual").packed_head()
    assert same_head(arriving(content, sizes), read_head(content))


def arriving(content: bytes, sizes: list[int]) -> Head:
    reader, place = HeadReader(), 0
    for size in [*sizes, len(content)]:
        reader.feed(content[place : place + size])
        place += size
    return reader.close()


def same_head(one: Head, other: Head) -> bool:
    return (one.graph, one.plan, list(one.tensors)) == (other.graph, other.plan, list(other.tensors)) and all(
        tensor.values.tobytes() == other.tensors[name].values.tobytes() for name, tensor in one.tensors.items()
    )


@settings(max_examples=300, deadline=None)
@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255), st.integers(1, 5000))
def test_any_changed_byte_is_noticed(share: float, change: int, size: int) -> None:
    content = bytearray(made("residual").packed_head())
    content[int(share * len(content))] ^= change
    with pytest.raises(ArtifactError):
        arriving(bytes(content), [size] * (len(content) // size))


def test_a_file_cut_short_anywhere_is_refused() -> None:
    content = made("residual").packed_head()
    for length in range(0, len(content), 7):
        with pytest.raises(ArtifactError, match="cut short"):
            read_head(content[:length])


@pytest.mark.parametrize(
    "manifest",
    [{}, {"graph": None}, {"graph": {}}, {"graph": {"graph": [], "tensors": []}},
     {"graph": {"graph": {}, "tensors": 3}},
     {"graph": {"graph": {}, "tensors": [{"name": "x", "same": "y"}]}},
     {"graph": {"graph": {}, "tensors": [{"name": "x", "dtype": "float32", "shape": [2**40]}]}},
     {"graph": {"graph": {}, "tensors": []}, "plan": None}],
)  # fmt: skip
def test_another_manifest_is_refused(manifest: dict[str, object]) -> None:
    with pytest.raises(ArtifactError):
        read_head(container.encode("head", manifest, b""))


def test_data_that_no_tensor_takes_are_refused() -> None:
    with pytest.raises(ArtifactError, match="holds 3 bytes more than its tensors take"):
        read_head(container.encode("head", {"graph": {"graph": {}, "tensors": []}}, b"abc"))


def test_it_needs_no_torch(tmp_path: Path) -> None:
    content = made("residual").packed_head()
    (tmp_path / "head").write_bytes(content)
    expected = {name: zlib.crc32(tensor.values.tobytes()) for name, tensor in read_head(content).tensors.items()}
    code = f"""
import sys, zlib
from pathlib import Path
from qpart_fx.head_file import read_head
head = read_head(Path({str(tmp_path / "head")!r}).read_bytes())
found = {{name: zlib.crc32(tensor.values.tobytes()) for name, tensor in head.tensors.items()}}
assert found == {expected!r}
strangers = {{"torch", "pydantic", "scipy"}} & set(sys.modules)
assert not strangers, strangers
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
