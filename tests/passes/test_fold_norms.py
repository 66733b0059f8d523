"""Batch norms folded into the layer before them: the same outputs, and only where nothing else uses that layer."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, symbolic_trace

import qpart_fx as qpart
from qpart_fx.passes.capture import capture
from qpart_fx.passes.fold_norms import FoldNorms
from tests.networks import Residual, images

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def learnt(model: nn.Module) -> nn.Module:
    """``model`` with norms that are not the initial ones, in eval mode."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, _NORMS):
            if module.running_mean is not None and module.running_var is not None:
                module.running_mean.normal_()
                module.running_var.uniform_(0.2, 3)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return model.eval()


def norms(graph: GraphModule) -> int:
    return sum(
        node.op == "call_module" and isinstance(graph.get_submodule(str(node.target)), _NORMS)
        for node in graph.graph.nodes
    )


FOLDED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(3, 5, 3), nn.BatchNorm1d(5)), (4, 3, 9)),
    "conv2d": (lambda: nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)), (4, 3, 7, 7)),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(2, 5, 2), nn.BatchNorm3d(5)), (4, 2, 4, 4, 4)),
    "no bias": (lambda: nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5)), (4, 3, 7, 7)),
    "no affine": (lambda: nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, affine=False)), (4, 3, 7, 7)),
    "groups": (lambda: nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d(8)), (4, 4, 7, 7)),
    "depthwise": (lambda: nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4)), (4, 4, 7, 7)),
    "circular": (lambda: nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1, stride=2, padding_mode="circular"), nn.BatchNorm2d(5)), (4, 3, 8, 8)),
    "linear": (lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)), (8, 6)),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDED)
def test_a_norm_is_folded_and_the_output_stays(name: str) -> None:
    build, shape = FOLDED[name]
    torch.manual_seed(0)
    model, x = learnt(build()), torch.randn(shape)
    graph = capture(model, (x,))
    expected, state = model(x), copy.deepcopy(model.state_dict())
    assert norms(graph) == 1
    result = FoldNorms().run(graph)
    assert result.modified
    assert norms(result.graph_module) == 0
    result.graph_module.graph.lint()
    assert not [key for key in result.graph_module.state_dict() if "running" in key]
    torch.testing.assert_close(result.graph_module(x), expected, rtol=1e-5, atol=1e-5)
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert not FoldNorms().run(graph).modified


def test_all_norms_of_a_network_are_folded() -> None:
    torch.manual_seed(0)
    model, x = learnt(Residual()), images(4)
    graph = capture(model)
    assert FoldNorms().run(graph).modified
    assert norms(graph) == 0
    torch.testing.assert_close(graph(x), model(x), rtol=1e-5, atol=1e-5)


def test_a_chain_of_norms_is_folded_one_after_the_other() -> None:
    model, x = learnt(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.BatchNorm2d(5))), torch.randn(4, 3, 7, 7)
    graph = capture(model)
    FoldNorms().run(graph)
    assert norms(graph) == 0
    torch.testing.assert_close(graph(x), model(x), rtol=1e-5, atol=1e-5)


def test_whether_weights_learn_stays() -> None:
    model = learnt(nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5))).requires_grad_(False)
    graph = capture(model)
    FoldNorms().run(graph)
    assert not any(parameter.requires_grad for parameter in graph.parameters())


class UsedTwice(nn.Module):
    """What the convolution makes is used beside the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        found: Tensor = y + self.norm(y)
        return found


class NormTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Conv2d(3, 5, 3), nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.first(x))
        found: Tensor = y + self.norm(self.second(x))
        return found


class LayerTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        found: Tensor = y + self.conv(2 * x)
        return found


class SharedWeight(nn.Module):
    """Two layers of one weight, and a norm after one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Conv2d(3, 5, 3), nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.first(x))
        found: Tensor = y + self.second(x)
        return found


class WeightRead(nn.Module):
    """The weight is read beside its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        return y * self.conv.weight.sum()


class OneLayerTwoNames(nn.Module):
    """One layer called by two names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)
        self.alias = self.conv

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        found: Tensor = y + self.alias(x)
        return found


class OneNormTwoNames(nn.Module):
    """One norm called by two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Conv2d(3, 5, 3), nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)
        self.alias = self.norm

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.first(x))
        found: Tensor = y + self.alias(self.second(x))
        return found


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        return F.batch_norm(self.conv(x), norm.running_mean, norm.running_var, norm.weight, norm.bias, False)


class Between(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.BatchNorm2d(5))


class Before(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.BatchNorm2d(3), nn.Conv2d(3, 5, 3))


class WithoutStatistics(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, track_running_stats=False))


class Transposed(nn.Sequential):
    """Its weights have their channels along the second dimension."""

    def __init__(self) -> None:
        super().__init__(nn.ConvTranspose2d(3, 3, 3), nn.BatchNorm2d(3))


@pytest.mark.parametrize(
    "build",
    [
        UsedTwice, NormTwice, LayerTwice, SharedWeight, OneLayerTwoNames, OneNormTwoNames, Functional, Between, Before,
        WithoutStatistics, Transposed,
        WeightRead,
    ],
)  # fmt: skip
def test_what_cannot_be_folded_stays(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = learnt(build()), torch.randn(4, 3, 7, 7)
    graph = capture(model)
    expected = graph(x)
    FoldNorms().run(graph)
    torch.testing.assert_close(graph(x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(graph(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("build", [UsedTwice, NormTwice, LayerTwice, SharedWeight, Between, Before, Transposed])
def test_what_cannot_be_folded_is_not_modified(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    graph = capture(learnt(build()))
    before = copy.deepcopy(graph.state_dict())
    assert not FoldNorms().run(graph).modified
    assert norms(graph) >= 1
    assert all(torch.equal(before[key], value) for key, value in graph.state_dict().items())


def test_a_norm_over_the_middle_of_a_linear_layer_s_output_stays() -> None:
    """Of a sequence, BatchNorm1d takes the second dimension for channels; the layer's are along the last."""
    torch.manual_seed(0)
    model, x = learnt(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5))), torch.randn(8, 5, 6)
    graph = capture(model, (x,))
    FoldNorms().run(graph)
    torch.testing.assert_close(graph(x), model(x), rtol=1e-5, atol=1e-5)


def test_a_norm_in_training_mode_stays() -> None:
    graph = symbolic_trace(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)).train())
    assert not FoldNorms().run(graph).modified
    assert norms(graph) == 1


def test_a_profile_leaves_the_caller_s_model_as_it_was() -> None:
    torch.manual_seed(0)
    model = learnt(Residual())
    before = copy.deepcopy(model.state_dict())
    profile = qpart.profile(model, [images(32)], progress=False)
    assert norms(profile.graph) == 0
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    profile.require_weights(model)


def test_the_paper_s_rounding_folds_nothing() -> None:
    torch.manual_seed(0)
    profile = qpart.profile(learnt(Residual()), [images(32)], progress=False, rounding="nearest")
    assert norms(profile.graph) == 2
