"""Updates of heads in place: exactly the file they were made for, and never more than it."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import qpart_fx as qpart
from qpart_fx import ArtifactError, container
from qpart_fx.head_update import apply_update, make_update
from qpart_fx.quantizer import ChannelQuantizer, UniformQuantizer, WeightQuantizer
from qpart_fx.resolution import RESOLUTIONS, width_of
from qpart_fx.tensor_table import write_tensors

REQUEST = qpart.Request.paper(0.05)


@cache
def profile(rounding: str = "compensated") -> qpart.Profile:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 6),
    )  # fmt: skip
    return qpart.profile(model.eval(), [torch.randn(60, 3, 8, 8)], progress=False, rounding=rounding)


@cache
def split_at(bits: tuple[float, ...], cut: int = -1, rounding: str = "compensated") -> qpart.SplitModel:
    """A head with these resolutions, at one of the closed cuts."""
    made = profile(rounding)
    plan = made.plan(REQUEST, cut=made.closed_cuts[cut].crossing)
    layers = tuple(
        dataclasses.replace(
            layer,
            bits=width_of(each) if layer.bits else None,
            coded_bits=known.bits_by_resolution[each],
            resolution=float(each) if layer.bits else None,
        )
        for layer, known, each in zip(plan.layers, made.layers, bits, strict=True)
    )
    return made.compile(dataclasses.replace(plan, layers=layers))


def head_at(bits: tuple[float, ...], cut: int = -1, rounding: str = "compensated") -> bytes:
    return split_at(bits, cut, rounding).packed_head()


resolutions = st.tuples(*[st.sampled_from(RESOLUTIONS)] * 3)
cuts = st.integers(0, len(profile().closed_cuts) - 1)


@settings(max_examples=60, deadline=None)
@given(resolutions, resolutions, cuts, cuts)
def test_an_update_gives_the_new_file_and_is_never_larger(
    old: tuple[float, ...], new: tuple[float, ...], first: int, second: int
) -> None:
    held, expected = head_at(old, first), head_at(new, second)
    update = split_at(new, second).packed_update(held)
    assert apply_update(held, update) == expected
    assert len(update) <= len(expected)


@pytest.mark.parametrize("rounding", ["compensated", "nearest"])
@pytest.mark.parametrize("cut", range(1, len(profile().closed_cuts)))
def test_what_is_held_is_not_sent_again(cut: int, rounding: str) -> None:
    cut = min(cut, len(profile(rounding).closed_cuts) - 1)
    held, longer = head_at((5, 5, 5), cut, rounding), head_at((5, 5, 5), -1, rounding)
    for one, other in ((held, longer), (longer, held)):
        _, manifest, data = container.decode(other, "head")
        _, of_held, held_data = container.decode(one, "head")
        update = make_update(one, other)
        assert apply_update(one, update) == other
        more = max(len(data) - len(held_data), 0)
        assert len(update) < more + 700
        assert manifest["graph"] != of_held["graph"] or one == other


@pytest.mark.parametrize(("old", "new", "share"), [(3, 4, 0.7), (4, 3, 0.75), (6, 7, 0.45), (7, 6, 0.4), (8, 4, 0.4)])
def test_other_widths_cost_a_part_of_the_file(old: int, new: int, share: float) -> None:
    held, expected = head_at((old,) * 3), head_at((new,) * 3)
    assert len(make_update(held, expected)) < share * len(expected)


def test_the_same_head_for_another_plan_costs_next_to_nothing() -> None:
    split = split_at((4, 4, 4))
    assert split.plan is not None
    other = qpart.SplitModel(split.head, split.tail, split.plan.with_evidence(samples=7))
    update = other.packed_update(split.packed_head())
    assert apply_update(split.packed_head(), update) == other.packed_head() != split.packed_head()
    assert len(update) < 200


def packed(tensors: dict[str, Tensor], quantizers: dict[str, WeightQuantizer], graph: dict[str, Any]) -> bytes:
    rows, data = write_tensors(tensors, quantizers)
    return container.encode("head", {"graph": {"graph": graph, "tensors": rows}}, data)


def random_head(random: np.random.Generator) -> bytes:
    """A file with some of ten tensors, each of one of two shapes, coded, packed or plain."""
    tensors: dict[str, Tensor] = {}
    quantizers: dict[str, WeightQuantizer] = {}
    for name in random.permutation(10)[: random.integers(0, 11)].tolist():
        shape = (4, 30) if name < 5 or random.random() < 0.9 else (3, 2, 5)
        weight = torch.from_numpy(np.random.default_rng(name).normal(0, 1, shape).astype(np.float32))
        bits, kind = int(random.integers(2, 17)), random.random()
        if kind < 0.7:
            exponents = random.integers(-60, 20) - 8 * bits // 2 + random.integers(-2, 3, shape[0])
            if random.random() < 0.1:
                exponents = random.integers(-1000, 1000, shape[0])
            quantizers[f"w{name}"] = ChannelQuantizer(bits, torch.from_numpy(exponents.astype(np.int16)))
        elif kind < 0.85:
            quantizers[f"w{name}"] = UniformQuantizer.of_tensor(weight, bits)
        tensors[f"w{name}"] = quantizers[f"w{name}"](weight) if f"w{name}" in quantizers else weight
    if tensors and random.random() < 0.3:
        tensors["tied"] = next(iter(tensors.values()))
    return packed(tensors, quantizers, {"name": "x" * int(random.integers(0, 3))})


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 2**32))
def test_whatever_is_held_any_head_can_be_made_of_it(first: int, second: int) -> None:
    held, new = random_head(np.random.default_rng(first)), random_head(np.random.default_rng(second))
    update = make_update(held, new)
    assert apply_update(held, update) == new
    assert len(update) <= len(new)


def test_an_update_for_another_head_says_so() -> None:
    held, other, new = head_at((4, 4, 4)), head_at((5, 4, 4)), head_at((6, 4, 4))
    update = make_update(held, new)
    with pytest.raises(ArtifactError, match="for a device that holds another head: fetch the whole head"):
        apply_update(other, update)


def test_what_is_no_head_is_refused() -> None:
    held, new = head_at((4, 4, 4)), head_at((6, 4, 4))
    update = make_update(held, new)
    for one, other in ((held[:-1], new), (b"", new), (held, new + b"x"), (update, new), (held, update)):
        with pytest.raises(ArtifactError):
            make_update(one, other)
    for one, other in ((held[:-1], update), (update, update), (held, update[:-1]), (held, b"")):
        with pytest.raises(ArtifactError):
            apply_update(one, other)


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_any_changed_byte_is_noticed(share: float, change: int) -> None:
    held = head_at((4, 4, 4))
    update = bytearray(make_update(held, head_at((6, 4, 5))))
    update[int(share * len(update))] ^= change
    with pytest.raises(ArtifactError):
        apply_update(held, bytes(update))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_an_update_that_lies_under_a_good_hash_is_refused(data: st.DataObject) -> None:
    held = head_at((4, 4, 4))
    _, manifest, block = container.decode(make_update(held, head_at((6, 4, 5))), "update")
    sent, lies = bytearray(block), st.sampled_from([0, 1, -1, 2**40, 3.5, None, "x", [], [0, 0, 0], [1, 2], [0, 9, 9]])
    what = data.draw(st.integers(0, 3))
    if what == 0:
        sent[data.draw(st.integers(0, len(sent) - 1))] ^= data.draw(st.integers(1, 255))
    elif what == 1:
        manifest["manifest"] = data.draw(lies)
    elif what == 2:
        del sent[data.draw(st.integers(0, len(sent) - 1)) :]
    else:
        place = data.draw(st.integers(0, len(manifest["tensors"]) - 1))
        before = manifest["tensors"][place]
        manifest["tensors"][place] = data.draw(lies.filter(lambda lie: lie != before))
    if what == 3 and not len(block):
        return
    forged = container.encode("update", manifest, bytes(sent))
    try:
        made = apply_update(held, forged)
    except ArtifactError:
        return
    assert made == head_at((6, 4, 5))  # a tensor of no bytes may be sent in any way


def test_a_device_applies_it_without_torch(tmp_path: Path) -> None:
    held, new = head_at((4, 4, 4)), head_at((6, 3, 5))
    (tmp_path / "held").write_bytes(held)
    (tmp_path / "update").write_bytes(make_update(held, new))
    code = """
import sys
from pathlib import Path
from qpart_fx.head_update import apply_update
Path("new").write_bytes(apply_update(Path("held").read_bytes(), Path("update").read_bytes()))
assert "torch" not in sys.modules
"""
    root = str(Path(__file__).parents[1])
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "new").read_bytes() == new
