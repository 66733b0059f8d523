"""Files of heads with coded weights: equal to the last bit, as large as planned, and the same from run to run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpart_fx as qpart
from qpart_fx import container
from qpart_fx.backends.packed import pack_head, unpack_side
from qpart_fx.quantized import weight_quantizers
from qpart_fx.quantizer import ChannelQuantizer
from qpart_fx.rounding import CompensatedRounding, NearestRounding
from qpart_fx.rounding_file import read_rounding, write_rounding
from qpart_fx.tensor_table import read_tensors, write_tensors
from tests.networks import Residual, Tokens, images

REQUEST = qpart.Request.paper(0.05)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(5, 8, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.out(self.cell(x)[0][:, -1])
        return scores


class TiedLayers(nn.Module):
    """Two layers of one weight, on either side of a cut."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.out(torch.relu(self.second(torch.relu(self.first(x)))))
        return scores


def large_convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 6),
    )  # fmt: skip


def tokens() -> Tensor:
    return torch.randint(11, (60, 7), generator=torch.Generator().manual_seed(0))


def samples(*shape: int) -> Tensor:
    return torch.randn(60, *shape, generator=torch.Generator().manual_seed(0))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "dense": (lambda: nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 4)), lambda: samples(6)),
    "residual": (Residual, lambda: images(60)),
    "depthwise": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(), nn.Flatten(),
            nn.Linear(216, 4)),
        lambda: images(60)),
    "recurrent": (Recurrent, lambda: samples(6, 5)),
    "tokens": (Tokens, tokens),
    "tied": (TiedLayers, lambda: samples(6)),
    "large dense": (
        lambda: nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)),
        lambda: samples(64)),
    "large convolutions": (large_convolutions, lambda: images(60)),
}  # fmt: skip


