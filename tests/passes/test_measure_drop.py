"""The accuracy that noise costs: monotone, true of whole quantized networks, and the fallback where it is unknown."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import qpart_fx as qpart
from qpart_fx.answers import Answers
from qpart_fx.answers_seen import AnswersSeen
from qpart_fx.calibration import Batch
from qpart_fx.drop_curve import DropCurve, curve_of_margins
from qpart_fx.meta import info
from qpart_fx.noise import WIDTHS, noise_by_width
from qpart_fx.passes.measure_drop import measure_drop
from qpart_fx.quantized import rounded_weights
from qpart_fx.rounding import NearestRounding
from qpart_fx.scores import ClassScores, MetricScores, Scorer
from tests.calibrated import CLASS_SCORES, Calibrated, as_they_are, calibrated, trained
from tests.networks import classifier, images

Floats = NDArray[np.float64]

WHITE = DropCurve(noise=np.logspace(-8, 8, 50), drop=np.linspace(0.0, 0.5, 50))


def uniform_bits(prepared: Calibrated) -> Floats:
    sizes = [sum(prepared.graph.get_parameter(name).numel() for name in names) for names in prepared.layers.values()]
    return np.asarray(np.array(sizes, dtype=float)[:, None] * np.array(WIDTHS, dtype=float))


def drop_curve(
    prepared: Calibrated, noise: Floats, *, scorer: Scorer = CLASS_SCORES, white: DropCurve = WHITE
) -> DropCurve:
    return measure_drop(
        prepared.graph,
        prepared.batches,
        scorer,
        layers=prepared.layers,
        weight_bits=uniform_bits(prepared),
        noise=noise,
        white=white,
        progress=as_they_are,
        answers=answers_of(prepared) if isinstance(scorer, ClassScores) else None,
    )


def answers_of(prepared: Calibrated) -> Answers:
    seen = AnswersSeen()
    for batch in prepared.batches:
        seen.add(prepared.graph(*batch.args).detach(), None)
    return seen.answers()


def noise_of(prepared: Calibrated, scorer: Scorer = CLASS_SCORES) -> Floats:
    return noise_by_width(prepared.measured(scorer=scorer)[0].noise)


def white_of(prepared: Calibrated) -> DropCurve:
    classes = prepared.graph(*prepared.batches[0].args).shape[1]
    return curve_of_margins(answers_of(prepared).margins[:, 0], classes)


def require_monotone(curve: DropCurve) -> None:
    assert curve.noise.shape == curve.drop.shape
    assert np.isfinite(curve.noise).all()
    assert (curve.noise > 0).all()
    assert (np.diff(curve.noise) >= 0).all()
    assert (np.diff(curve.drop) >= 0).all()
    assert (curve.drop >= 0).all()
    assert (curve.drop <= 1).all()


def clusters(classes: int, count: int) -> tuple[Tensor, Tensor]:
    """Points about the centre of their class, which overlap."""
    random = torch.Generator().manual_seed(0)
    centres = torch.randn(classes, 20, generator=random)
    labels = torch.randint(0, classes, (count,), generator=random)
    return centres[labels] + 2.0 * torch.randn(count, 20, generator=random), labels


def perceptron(classes: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, classes)
    ).eval()  # fmt: skip


def test_the_curve_is_monotone_and_the_graph_as_it_was() -> None:
    prepared = calibrated(classifier(), images(64))
    noise, white = noise_of(prepared), white_of(prepared)
    state = {name: tensor.clone() for name, tensor in prepared.graph.state_dict().items()}
    random = torch.get_rng_state()
    curve = drop_curve(prepared, noise, white=white)
    require_monotone(curve)
    assert curve is not white
    assert all(torch.equal(state[name], tensor) for name, tensor in prepared.graph.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    again = drop_curve(prepared, noise, white=white)
    assert np.array_equal(curve.noise, again.noise)
    assert np.array_equal(curve.drop, again.drop)


@pytest.mark.parametrize("classes", [2, 10])
def test_flips_of_whole_quantized_networks_are_predicted_about_right(classes: int) -> None:
    """On samples that were not seen, of plans that are not those that were run."""
    x, labels = clusters(classes, 6000)
    model = trained(perceptron(classes), x[:1000], labels[:1000], steps=40)
    profile = qpart.profile(model, [x[1000:]], progress=False, max_samples=5000)
    noise = [layer.noise_by_width for layer in profile.layers]
    weights = [tuple(info(node).weights) for node in profile.graph.graph.nodes if info(node).weights]
    unseen = torch.cat([batch.args[0] for batch in profile.check])
    ratios = []
    with torch.no_grad():
        answers = profile.graph(unseen).argmax(1)
        for plan in ((3, 3, 3), (4, 4, 4), (5, 5, 5), (4, 6, 5), (6, 4, 4), (5, 3, 6), (3, 5, 5), (4, 16, 16)):
            with ExitStack() as stack:
                for names, bits in zip(weights, plan, strict=True):
                    stack.enter_context(rounded_weights(profile.graph, names, bits, profile.rounding))
                flips = float((profile.graph(unseen).argmax(1) != answers).double().mean())
            predicted = sum(row[bits - WIDTHS[0]] for row, bits in zip(noise, plan, strict=True))
            ratios.append(profile.noise_curve.drop_at(predicted) / flips)
    assert 0.4 < min(ratios) <= max(ratios) < 2.5, ratios
    assert 0.67 < np.exp(np.mean(np.log(ratios))) < 1.8, ratios


def test_noise_that_is_predicted_too_low_is_made_up_for() -> None:
    """A tenth of the noise is predicted: then a tenth costs as much, at the levels that were run."""
    prepared = calibrated(perceptron(10), torch.randn(256, 20, generator=torch.Generator().manual_seed(1)))
    noise, white = noise_of(prepared), white_of(prepared)
    curve = drop_curve(prepared, noise, white=white)
    tenth = DropCurve(white.noise / 10, white.drop)
    low = drop_curve(prepared, noise / 10, white=tenth)
    for drop in (0.01, 0.03, 0.06):
        assert low.noise_at(drop) == pytest.approx(curve.noise_at(drop) / 10, rel=1e-6)


# Where nothing can be measured, what white noise would cost is all that is known.


def test_layers_without_noise() -> None:
    prepared = calibrated(classifier(), images(32))
    assert drop_curve(prepared, np.zeros((3, len(WIDTHS)))) is WHITE


def test_budgets_that_no_plan_meets() -> None:
    prepared = calibrated(classifier(), images(32))
    low = DropCurve(noise=np.array([1e-30, 1e-20]), drop=np.array([0.0, 0.5]))
    assert drop_curve(prepared, noise_of(prepared), white=low) is low


class Detached(nn.Module):
    """Scores that do not depend on the weights, or only all of them alike."""

    def __init__(self, fixed: list[float], factor: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.factor = nn.Linear(6, 1), factor
        self.register_buffer("fixed", torch.tensor(fixed))

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.get_buffer("fixed") + self.factor * self.fc(x)
        return scores


@pytest.mark.filterwarnings("error")
def test_weights_that_do_not_move_the_scores() -> None:
    prepared = calibrated(Detached([0.0, 1.0, 3.0], 0.0), torch.randn(32, 6))
    assert drop_curve(prepared, np.full((1, len(WIDTHS)), 1e-3)) is WHITE


def test_scores_that_only_move_together() -> None:
    prepared = calibrated(Detached([0.0, 0.0, 0.0], 1.0), torch.randn(32, 6))
    assert drop_curve(prepared, noise_of(prepared)) is WHITE


@pytest.mark.parametrize("factor", [1e-6, 32.0, 1e6])
def test_scores_on_another_scale_stand_its_square_of_noise(factor: float) -> None:
    class Scaled(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.model(x) * factor
            return scores

    plain, scaled = calibrated(classifier(), images(64)), calibrated(Scaled(classifier()), images(64))
    curve, other = (drop_curve(each, noise_of(each), white=white_of(each)) for each in (plain, scaled))
    for drop in (0.01, 0.1, 0.3):
        assert other.noise_at(drop) == pytest.approx(factor**2 * curve.noise_at(drop), rel=0.05)


def test_plans_of_one_and_the_same_noise() -> None:
    """Whatever the budget, one plan: one level."""
    prepared = calibrated(classifier(), images(32))
    curve = drop_curve(prepared, np.full((3, len(WIDTHS)), 1e-3))
    require_monotone(curve)


def test_two_classes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))
    prepared = calibrated(model, torch.randn(256, 6))
    curve = drop_curve(prepared, noise_of(prepared), white=white_of(prepared))
    require_monotone(curve)
    assert curve.drop[-1] == pytest.approx(0.5, abs=0.1)  # beyond any margin, a coin is tossed


def test_margins_that_are_all_equal() -> None:
    x = images(1).expand(40, -1, -1, -1).clone()
    prepared = calibrated(classifier(), x)
    curve = drop_curve(prepared, noise_of(prepared), white=white_of(prepared))
    require_monotone(curve)
    assert curve.drop[0] == pytest.approx(0.0, abs=1e-3)


def test_some_samples_on_the_fence() -> None:
    """Two classes score alike wherever the input is 0."""
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    x[:10] = 0.0
    torch.manual_seed(0)
    prepared = calibrated(nn.Sequential(nn.Linear(6, 16, bias=False), nn.Tanh(), nn.Linear(16, 4, bias=False)), x)
    curve = drop_curve(prepared, noise_of(prepared), white=white_of(prepared))
    require_monotone(curve)
    assert 0.05 < curve.drop[0] < 0.25


def test_one_sample() -> None:
    prepared = calibrated(classifier(), images(2), batch=1)
    single = Calibrated(prepared.graph, prepared.batches[:1], prepared.layers, prepared.ranges)
    require_monotone(drop_curve(single, noise_of(single), white=white_of(single)))


def test_scores_of_one_class_far_below_all_others() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.fc = nn.Linear(6, 4)
            self.register_buffer("mask", torch.tensor([0.0, 0.0, 0.0, -1e30]))

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.fc(x) + self.get_buffer("mask")
            return scores

    prepared = calibrated(Masked(), torch.randn(64, 6))
    curve = drop_curve(prepared, noise_of(prepared), white=white_of(prepared))
    assert curve is not WHITE
    require_monotone(curve)


# Other scores: drops of the metric at some levels.


def single_layer(count: int = 64) -> tuple[Calibrated, Floats]:
    """One layer: then the plans are its widths, and their noise is its row."""
    torch.manual_seed(0)
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(1))
    model = nn.Sequential(nn.Linear(6, 16))
    prepared = calibrated(model, x)
    batches = [Batch(each.args, {}, prepared.graph(*each.args).detach(), each.size) for each in prepared.batches]
    prepared = Calibrated(prepared.graph, batches, prepared.layers, prepared.ranges)
    return prepared, noise_of(prepared)


def by_error(value: Callable[[float], float]) -> MetricScores:
    """A metric of the root mean squared error against the targets."""
    return MetricScores(lambda outputs, targets: value(math.sqrt(float((outputs - targets).square().mean()))))


def drops_by_hand(prepared: Calibrated, scorer: MetricScores, bits: int) -> float:
    (weights,) = prepared.layers.values()
    total = 0.0
    for batch in prepared.batches:
        clean = prepared.graph(*batch.args)
        with rounded_weights(prepared.graph, weights, bits, NearestRounding()):
            total += scorer.drop(clean, prepared.graph(*batch.args), batch) * batch.size
    return total / sum(batch.size for batch in prepared.batches)


def test_a_metric_s_curve_goes_through_its_levels() -> None:
    prepared, noise = single_layer()
    scorer = by_error(lambda error: 1 - error)
    curve = drop_curve(prepared, noise, scorer=scorer)
    require_monotone(curve)
    for bits in (8, 6, 5, 4, 3):
        expected = drops_by_hand(prepared, scorer, bits)
        assert 0.001 < expected < 0.5
        assert curve.drop_at(float(noise[0, bits - WIDTHS[0]])) == pytest.approx(expected, rel=1e-6)


def test_batches_count_by_their_size() -> None:
    prepared, noise = single_layer(count=80)  # 64 and 16
    scorer = by_error(lambda error: 1 - error)
    curve = drop_curve(prepared, noise, scorer=scorer)
    expected = drops_by_hand(prepared, scorer, 5)
    assert curve.drop_at(float(noise[0, 5 - WIDTHS[0]])) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "value",
    [
        lambda error: 1.0,  # nothing is lost
        lambda error: 1.0 + error,  # it gets better
        lambda error: 1 - 1e-4 * error,  # too little is lost to be seen
        lambda error: 1.0 if error == 0 else 0.0,  # all is lost at once
    ],
)
def test_a_metric_that_does_not_show_where_it_breaks(value: Callable[[float], float]) -> None:
    prepared, noise = single_layer()
    assert drop_curve(prepared, noise, scorer=by_error(value)) is WHITE


def test_a_metric_that_is_not_monotone() -> None:
    """Less is lost at more noise: the curve stays at the most that was lost before."""
    prepared, noise = single_layer()
    at_five = drops_by_hand(prepared, by_error(lambda error: 1 - error), 5)
    scorer = by_error(lambda error: 1 - error if error <= at_five * 1.01 else 1 - 0.2 * at_five)
    curve = drop_curve(prepared, noise, scorer=scorer)
    require_monotone(curve)
    assert drops_by_hand(prepared, scorer, 3) < at_five
    for bits in (5, 4, 3):
        assert curve.drop_at(float(noise[0, bits - WIDTHS[0]])) == pytest.approx(at_five, rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_not_finite_under_noise(bad: float) -> None:
    prepared, noise = single_layer()
    state = {name: tensor.clone() for name, tensor in prepared.graph.state_dict().items()}
    scorer = by_error(lambda error: 1.0 if error == 0 else bad)
    with pytest.raises(qpart.CalibrationError, match="it must be finite"):
        drop_curve(prepared, noise, scorer=scorer)
    assert all(torch.equal(state[name], tensor) for name, tensor in prepared.graph.state_dict().items())


def test_a_metric_of_layers_without_noise() -> None:
    prepared, noise = single_layer()
    assert drop_curve(prepared, np.zeros_like(noise), scorer=by_error(lambda error: 1 - error)) is WHITE


# The whole of it.

REQUEST = qpart.Request.paper(0.05)


def require_planned(profile: qpart.Profile) -> None:
    require_monotone(profile.noise_curve)
    for layer in profile.layers:
        assert np.isfinite(layer.noise_by_width).all()
    for value in profile.values:
        assert np.isfinite(value.noise_by_width).all()
    plan = profile.plan(REQUEST, method="exact")
    assert plan.predicted_drop is not None
    assert 0 <= plan.predicted_drop <= 0.05


def test_unlabelled_data() -> None:
    profile = qpart.profile(classifier(), [images(60)], progress=False)
    require_planned(profile)
    split = profile.compile(qpart.Request.paper(0.5), method="exact")
    assert split.plan is not None
    assert split.plan.samples == 30


def test_the_same_seed_gives_the_same_profile() -> None:
    first, again = (qpart.profile(classifier(), [images(60)], progress=False, seed=3) for _ in range(2))
    assert first.layers == again.layers
    assert first.values == again.values
    assert np.array_equal(first.noise_curve.noise, again.noise_curve.noise)


@pytest.mark.parametrize("labelled", [False, True])
def test_a_single_sample(labelled: bool) -> None:
    x = images(1)
    batch = (x, torch.tensor([1])) if labelled else x
    require_planned(qpart.profile(classifier(), [batch], progress=False))


@pytest.mark.parametrize("label", [4, -1, 1000])
def test_labels_out_of_range(label: int) -> None:
    labels = torch.zeros(20, dtype=torch.int64)
    labels[6] = label
    with pytest.raises(qpart.CalibrationError, match=rf"targets run from .*{label}.*the model scores 4 classes"):
        qpart.profile(classifier(), [(images(20), labels)], progress=False)


def test_a_metric_of_a_profile_that_is_nan() -> None:
    def metric(outputs: Any, targets: Any) -> float:
        return math.nan

    with pytest.raises(qpart.CalibrationError, match="the metric returned nan"):
        qpart.profile(classifier(), [images(20)], metric=metric, progress=False)


def test_a_metric_s_profile() -> None:
    x = images(60)
    model = classifier()
    targets = model(x).detach()

    def metric(outputs: Tensor, targets: Tensor) -> float:
        return 1 - float((outputs - targets).square().mean() / targets.square().mean())

    require_planned(qpart.profile(model, [(x, targets)], metric=metric, progress=False))
