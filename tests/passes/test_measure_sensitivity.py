"""Predicted noise: the Jacobian's, near what is measured, and nothing of the graph is left changed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qpart_fx as qpart
from qpart_fx.calibration import Batch
from qpart_fx.noise import MEASURED, WIDTHS
from qpart_fx.passes.measure_sensitivity import measure_sensitivity
from qpart_fx.quantizer import UniformQuantizer
from qpart_fx.replay import Replay
from qpart_fx.scores import ClassScores, MetricScores
from tests.calibrated import Attention, Calibrated, calibrated, trained
from tests.networks import Residual, Tokens, TwoInputs, images

AT_MEASURED = [WIDTHS.index(width) for width in MEASURED]
AT_PROBED = [WIDTHS.index(width) for width in (4, 5, 6, 7, 8, 9, 10, 12, 14)]
FROM_FOUR = MEASURED.index(4)


def samples(count: int, *shape: int, seed: int = 1) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


class Two(nn.Module):
    """Two layers with ``between`` them."""

    def __init__(self, between: Callable[[Tensor], Tensor] = torch.relu, width: int = 32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.between = nn.Linear(6, width), nn.Linear(width, 5), between

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.second(self.between(self.first(x)))
        return scores


def squared_jacobian(scores: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """The squared norms of the columns of the Jacobian of ``scores``, in the shape of ``at``."""
    jacobian: Tensor = torch.autograd.functional.jacobian(scores, at)
    return jacobian.flatten(0, -at.dim() - 1).square().sum(0)


def noise_of_weight(model: nn.Module, name: str, x: Tensor) -> list[float]:
    weight = model.get_parameter(name).detach()
    errors = [UniformQuantizer.of_tensor(weight, bits)(weight) - weight for bits in WIDTHS]
    noise = torch.zeros(len(WIDTHS))
    for sample in x:

        def scores(changed: Tensor, sample: Tensor = sample) -> Tensor:
            found: Tensor = torch.func.functional_call(model, {name: changed}, (sample[None],))
            return found

        jacobian = torch.autograd.functional.jacobian(scores, weight).flatten(0, 1).flatten(1)
        noise += torch.stack([(jacobian @ error.flatten()).square().sum() for error in errors])
    return (noise / len(x)).tolist()


def test_each_channel_is_its_part_of_the_jacobian() -> None:
    """Of a single linear layer, a channel's weights move one score, each by its input."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 5)), samples(160, 6)
    found = calibrated(model, x).sensitivity().channels
    assert [*found] == ["0.weight"]
    np.testing.assert_allclose(found["0.weight"], np.full(5, float(x.square().sum(1).mean())), rtol=0.35)


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_layers_in_expectation_whatever_the_size_of_batches(batch: int) -> None:
    """80 samples and 6 seeds, against the Jacobian in the direction of the error that each width really makes."""
    model, x = Two(torch.tanh), samples(80, 6)
    prepared = calibrated(model, x, batch=batch)
    found = np.mean([prepared.sensitivity(seed=seed).layers.noise for seed in range(6)], axis=0)
    for row, name in zip(found, ("first.weight", "second.weight"), strict=True):
        expected = np.array(noise_of_weight(model, name, x))
        np.testing.assert_allclose(row[AT_PROBED], expected[AT_PROBED], rtol=0.2)


def test_values_in_expectation() -> None:
    model, x = Two(torch.tanh), samples(30, 6)
    prepared = calibrated(model, x, batch=5)
    found = np.mean([prepared.sensitivity(seed=seed).values["first"].noise for seed in range(10)], axis=0)
    value = model.first(x).detach()
    energy = torch.stack([squared_jacobian(lambda each: model.second(torch.tanh(each)), row) for row in value])
    quantizers = [UniformQuantizer.from_range(*prepared.ranges["first"], bits) for bits in MEASURED]
    exact = [float((energy * (each(value) - value).square()).sum()) / len(x) for each in quantizers]
    np.testing.assert_allclose(found[AT_MEASURED], exact, rtol=0.15)