def model_of(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    build, inputs = NETWORKS[name]
    return build().eval(), inputs()


@dataclass(frozen=True)
class Made:
    profile: qpart.Profile
    split: qpart.SplitModel
    x: Tensor


@cache
def made(name: str) -> Made:
    """The network profiled, and compiled to run on the device as a whole."""
    model, x = model_of(name)
    profile = qpart.profile(model, [x], progress=False)
    return Made(profile, profile.compile(REQUEST, cut="output"), x)


def identical(first: GraphModule, second: GraphModule) -> bool:
    states = [
        {**dict(each.named_parameters(remove_duplicate=False)), **dict(each.named_buffers())}
        for each in (first, second)
    ]
    return states[0].keys() == states[1].keys() and all(
        states[0][name].dtype == states[1][name].dtype and torch.equal(states[0][name], states[1][name])
        for name in states[0]
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_a_head_comes_back_to_the_last_bit(name: str) -> None:
    split, x = made(name).split, made(name).x
    again = unpack_side(split.packed_head())
    assert identical(again, split.head)
    quantizers = weight_quantizers(split.head)
    assert any(isinstance(quantizer, ChannelQuantizer) for quantizer in quantizers.values())
    assert weight_quantizers(again) == quantizers
    assert again(x)[0].equal(split.head(x)[0])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_head_at_every_cut_comes_back_to_the_last_bit(name: str) -> None:
    profile, x = made(name).profile, made(name).x
    for cut in profile.closed_cuts[:: max(len(profile.closed_cuts) // 5, 1)]:
        split = profile.compile(profile.plan(REQUEST, cut=cut.crossing))
        again = unpack_side(split.packed_head())
        assert identical(again, split.head)
        for value, expected in zip(again(x), split.head(x), strict=True):
            assert torch.equal(value, expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_split_comes_back_to_the_last_bit(name: str, tmp_path: Path) -> None:
    split, x = made(name).split, made(name).x
    split.save(tmp_path / "split")
    again = qpart.load(tmp_path / "split")
    assert isinstance(again, qpart.SplitModel)
    assert identical(again.head, split.head)
    assert identical(again.tail, split.tail)
    assert again.plan == split.plan
    assert again.packed_head() == split.packed_head()
    assert torch.equal(again(x), split(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_loaded_profile_compiles_to_the_same_bytes(name: str, tmp_path: Path) -> None:
    profile, split, x = made(name).profile, made(name).split, made(name).x
    profile.save(tmp_path / "profile")
    again = qpart.load(tmp_path / "profile")
    assert isinstance(again, qpart.Profile)
    assert again.head_bits == profile.head_bits
    assert isinstance(again.rounding, CompensatedRounding)
    assert isinstance(profile.rounding, CompensatedRounding)
    for ours, theirs in (
        (again.rounding.codes, profile.rounding.codes),
        (again.rounding.exponents, profile.rounding.exponents),
    ):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[weight], theirs[weight]) for weight in ours)
    assert split.plan is not None
    assert again.compile(split.plan).packed_head() == split.packed_head()
    assert torch.equal(again.compile(split.plan)(x), split(x))
    again.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "profile").read_bytes()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("drop", [0.002, 0.05])
def test_what_a_plan_says_of_the_download_is_the_size_of_the_file(name: str, drop: float) -> None:
    profile = made(name).profile
    parameters = sum(layer.parameters for layer in profile.layers)
    plan = profile.plan(qpart.Request.paper(drop), cut="output")
    size = len(profile.compile(plan).packed_head())
    allowed = 0.01 * size if parameters >= 30_000 else 2000
    assert abs(plan.download_bytes - size) <= allowed


@pytest.mark.parametrize("name", NETWORKS)
def test_what_a_plan_says_of_the_download_at_a_cut_inside_is_near_the_size_of_the_file(name: str) -> None:
    profile = made(name).profile
    for cut in profile.closed_cuts[:: max(len(profile.closed_cuts) // 5, 1)]:
        plan = profile.plan(REQUEST, cut=cut.crossing)
        head = profile.compile(plan).head
        size = len(pack_head(head))
        if weight_quantizers(head):
            assert abs(plan.download_bytes - size) <= max(0.01 * size, 2000)
        else:
            assert plan.download_bytes == 0


@pytest.mark.parametrize("name", ["residual", "recurrent", "tied"])
def test_profiling_twice_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    model, x = model_of(name)
    again = qpart.profile(model, [x], progress=False)
    assert again.compile(REQUEST, cut="output").packed_head() == made(name).split.packed_head()
    again.save(tmp_path / "again")
    made(name).profile.save(tmp_path / "first")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "first").read_bytes()


def test_packing_twice_gives_the_same_bytes() -> None:
    split = made("residual").split
    assert split.packed_head() == split.packed_head()


def test_coded_heads_are_smaller_than_those_of_the_paper_s_rounding() -> None:
    model, x = model_of("large convolutions")
    paper = qpart.profile(model, [x], progress=False, rounding="nearest")
    assert isinstance(paper.rounding, NearestRounding)
    assert len(made("large convolutions").split.packed_head()) < len(paper.compile(REQUEST, cut="output").packed_head())


def test_a_layer_at_more_bits_takes_more_bytes_until_its_codes_are_wide() -> None:
    for layer in made("large convolutions").profile.layers:
        assert all(np.diff([*layer.bits_by_resolution.values()]) > 0)


FLOATS = {
    "halves": torch.tensor([0.5, -3.0, 65504.0, 2.0**-24]), "floats": torch.tensor([0.1, 1.0]),
    "too large": torch.tensor([1e6]), "empty": torch.zeros(0), "none": torch.tensor(0.25),
    "infinite": torch.tensor([float("inf"), 1.0]), "negative zero": torch.tensor([-0.0]),
    "doubles": torch.tensor([0.5, 1.0], dtype=torch.float64), "whole": torch.tensor([1, 2]),
}  # fmt: skip


@pytest.mark.parametrize("name", FLOATS)
def test_floats_come_back_and_those_that_are_halves_take_two_bytes(name: str) -> None:
    tensor = FLOATS[name]
    rows, data = write_tensors({name: tensor}, {})
    again, _, used = read_tensors(rows, memoryview(data))
    assert used == len(data)
    assert again[name].dtype == tensor.dtype
    assert torch.equal(again[name], tensor)
    assert torch.equal(again[name].signbit(), tensor.signbit())
    halves = tensor.dtype == torch.float32 and torch.equal(tensor.half().float(), tensor)
    assert len(data) == tensor.numel() * (2 if halves else tensor.itemsize)


def test_a_float_that_is_not_a_number_comes_back() -> None:
    rows, data = write_tensors({"x": torch.tensor([float("nan"), 1.0])}, {})
    again, _, _ = read_tensors(rows, memoryview(data))
    assert again["x"].isnan().tolist() == [True, False]


CODES = torch.round(torch.randn(5, 40, generator=torch.Generator().manual_seed(0)) * 3).clamp(-7, 7)
QUANTIZER = ChannelQuantizer(4, torch.tensor([-30, -28, -40, 0, 5], dtype=torch.int16))


def test_a_coded_weight_comes_back_with_its_quantizer() -> None:
    weight = QUANTIZER.decode(CODES)
    rows, data = write_tensors({"w": weight}, {"w": QUANTIZER})
    again, quantizers, used = read_tensors(rows, memoryview(data))
    assert used == len(data) < weight.numel() * 4 / 8 + 60
    assert torch.equal(again["w"], weight)
    assert quantizers == {"w": QUANTIZER}


@pytest.mark.parametrize(
    "change",
    [
        *({"bits": bits} for bits in (3, 2, 0, 17, "4", None)),
        *({"shape": shape} for shape in ([5, 41], [4, 50], [40, 5], [], [200], [10**9, 10**9], [5, 2**40], [0, 40])),
        *({"steps": steps} for steps in (
            [0, 10**9], [2**40, 20], [0.5, 20], ["a", 20], [1], [], None, 3, [-1, -1], [2000, 20], [True, 20],
        )),
        *({"coded": coded} for coded in (0, -1, 10**9, 1.5, None, "a")),
    ],
    ids=str,
)  # fmt: skip
def test_a_table_that_lies_of_a_coded_weight_is_refused(change: dict[str, object]) -> None:
    split = made("dense").split
    _, manifest, data = container.decode(split.packed_head(), "head")
    row = next(row for row in manifest["graph"]["tensors"] if "coded" in row)
    row.update(change)
    with pytest.raises(qpart.ArtifactError):
        unpack_side(container.encode("head", {"graph": manifest["graph"]}, bytes(data)))


def test_a_rounding_comes_back() -> None:
    rounding = made("residual").profile.rounding
    assert isinstance(rounding, CompensatedRounding)
    rows, data = write_rounding(rounding)
    again = read_rounding(rows, memoryview(data))
    assert isinstance(again, CompensatedRounding)
    assert all(torch.equal(again.codes[name], codes) for name, codes in rounding.codes.items())
    assert all(torch.equal(again.exponents[name], each) for name, each in rounding.exponents.items())
    assert write_rounding(again) == (rows, data)


def test_the_paper_s_rounding_takes_no_bytes() -> None:
    assert write_rounding(NearestRounding()) == (None, b"")
    assert read_rounding(None, memoryview(b"")) == NearestRounding()


@pytest.mark.parametrize("cut_off", [1, 4, 50])
def test_a_rounding_cut_short_is_refused(cut_off: int) -> None:
    rows, data = write_rounding(made("dense").profile.rounding)
    with pytest.raises(qpart.ArtifactError):
        read_rounding(rows, memoryview(data[:-cut_off]))
    with pytest.raises(qpart.ArtifactError):
        read_rounding(rows, memoryview(data + bytes(cut_off)))
