"""How scores answer to errors in weights: the Jacobian's second moments, whatever the model does with the weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qpart_fx as qpart
from qpart_fx.calibration import spread
from qpart_fx.meta import info
from qpart_fx.passes.measure_curvature import measure_curvature
from qpart_fx.rounding import CompensatedRounding, Curvature
from qpart_fx.scores import ClassScores
from tests.calibrated import Calibrated, as_they_are, calibrated
from tests.networks import Tokens, images


def samples(count: int, *shape: int, seed: int = 1) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def correlated(count: int) -> Tensor:
    """Samples of 40 numbers that follow from six, nearly."""
    return samples(count, 6) @ samples(6, 40, seed=2) + 0.1 * samples(count, 40, seed=3)


def curvature_of(prepared: Calibrated, seed: int = 0, weights: Sequence[str] | None = None) -> dict[str, Curvature]:
    names = [name for found in prepared.layers.values() for name in found] if weights is None else weights
    return measure_curvature(
        prepared.graph, spread(prepared.batches, 10_000, 1), ClassScores(),
        weights=names, seed=seed, progress=as_they_are,
    )  # fmt: skip


def jacobian(model: nn.Module, name: str, sample: Tensor) -> Tensor:
    """Of the scores of one sample in the weight, shape (scores, rows, columns)."""
    weight = model.get_parameter(name).detach()

    def scores(changed: Tensor) -> Tensor:
        found: Tensor = torch.func.functional_call(model, {name: changed}, (sample[None],))
        return found[0]

    found: Tensor = torch.autograd.functional.jacobian(scores, weight)
    return found.flatten(2)


def likeness(block: Tensor, exact: Tensor) -> float:
    """The cosine between two second moments, both without what is a multiple of the identity: blocks are shrunk."""
    ours, theirs = ((each - each.diagonal().mean() * torch.eye(len(each))).flatten() for each in (block, exact))
    return float(F.cosine_similarity(ours, theirs, dim=0))


@pytest.mark.parametrize("seed", [0, 1])
def test_of_a_linear_model_it_is_exact_in_each_channel(seed: int) -> None:
    """A channel's weights move one score, each by its input, whatever the sign."""
    torch.manual_seed(0)
    x = samples(40, 12)
    found = curvature_of(calibrated(nn.Sequential(nn.Linear(12, 5)), x), seed)["0.weight"]
    expected = torch.full((5,), float(x.square().sum()))
    ratio = found.channels / expected
    assert float(ratio.max() / ratio.min()) == pytest.approx(1, rel=1e-5)
    moment = torch.einsum("ni,nj->ij", x, x)
    for block in found.columns[0]:
        assert likeness(block, moment) == pytest.approx(1, abs=1e-4)


def test_channels_are_the_norms_of_the_jacobian_within_sampling_error() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 8, bias=False), nn.Linear(8, 5)), samples(400, 6)
    prepared = calibrated(model, x)
    for name in ("0.weight", "1.weight"):
        exact = sum(jacobian(model, name, sample).square().sum(dim=(0, 2)) for sample in x)
        assert isinstance(exact, Tensor)
        found = torch.stack([curvature_of(prepared, seed)[name].channels for seed in range(4)]).mean(0)
        np.testing.assert_allclose(found.double() / found.mean(), exact.double() / exact.mean(), rtol=0.2)


def test_blocks_are_the_second_moments_of_the_jacobian_within_sampling_error() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(40, 6, bias=False), nn.Tanh(), nn.Linear(6, 4)), correlated(300)
    found = curvature_of(calibrated(model, x))["0.weight"]
    assert [block.shape for block in found.columns] == [(1, 40, 40)]
    exact = sum(torch.einsum("src,srd->cd", each, each) for each in (jacobian(model, "0.weight", row) for row in x))
    assert isinstance(exact, Tensor)
    block = found.columns[0][0]
    assert likeness(block, exact) > 0.8


