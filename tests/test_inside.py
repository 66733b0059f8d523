"""Heads for integer kernels: what is rounded inside, what that costs, and that the device computes just that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import qpart_fx as qpart
from qpart_fx import container
from qpart_fx.compiler import analyse
from qpart_fx.device import HeadRuntime
from qpart_fx.head_file import ONNX_GRAPH, read_head
from qpart_fx.inside import values_inside
from qpart_fx.lower import lower
from qpart_fx.passes.capture import capture
from qpart_fx.quantized import weight_quantizers
from qpart_fx.quantizer import FakeQuantize
from qpart_fx.stored_tensor import PlainTensor

from .networks import Residual, classifier, images

FLOATS = qpart.Request.paper(0.05)
INTEGERS = replace(FLOATS, device=replace(FLOATS.device, activation_bits_inside=8))


def inside_of(model: nn.Module, x: Tensor) -> dict[str, str]:
    graph = capture(model.eval(), (x,))
    analyse(graph, (x,), {})
    return {name: value.grid for name, value in values_inside(graph).items()}


def test_what_goes_into_products_and_comes_out_behind_rectifiers_is_rounded() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 1), *list(classifier().children())[1:])
    assert inside_of(model, torch.randn(2, 4, 8, 8)) == {
        "input_1": "input_1", "_1": "_1", "_2": "_2", "_4": "_4", "_5": "_4",
    }  # fmt: skip


def test_a_convolution_of_few_channels_takes_floats() -> None:
    assert inside_of(classifier(), images(2)).keys() == {"_1", "_2", "_4", "_5"}


def test_sums_of_rounded_values_are_rounded_behind_their_rectifier() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU6(), _Sum(), nn.Conv2d(4, 4, 1))
    rounded = inside_of(model, torch.randn(2, 4, 8, 8))
    assert rounded.keys() == {"input_1", "_1", "_2_left", "relu"}


class _Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.left(x) + x)


def test_what_no_integer_kernel_takes_stays_in_float() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.LayerNorm(4), nn.Linear(4, 3))
    assert inside_of(model, torch.randn(2, 4)).keys() == {"input_1", "_0", "_2"}


@pytest.fixture(scope="module")
def profile() -> qpart.Profile:
    torch.manual_seed(0)
    return qpart.profile(Residual().eval(), [images(64), images(64, seed=1)], progress=False, largest_width=8)


def test_noise_inside_is_as_predicted(profile: qpart.Profile) -> None:
    plan = profile.plan(INTEGERS, cut="output")
    floats = replace(plan, layers=tuple(replace(layer, bits=8, resolution=16.0) for layer in plan.layers))
    x = images(256, seed=2)
    with torch.no_grad():
        noise = {
            inside: float(
                (profile.graph(x) - lower(profile.graph, each, profile.ranges, profile.inside, profile.rounding)(x))
                .square().sum(dim=1).mean()
            )
            for inside in (None, 8)
            for each in [replace(floats, activation_bits_inside=inside, activation_bits={})]
        }  # fmt: skip
    predicted = sum(layer.noise_inside or 0.0 for layer in profile.layers)
    assert noise[8] - (noise[None] or 0.0) == pytest.approx(predicted, rel=0.5)


def test_the_budget_pays_for_it(profile: qpart.Profile) -> None:
    plans = [profile.plan(request, cut="output") for request in (FLOATS, INTEGERS)]
    assert [plan.activation_bits_inside for plan in plans] == [None, 8]
    assert plans[1].download_bytes >= plans[0].download_bytes
    assert all((plan.predicted_drop or 0) <= 0.05 for plan in plans)
    assert list(profile.plan_many([FLOATS, INTEGERS])) == [profile.plan(FLOATS), profile.plan(INTEGERS)]


def test_the_device_multiplies_the_codes(profile: qpart.Profile) -> None:
    split = profile.compile(INTEGERS, cut="output")
    assert any(isinstance(module, FakeQuantize) for name, module in split.head.named_modules() if "round_" in name)
    content = split.packed_head("onnx")
    assert set(read_head(content).graph["integers"]) == set(weight_quantizers(split.head)) - {"conv1.weight"}
    x = images(50, seed=3)
    with torch.no_grad():
        (expected,) = split.head(x)
    (found,) = HeadRuntime(content)(x.numpy())
    step = np.diff(np.unique(expected.numpy())).min()
    off = np.abs(found - expected.numpy())
    assert (off > 0.5 * step).mean() < 0.05  # a float that lies between two codes may fall to either side
    assert off.max() < 4 * step
    agree = (split.tail(torch.from_numpy(found)).argmax(1) == split.tail(expected).argmax(1)).float().mean()
    assert agree >= 0.98


def test_the_largest_codes_are_multiplied_exactly(profile: qpart.Profile) -> None:
    """Kernels of some processors clip sums of products of 8 bits: onnxruntime is told to take others then."""
    plan = profile.plan(INTEGERS, cut="output")
    finest = replace(plan, layers=tuple(replace(layer, bits=8, resolution=16.0) for layer in plan.layers))
    split = profile.compile(finest)
    quantizers = weight_quantizers(split.head)
    assert all(int(each.encode(split.head.get_parameter(name)).abs().max()) > 63 for name, each in quantizers.items())
    x = images(50, seed=3)
    with torch.no_grad():
        (expected,) = split.head(x)
    (found,) = HeadRuntime(split.packed_head("onnx"))(x.numpy())
    step = np.diff(np.unique(expected.numpy())).min()
    assert np.abs(found - expected.numpy()).max() < 4 * step


class _Separable(nn.Module):
    """As MobileNets from elsewhere are: zeros at one side by a node of their own, and 24 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))
        self.stem, self.deep = nn.Conv2d(3, 24, 3, stride=2), nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.point, self.down = nn.Conv2d(24, 20, 1), nn.Conv2d(20, 20, 3, stride=2, groups=20)
        self.last, self.out = nn.Conv2d(20, 32, 1), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.deep(nn.functional.relu6(self.stem(self.pad(x)))))
        x = torch.relu(self.down(self.pad(torch.relu(self.point(x)))))
        scores: Tensor = self.out(torch.relu(self.last(x)).mean((2, 3)))
        return scores