def test_the_scores_themselves_are_exact() -> None:
    """The gradient of a score is its sign: what is predicted is the squared rounding error."""
    prepared = calibrated(Two(), samples(16, 6))
    found = prepared.sensitivity().values["second"].noise
    _, measured = prepared.measured(["second"])
    four, six = (MEASURED.index(width) for width in (4, 6))
    np.testing.assert_allclose(found[AT_MEASURED][[four, six]], measured.noise[0, [four, six]], rtol=1e-4)


def convolutional() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    x = images(96)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(16, 16, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(144, 4),
    )  # fmt: skip
    return trained(model, x, x.mean(dim=(2, 3)).argmax(1), steps=15), x


def transformer() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    tokens = torch.randint(0, 20, (96, 8), generator=torch.Generator().manual_seed(1))
    return trained(Attention(), tokens, tokens[:, 0] % 4, steps=15), tokens


@pytest.mark.parametrize("network", [convolutional, transformer])
def test_predictions_are_near_what_is_measured_from_four_bits_on(
    network: Callable[[], tuple[nn.Module, Tensor]],
) -> None:
    prepared = calibrated(*network())
    found = prepared.sensitivity()
    names = list(found.values)
    layers, values = prepared.measured(names)
    of_layers = found.layers.noise[:, AT_MEASURED] / layers.noise
    of_values = np.array([found.values[name].noise for name in names])[:, AT_MEASURED] / values.noise
    for ratio in (of_layers[:, FROM_FOUR:], of_values[:, FROM_FOUR:]):
        off = np.abs(np.log2(ratio))  # one rounding is one draw: few directions of the error matter to few scores
        assert (off < 2).all(), ratio
        assert np.mean(off < 1) > 0.75, ratio
        assert abs(np.median(np.log2(ratio))) < 0.5, ratio