def test_rows_are_the_second_moments_over_the_other_side() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(40, 12, bias=False), nn.Tanh(), nn.Linear(12, 4)), correlated(300)
    found = curvature_of(calibrated(model, x))["0.weight"]
    assert [block.shape for block in found.rows] == [(12, 12)]
    exact = sum(torch.einsum("src,sdc->rd", each, each) for each in (jacobian(model, "0.weight", row) for row in x))
    assert isinstance(exact, Tensor)
    assert likeness(found.rows[0], exact) > 0.8
    assert float((found.rows[0].diagonal() * len(x) / found.channels - 1).abs().max()) < 1e-4


def test_filters_of_few_weights_do_not_make_up_for_each_other() -> None:
    torch.manual_seed(0)
    build, x = KINDS["depthwise"]
    assert curvature_of(calibrated(build(), x))["1.weight"].rows == ()


def test_many_rows_are_mixed_and_the_moment_stays() -> None:
    torch.manual_seed(0)
    x = correlated(100)
    wide = nn.Sequential(nn.Linear(40, 200))
    block = curvature_of(calibrated(wide, x))["0.weight"].columns[0][0]
    moment = torch.einsum("ni,nj->ij", x, x)
    assert likeness(block, moment) > 0.9


def test_long_rows_are_taken_in_pieces() -> None:
    torch.manual_seed(0)
    x = samples(4, 2500)
    found = curvature_of(calibrated(nn.Sequential(nn.Linear(2500, 3)), x))["0.weight"]
    assert [block.shape[-1] for block in found.columns] == [1024, 1024, 452]


class RawProduct(nn.Module):
    """Parameters of no layer, one used by a product and one by einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(6, 8)), nn.Parameter(torch.randn(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nc,cd->nd", torch.tanh(x @ self.first), self.second)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(5, 6, batch_first=True)
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.out(self.cell(x)[0][:, -1])
        return scores


class TiedLayers(nn.Module):
    """Two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.out(torch.relu(self.second(torch.relu(self.first(x)))))
        return scores


def pooled(*layers: nn.Module, channels: int) -> nn.Module:
    return nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4))


KINDS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "convolution": (lambda: pooled(nn.Conv2d(3, 6, 3), channels=6), images(24)),
    "depthwise": (lambda: pooled(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=6), channels=6), images(24)),
    "grouped": (lambda: pooled(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 3, groups=2), channels=4), images(24)),
    "transposed": (lambda: pooled(nn.ConvTranspose2d(3, 5, 3), channels=5), images(24)),
    "one dimension": (
        lambda: nn.Sequential(nn.Conv1d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(30, 4)), samples(24, 3, 8)),
    "linear": (lambda: nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4)), samples(24, 6)),
    "lstm": (Recurrent, samples(24, 7, 5)),
    "raw product": (RawProduct, samples(24, 6)),
    "tied": (TiedLayers, samples(24, 6)),
    "tied embedding": (Tokens, torch.randint(11, (24, 7), generator=torch.Generator().manual_seed(0))),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_weights_of_every_kind_of_layer_have_a_curvature(name: str) -> None:
    torch.manual_seed(0)
    build, x = KINDS[name]
    prepared = calibrated(build(), x)
    weights = {weight for names in prepared.layers.values() for weight in names}
    before = {name: value.clone() for name, value in prepared.graph.state_dict().items()}
    found = curvature_of(prepared)
    assert found.keys() == weights
    for weight, curvature in found.items():
        parameter = prepared.graph.get_parameter(weight)
        columns = parameter[0].numel()
        assert curvature.channels.shape == (len(parameter),)
        assert sum(block.shape[-1] for block in curvature.columns) == columns
        total = sum(float(block.diagonal(dim1=1, dim2=2).sum()) for block in curvature.columns)
        assert total * len(x) == pytest.approx(float(curvature.channels.sum()), rel=1e-4)
    assert all(torch.equal(before[key], value) for key, value in prepared.graph.state_dict().items())


@pytest.mark.parametrize("name", KINDS)
def test_weights_of_every_kind_of_layer_can_be_profiled_and_compiled(name: str) -> None:
    torch.manual_seed(0)
    build, x = KINDS[name]
    model = build().eval()
    profile = qpart.profile(model, [x], progress=False)
    assert isinstance(profile.rounding, CompensatedRounding)
    weights = {weight for node in profile.graph.graph.nodes for weight in info(node).weights}
    assert profile.rounding.codes.keys() == weights
    split = profile.compile(qpart.Request.paper(0.05), cut="output")
    with torch.no_grad():
        assert torch.isfinite(split(x)).all()