@pytest.fixture(scope="module")
def separable() -> qpart.SplitModel:
    torch.manual_seed(0)
    request = replace(INTEGERS, device=replace(INTEGERS.device, activation_bits=(10,)), max_accuracy_drop=0.5)
    profile = qpart.profile(_Separable().eval(), [images(64)], progress=False, largest_width=8, levels=(0.5,))
    return profile.compile(profile.plan(request, cut="output"))


def test_pads_and_odd_channels_do_not_stand_in_the_way_of_integers(separable: qpart.SplitModel) -> None:
    content = separable.packed_head("onnx")
    head = read_head(content)
    graph = onnx.load_from_string(container.inflate(cast(PlainTensor, head.tensors[ONNX_GRAPH]).data))
    kinds = [node.op_type for node in graph.graph.node]
    assert "Pad" not in kinds
    assert kinds.count("DequantizeLinear") == kinds.count("QuantizeLinear") + len(head.graph["integers"])
    assert set(head.graph["integers"]) == set(weight_quantizers(separable.head)) - {"stem.weight"}
    filled = head.graph["filled"]
    assert filled["stem.weight"] == [32, 3, 3, 3]
    assert filled["deep.weight.codes"] == [32, 1, 3, 3]
    assert filled["down.weight.scale"] == [32]
    assert filled["last.weight.codes"] == [32, 32, 1, 1]
    x = images(50, seed=3)
    with torch.no_grad():
        (expected,) = separable.head(x)
    (found,) = HeadRuntime(content)(x.numpy())
    step = np.diff(np.unique(expected.numpy())).min()
    off = np.abs(found - expected.numpy())
    assert (
        np.quantile(off, 0.9) < 4 * step
    )  # of 10 bits: a value inside that falls to another of 8 bits is some of them
    assert off.max() < 32 * step


@pytest.mark.parametrize(
    "shape", [[24, 3, 3, 3], [32, 3, 3], [4096, 3, 3, 3], [16, 3, 3, 3], "x", None, [32, 3, 3, -1]]
)
def test_shapes_to_fill_up_that_are_forged(separable: qpart.SplitModel, shape: object) -> None:
    kind, manifest, data = container.decode(separable.packed_head("onnx"), "head")
    manifest["graph"]["graph"]["filled"]["stem.weight"] = shape
    with pytest.raises(qpart.ArtifactError):
        HeadRuntime(container.encode(kind, manifest, bytes(data)))


def test_a_profile_from_a_file_plans_and_lowers_alike(profile: qpart.Profile, tmp_path: Path) -> None:
    profile.save(tmp_path / "profile.qpart")
    again = qpart.load(tmp_path / "profile.qpart")
    assert isinstance(again, qpart.Profile)
    assert again.plan(INTEGERS) == profile.plan(INTEGERS)
    heads = [each.compile(INTEGERS, cut="output").packed_head("onnx") for each in (again, profile)]
    assert [read_head(head).graph for head in heads[:1]] == [read_head(head).graph for head in heads[1:]]


def test_no_code_is_wider_than_the_largest_width(profile: qpart.Profile) -> None:
    for layer in profile.layers:
        for name in layer.channel_sensitivity:
            weight = profile.graph.get_parameter(name)
            for resolution in profile.rounding.resolutions:
                quantizer = profile.rounding.quantizer(name, weight, resolution)
                codes = quantizer.encode(profile.rounding.rounded(name, weight, resolution))
                assert quantizer.bits <= 8
                assert int(codes.abs().max()) <= 127


def test_finer_resolutions_still_fall_in_noise_where_widths_cannot_rise(profile: qpart.Profile) -> None:
    for layer in profile.layers:
        assert layer.noise_by_resolution[12.0] <= layer.noise_by_resolution[8.0] * (1 + 1e-9)
    assert set(profile.plan(INTEGERS, cut="output").weight_bits.values()) <= set(range(2, 9))


def test_bad_requests() -> None:
    with pytest.raises(qpart.RequestError, match="activation_bits_inside"):
        qpart.Device(1e9, 1, activation_bits_inside=7)  # type: ignore[arg-type]  # what no type checker sees
    with pytest.raises(qpart.RequestError, match="8 bits at most"):
        qpart.Device(1e9, 1, weight_bits=(12, 16), activation_bits_inside=8)
    with pytest.raises(qpart.RequestError, match="carries none of activation_bits_inside"):
        qpart.Device(1e9, 1, activation_bits_inside=8, runtime="openvino")
    assert qpart.Device(1e9, 1, activation_bits_inside=8, runtime="onnx").storable_bits == tuple(range(2, 9))
    with pytest.raises(qpart.RequestError, match="largest_width = 17"):
        qpart.profile(classifier(), [images(8)], largest_width=17)
    with pytest.raises(qpart.RequestError, match="nearest"):
        qpart.profile(classifier(), [images(8)], largest_width=8, rounding="nearest")


def test_the_papers_method_refuses(profile: qpart.Profile) -> None:
    with pytest.raises(qpart.RequestError, match="activation_bits_inside"):
        profile.plan(INTEGERS, method="paper")
