"""The closed table of what a graph in a file may call."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from qpart_fx import ArtifactError
from qpart_fx.operations import (
    check_attribute,
    check_method,
    function_name,
    function_named,
    module_from_record,
    module_to_record,
)
from qpart_fx.quantizer import FakeQuantize, UniformQuantizer

MODULES = [
    nn.Linear(3, 4), nn.Linear(3, 4, bias=False), nn.Bilinear(2, 3, 4), nn.Embedding(5, 3, padding_idx=1),
    nn.EmbeddingBag(5, 3, mode="sum"), nn.Conv1d(2, 4, 3, stride=2), nn.Conv2d(4, 4, (3, 1), padding=(1, 0), groups=4),
    nn.Conv2d(2, 2, 3, padding="same", padding_mode="reflect", bias=False), nn.Conv3d(1, 1, 1),
    nn.ConvTranspose2d(2, 3, 3, stride=2, output_padding=1, dilation=2), nn.BatchNorm2d(3),
    nn.BatchNorm1d(3, eps=1e-3, momentum=None, affine=False), nn.BatchNorm2d(3, track_running_stats=False),
    nn.LayerNorm((2, 3)), nn.LayerNorm(3, elementwise_affine=False), nn.LayerNorm(3, bias=False), nn.GroupNorm(2, 4),
    nn.InstanceNorm2d(3, affine=True, track_running_stats=True), nn.RMSNorm(4), nn.LSTM(3, 4),
    nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True, proj_size=2), nn.GRU(3, 4, bias=False),
    nn.RNN(3, 4, nonlinearity="relu"), nn.LSTMCell(3, 4), nn.MultiheadAttention(4, 2),
    nn.MultiheadAttention(4, 2, kdim=3, vdim=5, bias=False, add_bias_kv=True, batch_first=True), nn.ReLU(),
    nn.ReLU6(True), nn.LeakyReLU(0.2), nn.PReLU(3), nn.GELU(approximate="tanh"), nn.Softmax(dim=1), nn.Hardtanh(-2, 3),
    nn.Softplus(2, 9), nn.Threshold(0.1, 20), nn.Dropout(0.3),
    nn.MaxPool2d(2, stride=1, padding=1, ceil_mode=True), nn.AvgPool2d((2, 3)),
    nn.AdaptiveAvgPool2d((1, None)), nn.AdaptiveMaxPool1d(3), nn.LPPool2d(2, 3), nn.Flatten(0, 2),
    nn.Unflatten(1, (2, 2)),
    nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=True), nn.Upsample(size=(4, 4)), nn.PixelShuffle(2),
    nn.ZeroPad2d(1), nn.ConstantPad1d((1, 2), 3.5), nn.ReflectionPad2d((1, 0, 2, 1)), nn.Fold((4, 4), 2), nn.Unfold(2),
    nn.LocalResponseNorm(2), nn.CosineSimilarity(dim=0), nn.Identity(), nn.Sigmoid(), nn.ChannelShuffle(2),
]  # fmt: skip


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_s_record_makes_its_like(module: nn.Module) -> None:
    again = module_from_record("layer", module_to_record("layer", module.eval()))
    assert type(again) is type(module)
    assert repr(again) == repr(module)
    assert not again.training
    assert {name: value.shape for name, value in again.state_dict().items()} == {
        name: value.shape for name, value in module.state_dict().items()
    }


def test_the_payload_s_quantizer_has_a_record() -> None:
    module = FakeQuantize(UniformQuantizer.from_range(0.0, 1.0, 5)).eval()
    again = module_from_record("quantize", module_to_record("quantize", module))
    assert isinstance(again, FakeQuantize)
    assert again.bits == 5


def test_a_module_of_the_user_s_has_none() -> None:
    class Mine(nn.Linear):
        pass

    with pytest.raises(ArtifactError, match=r"'block\.mine' is a Mine; a file holds modules of torch\.nn only"):
        module_to_record("block.mine", Mine(2, 2))


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_module_with_hooks_has_none(register: str) -> None:
    module = nn.Linear(2, 2).eval()
    getattr(module, register)(lambda *_: None)
    with pytest.raises(ArtifactError, match=r"'layer' has forward hooks.*remove them"):
        module_to_record("layer", module)


def test_a_module_that_was_changed_has_none() -> None:
    module = nn.BatchNorm2d(3).eval()
    module.weight = None  # type: ignore[assignment]
    with pytest.raises(ArtifactError, match="'norm'"):
        module_to_record("norm", module)


@pytest.mark.parametrize(
    "record",
    [
        None, [], "torch.nn.Linear", {}, {"type": "torch.nn.Linear"}, {"type": "torch.nn.Linear", "arguments": [3, 4]},
        *({"type": kind, "arguments": {}} for kind in (
            None, 3, ["torch.nn.Linear"], "torch.nn.Module", "torch.nn.Parameter", "torch.nn.init.normal_",
            "torch.load",
            "torch.nn.modules.linear.Linear", "torch.utils.data.DataLoader", "os.system", "builtins.eval", "Linear",
        )),
        {"type": "torch.nn.Linear", "arguments": {}},
        {"type": "torch.nn.Linear", "arguments": {"in_features": -1, "out_features": 2}},
        {"type": "torch.nn.Linear", "arguments": {"in_features": 10**30, "out_features": 2}},
        {"type": "torch.nn.Linear", "arguments": {"in_features": 2, "out_features": 2, "colour": 1}},
        *({"type": "qpart_fx.FakeQuantize", "arguments": each} for each in (
            {}, {"bits": "x"}, {"bits": 0}, {"bits": 17}, {"bits": 10**9}, {"bits": 2.5}, {"bits": True}, {"width": 3},
        )),
    ],
)  # fmt: skip
def test_a_bad_record_is_refused_by_the_module_s_name(record: Any) -> None:
    with pytest.raises(ArtifactError, match=r"module 'block\.0'"):
        module_from_record("block.0", record)


@pytest.mark.parametrize(
    "function",
    [
        torch.relu, torch.cat, torch.flatten, torch.einsum, torch.matmul, torch.add, torch.zeros, torch.arange, F.relu,
        F.conv2d, F.linear, F.scaled_dot_product_attention, F.interpolate, F.max_pool2d, F.adaptive_avg_pool2d, F.pad,
        F.layer_norm, F.gelu, F.softmax, torch.linalg.norm, torch.fft.rfft, torch.special.expit, operator.add,
        operator.getitem, operator.iadd, operator.matmul, getattr, torch.split, torch.unbind, torch.where, torch.chunk,
    ],
    ids=str,
)  # fmt: skip
def test_what_networks_call_has_a_name(function: Callable[..., Any]) -> None:
    assert function_named(function_name(function)) is function


FORBIDDEN = """
    os.system subprocess.run builtins.eval builtins.exec builtins.open builtins.__import__ eval exec __import__ setattr
    delattr operator.attrgetter operator.methodcaller operator.call operator.setattr torch.load torch.save torch.compile
    torch.hub.load torch.ops.load_library torch.classes.load_library torch.jit.load torch.utils.cpp_extension.load
    torch.from_file torch.package.PackageImporter torch.set_default_dtype torch.manual_seed torch.func.vmap torch.cond
    torch.utils.data.DataLoader torch.Tensor.apply_ torch.distributed.run numpy.load importlib.import_module"""


@pytest.mark.parametrize(
    "name", ["", "torch", "torch.", "relu", "torch.relu ", "torch.nn.functional", *FORBIDDEN.split()]
)
def test_no_other_name_is_a_function(name: str) -> None:
    with pytest.raises(ArtifactError, match="not among the operations that a file may call"):
        function_named(name)


def test_no_function_calls_what_it_is_given() -> None:
    """A graph must not reach a call of something that it looked up."""
    for name in ("torch.nn.functional.triplet_margin_with_distance_loss",):
        with pytest.raises(ArtifactError, match="not among the operations"):
            function_named(name)


@pytest.mark.parametrize("function", [print, eval, torch.load, lambda x: x, nn.Linear, "torch.relu"], ids=str)
def test_another_function_has_no_name(function: Any) -> None:
    with pytest.raises(ArtifactError, match="which no file may hold: use a torch function or method instead"):
        function_name(function)


def test_common_methods_may_be_called() -> None:
    for name in "view reshape permute transpose mean sum size flatten contiguous to float add_ chunk softmax".split():
        assert check_method(name) == name


@pytest.mark.parametrize(
    "name",
    "apply_ map_ map2_ set_ numpy tolist_ register_hook requires_grad_ share_memory_ module_load __reduce_ex__ "
    "__class__ __setstate__ _make_subclass __getattribute__ shape data sum()".split(),
)
def test_no_other_method_may_be_called(name: str) -> None:
    with pytest.raises(ArtifactError, match=f"the method '{name}'".replace("(", r"\(").replace(")", r"\)")):
        check_method(name)


def test_every_method_is_a_tensor_s() -> None:
    for name, value in inspect.getmembers(torch.Tensor):
        if name.startswith("_") or not callable(value):
            with pytest.raises(ArtifactError):
                check_method(name)


@pytest.mark.parametrize("name", ["shape", "dtype", "device", "T", "ndim"])
def test_plain_attributes_may_be_read(name: str) -> None:
    assert check_attribute(name) == name


@pytest.mark.parametrize("name", ["__class__", "__dict__", "grad_fn", "_backward_hooks", "sum", "", None, 3, ["shape"]])
def test_no_other_attribute_may_be_read(name: Any) -> None:
    with pytest.raises(ArtifactError, match="the attribute"):
        check_attribute(name)