def test_it_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    build, x = KINDS["convolution"]
    torch.manual_seed(0)
    prepared = calibrated(build(), x)
    first, again, other = (curvature_of(prepared, seed)["0.weight"] for seed in (0, 0, 1))
    assert torch.equal(first.channels, again.channels)
    assert torch.equal(first.columns[0], again.columns[0])
    assert not torch.equal(first.channels, other.channels)


def test_whether_weights_learn_stays_and_no_gradients_are_left() -> None:
    torch.manual_seed(0)
    prepared = calibrated(nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4)), samples(8, 6))
    prepared.graph.get_parameter("0.weight").requires_grad_(False)
    assert curvature_of(prepared).keys() == {"0.weight", "2.weight"}
    flags = {name: value.requires_grad for name, value in prepared.graph.named_parameters()}
    assert flags == {"0.weight": False, "0.bias": True, "2.weight": True, "2.bias": True}
    assert all(value.grad is None for value in prepared.graph.parameters())


class Unreached(nn.Module):
    """No gradient reaches the first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.second(torch.sign(self.first(x)))
        return scores


class Forward(nn.Module):
    """Runs forward only: the last layer's scores are rebuilt from plain numbers' dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.first(x).round().int().float()
        return found


class WritesOver(nn.Module):
    """Writes to what the way back needs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.sigmoid(self.first(x))
        z = y * y
        y.mul_(2)
        scores: Tensor = self.second(z + y)
        return scores


def test_a_weight_that_no_gradient_reaches_has_none() -> None:
    torch.manual_seed(0)
    assert curvature_of(calibrated(Unreached(), samples(8, 6))).keys() == {"second.weight"}


@pytest.mark.parametrize("build", [Forward, WritesOver])
def test_a_model_that_runs_forward_only_gives_none(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    prepared = calibrated(build(), samples(8, 6))
    assert curvature_of(prepared) == {}
    assert all(value.requires_grad for value in prepared.graph.parameters())


@pytest.mark.parametrize("build", [Forward, Unreached, WritesOver])
def test_a_model_without_a_curvature_can_be_profiled_and_compiled(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    x = samples(40, 6)
    profile = qpart.profile(build().eval(), [x], progress=False)
    split = profile.compile(qpart.Request.paper(0.2), cut="output")
    assert split(x).shape == (40, 4)


def test_errors_of_the_model_s_memory_are_not_taken_for_a_model_that_runs_forward_only() -> None:
    torch.manual_seed(0)
    prepared = calibrated(nn.Sequential(nn.Linear(6, 4)), samples(4, 6))

    class Scores(ClassScores):
        def scores(self, output: Any) -> Tensor:
            raise torch.OutOfMemoryError("no memory")

    with pytest.raises(torch.OutOfMemoryError):
        measure_curvature(
            prepared.graph, prepared.batches, Scores(), weights=["0.weight"], seed=0, progress=as_they_are
        )


def test_compensated_rounding_by_it_makes_less_noise_than_rounding_to_nearest() -> None:
    torch.manual_seed(0)
    mixed = samples(512, 64) @ torch.linalg.qr(samples(64, 64, seed=2))[0] * torch.logspace(0, -2, 64)
    x = mixed @ samples(64, 64, seed=3)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8)).eval()
    prepared = calibrated(model, x[:256])
    weight = prepared.graph.get_parameter("0.weight").detach()
    rounding = CompensatedRounding.of({"0.weight": weight}, curvature_of(prepared, weights=["0.weight"]))

    def noise(changed: Tensor) -> float:
        with torch.no_grad():
            hidden = F.linear(x[256:], changed - weight)
        return float(hidden.square().sum())

    for bits in (4, 5, 6):
        nearest = rounding.quantizer("0.weight", weight, bits)(weight)
        assert noise(rounding.rounded("0.weight", weight, bits)) < 0.8 * noise(nearest)