def test_the_same_seed_gives_the_same_table() -> None:
    prepared = calibrated(Two(), samples(40, 6))
    first, again, other = (prepared.sensitivity(seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first.layers.noise, again.layers.noise)
    assert {*first.values} == {*again.values}
    assert all(np.array_equal(each.noise, again.values[name].noise) for name, each in first.values.items())
    assert not np.array_equal(first.layers.noise, other.layers.noise)


class Unreached(nn.Module):
    """What the first layer makes is cut off from the gradient; the second layer's own is not."""

    def __init__(self, cut_off: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = nn.Linear(6, 32), nn.Linear(6, 32), nn.Linear(32, 5)
        self.cut_off = cut_off

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.third(self.cut_off(self.first(x)) + self.second(x).tanh())
        return scores


def detached(x: Tensor) -> Tensor:
    return x.detach()


def integers(x: Tensor) -> Tensor:
    return (x * 4).to(torch.int32).float()


@pytest.mark.parametrize("cut_off", [detached, torch.round, integers, torch.sign])
def test_what_no_gradient_reaches_has_rows_of_zero_and_no_values(cut_off: Callable[[Tensor], Tensor]) -> None:
    prepared = calibrated(Unreached(cut_off), samples(40, 6))
    found = prepared.sensitivity()
    assert [*prepared.layers] == ["first", "second", "third"]
    assert found.layers.noise.shape == (3, len(WIDTHS))
    assert not found.layers.noise[0].any()
    assert (found.layers.noise[1:] > 0).all()
    assert "first" not in found.values
    assert {"second", "tanh", "add", "third"} <= found.values.keys()


class WithoutGradients(nn.Module):
    """A leaf of the graph whose own forward turns gradients off."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 32)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        return y


class KeepsWhole(torch.fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, WithoutGradients) or super().is_leaf_module(m, module_qualified_name)


def test_a_module_that_turns_gradients_off_is_looked_at_from_behind() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(WithoutGradients(), nn.ReLU(), nn.Linear(32, 5)).eval()
    prepared = calibrated(torch.fx.GraphModule(model, KeepsWhole().trace(model)), samples(40, 6))
    found = prepared.sensitivity()
    assert prepared.layers["_0"] == ("0.inner.weight",)
    assert (found.layers.noise > 0).all()
    assert [*found.values] == ["_0", "_1", "_2"]
    assert torch.is_grad_enabled()


def test_a_block_without_gradients_is_of_no_account_in_a_traced_graph() -> None:
    class Block(Two):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                y = torch.relu(self.first(x))
            scores: Tensor = self.second(y)
            return scores

    x = samples(40, 6)
    assert np.array_equal(
        calibrated(Block(), x).sensitivity().layers.noise, calibrated(Two(), x).sensitivity().layers.noise
    )


def test_tokens_and_tied_weights() -> None:
    torch.manual_seed(0)
    tokens = torch.randint(0, 11, (64, 5), generator=torch.Generator().manual_seed(0))
    prepared = calibrated(Tokens(), tokens)
    found = prepared.sensitivity()
    assert prepared.layers == {"embedding": ("embedding.weight",), "linear": ("mix",)}
    assert (found.layers.noise > 0).all()
    assert {"embedding", "linear", "gelu", "mean", "out"} == found.values.keys()  # no tokens, no constants


def test_rows_of_the_embedding_that_no_sample_looks_up_make_no_noise() -> None:
    torch.manual_seed(0)
    embedding = nn.Embedding(11, 6)
    model = nn.Sequential(embedding, nn.Flatten(), nn.Linear(12, 4))
    with torch.no_grad():
        embedding.weight[:5] *= 100.0  # far off the grid of the others, if only they were looked up
    tokens = torch.randint(5, 11, (64, 2))
    prepared = calibrated(model, tokens)
    found = prepared.sensitivity()
    layers, _ = prepared.measured()
    np.testing.assert_allclose(found.layers.noise[0, AT_MEASURED][-2:], layers.noise[0, -2:], rtol=1.0)


class InPlace(nn.Module):
    """Writes to its input, to what layers made, and adds in place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(6, 32), nn.Linear(32, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.mul_(0.5)
        y = self.a(x).relu_()
        z = self.b(y)
        z = z.add_(y)
        z = z.clamp_(min=-0.1)
        scores: Tensor = self.c(z)
        return scores


class OutOfPlace(InPlace):
    """The same, writing to nothing."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.mul(0.5)
        y = self.a(x).relu()
        z = self.b(y)
        z = z.add(y)
        z = z.clamp(min=-0.1)
        scores: Tensor = self.c(z)
        return scores


def test_values_that_are_written_to_count_as_they_were_before() -> None:
    x = samples(40, 6)
    before = x.clone()
    names = {"x": "x", "a": "a", "relu_": "relu", "b": "b", "add_": "add", "clamp_": "clamp", "c": "c"}
    plain = calibrated(OutOfPlace(), x)
    prepared = dataclasses.replace(
        calibrated(InPlace(), x), ranges={"x": (-4.0, 4.0)} | {name: plain.ranges[names[name]] for name in names}
    )
    found, expected = prepared.sensitivity(), plain.sensitivity()
    assert torch.equal(x, before)
    np.testing.assert_allclose(found.layers.noise, expected.layers.noise, rtol=1e-5)
    assert found.values.keys() == names.keys()
    for name, same in names.items():
        np.testing.assert_allclose(found.values[name].noise, expected.values[same].noise, rtol=1e-5, err_msg=name)


def test_in_place_activations_and_sums_of_a_residual_network() -> None:
    torch.manual_seed(0)
    prepared = calibrated(trained(Residual(), images(64), torch.arange(64) % 5, steps=3), images(64))
    found = prepared.sensitivity()
    names = list(found.values)
    _, values = prepared.measured(names)
    ratio = np.array([found.values[name].noise for name in names])[:, AT_MEASURED] / values.noise
    assert {"conv1", "norm1", "relu", "conv2", "norm2", "add", "relu_1", "fc"} <= {*names}
    assert ((ratio[:, -1] > 0.4) & (ratio[:, -1] < 2.5)).all(), dict(zip(names, ratio, strict=True))


def state_of(prepared: Calibrated) -> tuple[Any, ...]:
    parameters = dict(prepared.graph.named_parameters())
    return (
        {name: tensor.clone() for name, tensor in prepared.graph.state_dict().items()},
        {name: parameter.requires_grad for name, parameter in parameters.items()},
        {name: None if parameter.grad is None else parameter.grad.clone() for name, parameter in parameters.items()},
        {name: bool(parameter._backward_hooks) for name, parameter in parameters.items()},
        torch.get_rng_state(),
        torch.is_grad_enabled(),
    )


def require_same(before: tuple[Any, ...], after: tuple[Any, ...]) -> None:
    torch.testing.assert_close(after, before, rtol=0, atol=0)


@pytest.fixture
def mixed() -> Calibrated:
    """Weights that want gradients and some that do not, and one that has one."""
    prepared = calibrated(Residual(), images(40))
    prepared.graph.get_parameter("conv1.weight").requires_grad_(False)
    prepared.graph.get_parameter("fc.bias").requires_grad_(False)
    weight = prepared.graph.get_parameter("conv2.weight")
    weight.grad = torch.ones_like(weight)
    return prepared


def test_the_graph_is_left_as_it_was(mixed: Calibrated) -> None:
    before = state_of(mixed)
    mixed.sensitivity()
    require_same(before, state_of(mixed))


def test_gradients_are_found_where_they_are_off(mixed: Calibrated) -> None:
    expected = mixed.sensitivity().layers.noise
    with torch.no_grad():
        assert np.array_equal(mixed.sensitivity().layers.noise, expected)
        assert not torch.is_grad_enabled()
    assert (expected > 0).all()


class StopHereError(Exception):
    pass


def test_the_graph_is_left_as_it_was_when_interrupted_between_batches(mixed: Calibrated) -> None:
    def progress(batches: Sequence[Batch]) -> Iterator[Batch]:
        yield batches[0]
        raise StopHereError

    before = state_of(mixed)
    with pytest.raises(StopHereError):
        measure_sensitivity(
            mixed.graph, mixed.batches, ClassScores(), layers=mixed.layers, ranges=mixed.ranges, seed=0,
            progress=progress,
        )  # fmt: skip
    require_same(before, state_of(mixed))


@pytest.mark.parametrize("call", [1, 3, 40])
def test_the_graph_is_left_as_it_was_when_rounding_fails(
    mixed: Calibrated, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a hook of the backward pass, at its first call and later."""
    calls = []

    def fail(self: UniformQuantizer, values: Tensor) -> Tensor:
        calls.append(self)
        if len(calls) == call:
            raise StopHereError
        return values

    monkeypatch.setattr(UniformQuantizer, "__call__", fail)
    before = state_of(mixed)
    with pytest.raises(StopHereError):
        mixed.sensitivity()
    require_same(before, state_of(mixed))


def test_the_graph_is_left_as_it_was_when_scores_are_refused(mixed: Calibrated) -> None:
    class Refuses(ClassScores):
        def scores(self, output: Any) -> Tensor:
            raise qpart.CalibrationError("no scores")

    before = state_of(mixed)
    with pytest.raises(qpart.CalibrationError, match="no scores"):
        mixed.sensitivity(Refuses())
    require_same(before, state_of(mixed))


def test_a_metric_is_probed_by_the_scores_it_is_given() -> None:
    prepared = calibrated(Two(), samples(40, 6))

    def metric(outputs: Any, targets: Any) -> float:
        raise AssertionError("a metric has no part in it")

    assert np.array_equal(prepared.sensitivity(MetricScores(metric)).layers.noise, prepared.sensitivity().layers.noise)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_scores_of_a_metric_may_have_any_shape(shape: tuple[int, ...]) -> None:
    class Regression(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(6, 32), nn.Linear(32, math.prod(shape))

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.last(self.first(x).tanh())
            return scores.unflatten(1, shape) if shape else scores[:, 0]

    prepared, scorer = calibrated(Regression(), samples(64, 6)), MetricScores(lambda outputs, targets: 1.0)
    found, (measured, _) = prepared.sensitivity(scorer), prepared.measured(scorer=scorer)
    ratio = found.layers.noise[:, AT_MEASURED] / measured.noise
    assert np.exp(np.abs(np.log(ratio[:, FROM_FOUR:]).mean())) < 1.6, ratio  # of few scores, each rounding is far off


def test_of_several_outputs_the_first_tensor_scores() -> None:
    class OnlyLogits(nn.Module):
        def __init__(self, whole: nn.Module) -> None:
            super().__init__()
            self.whole = whole

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            logits: Tensor = self.whole(left, right)["logits"]
            return logits

    torch.manual_seed(0)
    model, left, right = TwoInputs(), samples(40, 4), samples(40, 3, seed=2)
    whole, single = (calibrated(each, left, right).sensitivity() for each in (model, OnlyLogits(model)))
    assert (whole.layers.noise > 0).all()
    assert np.array_equal(whole.layers.noise, single.layers.noise)


def test_layers_that_only_other_outputs_use_have_rows_of_zero() -> None:
    class Auxiliary(Two):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            return super().forward(x), self.other(x)

    prepared = calibrated(Auxiliary(), samples(40, 6))
    found = prepared.sensitivity()
    row = [*prepared.layers].index("other")
    assert not found.layers.noise[row].any()
    assert np.delete(found.layers.noise, row, axis=0).all()
    assert "other" not in found.values
    # Under a metric, which sees all outputs, their noise counts.
    everything = prepared.sensitivity(MetricScores(lambda outputs, targets: 1.0))
    assert (everything.layers.noise[row, AT_PROBED] > 0).all()


class Decides(nn.Module):
    """Its scores are 0 and 1: no gradient comes out of them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return F.one_hot(self.first(x).argmax(1), 5).float()


def test_a_model_without_any_gradient_has_nothing_but_zeros() -> None:
    prepared = calibrated(Decides(), samples(40, 6))
    before = state_of(prepared)
    found = prepared.sensitivity()
    assert found.layers.noise.shape == (1, len(WIDTHS))
    assert not found.layers.noise.any()
    assert not found.values
    require_same(before, state_of(prepared))


def test_a_model_without_any_gradient_can_be_profiled_all_the_same() -> None:
    profile = qpart.profile(Decides(), [samples(400, 6)], progress=False)
    assert profile.layers[0].noise_by_width[0] > 0
    plan = profile.plan(qpart.Request.paper(0.05), method="exact")
    assert plan.predicted_drop is not None
    assert plan.predicted_drop <= 0.05


def test_layers_that_no_gradient_reaches_are_measured_in_a_profile() -> None:
    profile = qpart.profile(Unreached(integers), [samples(400, 6)], progress=False)
    for layer in profile.layers:
        assert (np.array(layer.noise_by_width) > 0).all()
    values = {value.name: np.array(value.noise_by_width) for value in profile.values}
    assert all(np.isfinite(noise).all() and (noise > 0).all() for noise in values.values())


def test_values_are_looked_at_on_the_first_samples_only() -> None:
    """After 32 samples, whatever comes does not count for values, and does for weights."""
    x = samples(64, 6)
    loud = torch.cat([x[:32], x[32:] * 10])
    found, louder = (calibrated(Two(), each, batch=16) for each in (x, loud))
    louder = dataclasses.replace(louder, ranges=found.ranges)
    assert np.array_equal(found.sensitivity().values["second"].noise, louder.sensitivity().values["second"].noise)
    assert (found.sensitivity().layers.noise < louder.sensitivity().layers.noise).all()


def test_one_sample() -> None:
    found = calibrated(Two(), samples(2, 6), batch=1)
    single = dataclasses.replace(found, batches=found.batches[:1]).sensitivity()
    assert (single.layers.noise > 0).all()
    assert {"x", "first", "relu", "second"} == single.values.keys()


def test_half_precision() -> None:
    x = samples(40, 6)
    expected = calibrated(Two(), x).sensitivity()
    found = calibrated(Two().to(torch.bfloat16), x.to(torch.bfloat16)).sensitivity()
    np.testing.assert_allclose(
        found.layers.noise[:, AT_MEASURED[:4]], expected.layers.noise[:, AT_MEASURED[:4]], rtol=0.5
    )


# What a model may do where no gradient is asked for, and what torch then refuses or makes NaN of.


def overwrites(y: Tensor) -> Tensor:
    return torch.sigmoid(y).mul_(2)


def writes_to_out(y: Tensor) -> Tensor:
    return torch.add(y, y, out=torch.zeros_like(y))


@pytest.mark.parametrize("between", [overwrites, writes_to_out])
def test_a_model_that_cannot_run_backward_is_profiled_by_measuring(between: Callable[[Tensor], Tensor]) -> None:
    profile = qpart.profile(Two(between), [samples(80, 6)], progress=False)
    assert all(np.isfinite(layer.noise_by_width).all() for layer in profile.layers)


def test_a_model_that_writes_to_its_weights_is_profiled() -> None:
    class Clamps(Two):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.first.weight.clamp_(-0.2, 0.2)
            return super().forward(x)

    qpart.profile(Clamps(), [samples(80, 6)], progress=False)


def test_gradients_that_are_not_finite_are_no_predictions() -> None:
    prepared = calibrated(Two(lambda y: torch.sqrt(torch.relu(y))), samples(80, 6))
    assert all(np.isfinite(each.noise).all() for each in prepared.sensitivity().values.values())


def test_scores_on_a_large_scale() -> None:
    class Scaled(Two):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 1e20

    qpart.profile(Scaled(), [samples(80, 6)], progress=False)


def test_inputs_are_reached() -> None:
    assert "x" in calibrated(Two(), samples(40, 6)).sensitivity().values


def test_values_of_a_model_that_writes_to_its_input_are_replayed_as_they_were() -> None:
    prepared = calibrated(InPlace(), samples(40, 6))
    replay = Replay(prepared.graph, prepared.batches[0])
    torch.testing.assert_close(replay.from_node("a"), replay.output)


class Causal(nn.Module):
    """Attention whose scores are -inf where a token must not look."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.query, self.key = nn.Embedding(20, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.value, self.head = nn.Linear(16, 16), nn.Linear(16, 4)
        self.register_buffer("future", torch.ones(8, 8).triu(1).bool())

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        scores = self.query(x) @ self.key(x).transpose(1, 2)
        weights = scores.masked_fill(self.get_buffer("future"), -math.inf).softmax(-1)
        classes: Tensor = self.head((weights @ self.value(x)).mean(dim=1))
        return classes


def test_values_that_are_infinite_are_no_trouble_where_nothing_is_cut() -> None:
    tokens = torch.randint(0, 20, (80, 8), generator=torch.Generator().manual_seed(0))
    profile = qpart.profile(Causal(), [tokens], progress=False)
    assert all(np.isfinite(layer.noise_by_width).all() for layer in profile.layers)
    assert all(np.isfinite(value.noise_by_width).all() for value in profile.values)
    profile.plan(qpart.Request.paper(0.05))
