"""Accuracy drop over noise: monotone, read in both directions, and true of white noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import ndtri

from qpart_fx import CalibrationError
from qpart_fx.answers import CERTAIN, Answers
from qpart_fx.drop_curve import DropCurve, curve_of_answers, curve_of_levels, curve_of_margins, curve_of_points

Floats = NDArray[np.float64]
margins = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30).map(lambda values: np.array(values, dtype=np.float64))


def simulated_flips(best_margins: Floats, noise: float, scores: int, draws: int = 4000) -> float:
    """The share of answers flipped by white noise of this mean squared norm, where two of the scores compete."""
    random = np.random.default_rng(0)
    white = random.normal(0.0, math.sqrt(noise / scores), (draws, best_margins.size, 2))
    return float((white[..., 1] - white[..., 0] > best_margins).mean())


@pytest.mark.parametrize("scores", [2, 10])
@pytest.mark.parametrize("noise", [0.01, 0.3, 5.0, 200.0])
def test_flips_are_those_of_a_simulation(scores: int, noise: float) -> None:
    best = np.random.default_rng(1).exponential(1.0, 100)
    assert curve_of_margins(best, scores).drop_at(noise) == pytest.approx(
        simulated_flips(best, noise, scores), abs=0.005
    )


def test_one_margin_by_hand() -> None:
    """Two scores, noise 2 in all: the difference has the variance 2, and a margin of sqrt(2) is one deviation."""
    curve = curve_of_margins(np.array([math.sqrt(2)]), 2)
    assert curve.drop_at(2.0) == pytest.approx(0.158655, abs=1e-3)
    assert curve.noise_at(0.158655) == pytest.approx(2.0, rel=1e-2)


@settings(max_examples=100, deadline=None)
@given(margins, st.integers(2, 1000))
def test_a_curve_of_margins_rises_from_nothing_to_a_half(best: Floats, scores: int) -> None:
    curve = curve_of_margins(best, scores)
    assert (np.diff(curve.noise) > 0).all()
    assert (np.diff(curve.drop) >= 0).all()
    assert curve.drop[0] >= 0
    assert curve.drop[-1] <= 0.5
    assert curve.drop_at(0.0) == 0.0


@settings(max_examples=100, deadline=None)
@given(margins, st.lists(st.floats(1e-9, 1e9), min_size=2, max_size=20))
def test_more_noise_never_costs_less(best: Floats, noises: list[float]) -> None:
    curve = curve_of_margins(best, 10)
    drops = [curve.drop_at(noise) for noise in sorted(noises)]
    assert drops == sorted(drops)


@settings(max_examples=100, deadline=None)
@given(margins, st.floats(0.0, 1.0))
def test_the_two_readings_are_inverse(best: Floats, place: float) -> None:
    curve = curve_of_margins(best, 10)
    drop = float(curve.drop[0] + place * (curve.drop[-1] - curve.drop[0]))
    assert curve.drop_at(curve.noise_at(drop)) == pytest.approx(drop, rel=1e-9, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(0.01, 0.45))
def test_so_they_are_from_the_noise_s_side(scale: float, drop: float) -> None:
    curve = curve_of_margins(scale * np.linspace(0.1, 2, 50), 10)
    noise = curve.noise_at(drop)
    assert curve.noise_at(curve.drop_at(noise)) == pytest.approx(noise, rel=1e-9)


@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e4])
def test_scores_on_another_scale_stand_its_square_of_noise(factor: float) -> None:
    best = np.random.default_rng(2).exponential(1.0, 50)
    first, second = curve_of_margins(best, 10), curve_of_margins(factor * best, 10)
    assert second.noise_at(0.05) == pytest.approx(factor**2 * first.noise_at(0.05))


def test_beyond_what_was_measured_the_ends_hold() -> None:
    curve = DropCurve(noise=np.array([1.0, 4.0]), drop=np.array([0.1, 0.3]))
    assert (curve.drop_at(0.01), curve.drop_at(100.0)) == (0.1, 0.3)
    assert (curve.noise_at(0.01), curve.noise_at(0.9)) == pytest.approx((1.0, 4.0))
    assert curve.drop_at(2.0) == pytest.approx(0.2)  # halfway, in logarithms


def test_samples_on_the_fence_flip_at_any_noise() -> None:
    curve = curve_of_margins(np.array([0.0, 1.0, 1.0, 1.0]), 10)
    assert curve.drop_at(1e-6) == pytest.approx(0.125)


def test_a_share_of_few_samples_is_proportional_to_the_deviation_of_the_noise() -> None:
    """Whichever happen to be nearest to zero: here, the margins of 1,000 lie evenly, but for a gap at the lower end."""
    even = np.linspace(0, 1, 1000)
    for margins in (even, even[20:]):
        curve = curve_of_margins(margins, 10)
        least = curve.noise_at(0.003)
        assert curve.noise_at(0.0015) == pytest.approx(least / 4, rel=0.02)
        assert curve.noise_at(0.0003) == pytest.approx(least / 100, rel=0.02)


def test_more_than_half_on_the_fence_are_no_trouble() -> None:
    assert curve_of_margins(np.array([0.0, 0.0, 0.0, 1.0]), 10).drop_at(1e9) == pytest.approx(0.5, abs=0.01)


def test_a_model_that_cannot_decide_is_refused() -> None:
    with pytest.raises(CalibrationError, match="is it trained"):
        curve_of_margins(np.zeros(5), 10)


def test_a_curve_of_points_goes_through_points_that_grow_like_a_root() -> None:
    noise = np.array([1e-4, 1e-3, 1e-2])
    curve = curve_of_points(noise, 3.0 * np.sqrt(noise))
    assert [curve.drop_at(each) for each in noise] == pytest.approx([0.03, 0.0948683, 0.3], rel=2e-3)
    assert curve.drop_at(curve.noise_at(0.02)) == pytest.approx(0.02)
    assert (np.diff(curve.drop) > 0).all()


def test_points_that_say_nothing_are_left_out() -> None:
    noise, drop = np.array([0.0, 1e-3, 1e-2, 1.0, 2.0]), np.array([0.2, -0.1, 0.3, 0.001, 0.9])
    assert curve_of_points(noise, drop).noise_at(0.3) == pytest.approx(1e-2, rel=1e-3)


@pytest.mark.parametrize("drop", [0.0, 0.005, 0.7, -0.2, math.nan])
def test_a_metric_on_another_scale_is_refused_with_the_remedy(drop: float) -> None:
    with pytest.raises(CalibrationError, match="scale it so that it is 1 for a perfect"):
        curve_of_points(np.array([1.0, 2.0]), np.array([drop, drop]))


def rivals(seed: int, samples: int = 60, count: int = 4) -> Floats:
    """Margins over rivals, the nearest first."""
    return np.sort(np.random.default_rng(seed).exponential(1.0, (samples, count)), axis=1)


LINE = np.array([1e-3, 1e-1, 10.0])
"""Noise of some plans."""

NONE = np.zeros(3)
"""No flips of theirs."""


def white(samples: int, count: int = 1, plans: int = 2000) -> Floats:
    """Falls of margins in white noise, those of a sample's rivals independent; the same for every sample."""
    random, quantiles = np.random.default_rng(0), ndtri((np.arange(plans) + 0.5) / plans)
    falls = np.stack([random.permutation(quantiles) for _ in range(count)], axis=1)
    return np.asarray(np.broadcast_to(falls[:, None], (plans, samples, count)))


def curve_of_rivals(
    margins: Floats, spread: Floats, falls: Floats, predicted: Floats, measured: Floats, flips: Floats
) -> DropCurve:
    """That of answers that are all right: each changed one is lost."""
    answers = Answers(margins, np.ones(margins.shape), CERTAIN)
    return curve_of_answers(answers, spread, falls, predicted, measured, flips, flips * len(margins))


@pytest.mark.parametrize("classes", [2, 10])
def test_one_rival_in_white_noise_is_the_curve_of_margins(classes: int) -> None:
    best = np.random.default_rng(1).exponential(1.0, 100)
    found = curve_of_rivals(best[:, None], np.array([2 / classes]), white(100), LINE, LINE, NONE)
    expected = curve_of_margins(best, classes)
    np.testing.assert_allclose(found.noise, expected.noise, rtol=1e-9)
    np.testing.assert_allclose(found.drop, expected.drop, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("noise", [0.05, 0.5, 5.0])
def test_flips_to_any_of_independent_rivals_are_those_of_a_simulation(noise: float) -> None:
    margins, spread = rivals(2), np.array([0.5, 0.3, 1.0, 0.1])
    change = np.random.default_rng(0).normal(0.0, np.sqrt(noise * spread), (4000, *margins.shape))
    flips = float((change > margins).any(axis=2).mean())
    found = curve_of_rivals(margins, spread, white(60, 4), LINE, LINE, NONE)
    assert found.drop_at(noise) == pytest.approx(flips, abs=0.01)


def test_rivals_whose_margins_fall_together_flip_an_answer_once() -> None:
    margins, together = np.ones((60, 4)), np.repeat(white(60), 4, axis=2)
    found = curve_of_rivals(margins, np.ones(4), together, LINE, LINE, NONE)
    alone = curve_of_rivals(margins[:, :1], np.ones(1), white(60), LINE, LINE, NONE)
    np.testing.assert_allclose(found.drop, alone.drop, rtol=1e-9)
    apart = curve_of_rivals(margins, np.ones(4), white(60, 4), LINE, LINE, NONE)
    assert apart.drop_at(1.0) > 2 * found.drop_at(1.0)


def test_margins_that_fall_far_now_and_then_flip_sooner() -> None:
    """One in a hundred falls by seven deviations, the others by next to nothing: no normal noise does that."""
    margins = np.full((1000, 1), 5.0)
    falls = np.tile(np.concatenate([np.full(99, 0.7), np.full(1, 7.0)]), 10).reshape(1, 1000, 1)
    rare = curve_of_rivals(margins, np.ones(1), falls, LINE, LINE, NONE)
    assert rare.drop_at(1.0) == pytest.approx(0.01, rel=0.01)
    assert curve_of_rivals(margins, np.ones(1), white(1000, plans=500), LINE, LINE, NONE).drop_at(1.0) < 0.003


@pytest.mark.parametrize("factor", [0.3, 1.0, 3.0])
def test_what_plans_flipped_counts_where_chance_does_not_explain_it(factor: float) -> None:
    margins, falls = rivals(4, samples=5000, count=1), white(5000, plans=60)
    plain = curve_of_rivals(margins, np.ones(1), falls, LINE, LINE, NONE)
    expected = np.array([plain.drop_at(float(noise)) for noise in LINE])
    found = curve_of_rivals(margins, np.ones(1), falls, LINE, LINE, expected * np.array([1.0, factor, 1.0]))
    known = math.sqrt(factor) if factor < 1 else factor  # half of the way down
    assert found.drop_at(LINE[1]) == pytest.approx(known * expected[1], rel=0.1)
    assert found.drop_at(LINE[0]) == pytest.approx(expected[0], rel=0.02)


def test_noise_is_read_as_it_is_predicted() -> None:
    """Four times what was predicted at the first level, as predicted at the last, geometric in between."""
    margins, spread, falls = rivals(3), np.full(4, 0.5), white(60, 4)
    plain = curve_of_rivals(margins, spread, falls, LINE, LINE, NONE)
    measured = np.array([4.0, 16.0])
    found = curve_of_rivals(margins, spread, falls, np.array([1.0, 16.0]), measured, NONE[:2])
    # the curve is made of straight pieces between 256 points
    for actual, predicted in ((4.0, 1.0), (16.0, 16.0), (8.0, 4.0), (0.04, 0.01), (160.0, 160.0)):
        assert found.drop_at(predicted) == pytest.approx(plain.drop_at(actual), rel=2e-2)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 10))
def test_a_curve_of_rivals_is_monotone_whatever_was_measured(seed: int, plans: int, count: int) -> None:
    random = np.random.default_rng(seed)
    predicted = np.cumsum(10.0 ** random.uniform(-6, 3, plans))
    measured = np.maximum.accumulate(10.0 ** random.uniform(-6, 3, plans))
    curve = curve_of_rivals(
        rivals(seed, 20, count),
        10.0 ** random.uniform(-3, 1, count),
        white(20, count, plans=50),
        predicted,
        measured,
        random.uniform(0, 1, plans),
    )
    assert np.isfinite(curve.noise).all()
    assert (curve.noise > 0).all()
    assert (np.diff(curve.noise) >= 0).all()
    assert (np.diff(curve.drop) >= 0).all()
    assert curve.drop[0] >= 0
    assert curve.drop[-1] <= 1
    noises = 10.0 ** np.sort(random.uniform(-12, 8, 30))
    drops = [curve.drop_at(float(noise)) for noise in noises]
    assert drops == sorted(drops)


def test_falls_of_few_samples_serve_for_many() -> None:
    margins = rivals(5, samples=500)
    few, all_ = (
        curve_of_rivals(margins, np.ones(4), white(count, 4, plans=50), LINE, LINE, NONE) for count in (20, 500)
    )
    np.testing.assert_allclose(few.drop, all_.drop, rtol=1e-9)


@pytest.mark.parametrize("temperature", [0.05, 0.5, 5.0])
def test_answers_of_a_model_that_doubts_cost_what_a_simulation_loses(temperature: float) -> None:
    """Labels drawn as likely as the scores say, noise on the scores, answers counted that were right and that are."""
    random = np.random.default_rng(0)
    scores = random.normal(size=(4000, 3))
    chances = np.exp(scores / temperature)
    chances /= chances.sum(axis=1, keepdims=True)
    order = np.argsort(-scores, axis=1)
    best, likely = np.take_along_axis(scores, order, 1), np.take_along_axis(chances, order, 1)
    answers = Answers(best[:, :1] - best[:, 1:], likely[:, :1] - likely[:, 1:], temperature)
    change = random.normal(size=(8, *best.shape))
    falls = -(change[..., :1] - change[..., 1:]) / math.sqrt(2)  # the noise of 3 scores is 3: 2 of it on a difference
    curve = curve_of_answers(answers, np.full(2, 2 / 3), falls, LINE, LINE, NONE, NONE)
    for noise in (0.01, 0.1, 1.0):
        noisy = best + math.sqrt(noise / 3) * random.normal(size=(50, *best.shape))
        now = np.take_along_axis(np.broadcast_to(likely, noisy.shape), noisy.argmax(axis=2)[..., None], 2)[..., 0]
        assert curve.drop_at(noise) == pytest.approx((likely[:, 0] - now).mean(), rel=0.1, abs=2e-5)
        assert curve.flipped_at(noise) == pytest.approx((noisy.argmax(axis=2) != 0).mean(), rel=0.1)


def test_margins_that_are_all_equal_flip_together() -> None:
    curve = curve_of_rivals(np.full((10, 1), 2.0), np.array([0.5]), white(10), LINE, LINE, NONE)
    assert curve.drop_at(8.0) == pytest.approx(0.158655, abs=1e-3)  # a deviation of 2
    assert curve.drop_at(1e-12) == pytest.approx(0.0, abs=1e-3)


def test_rivals_on_the_fence_are_no_trouble() -> None:
    margins = np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 2.0]])
    curve = curve_of_rivals(margins, np.ones(2), white(3, 2), LINE, LINE, NONE)
    assert np.isfinite(curve.noise).all()
    assert curve.drop[0] == pytest.approx(1 / 3)


def test_a_curve_of_levels_goes_through_them_and_is_a_root_below() -> None:
    noise, drop = np.array([1.0, 4.0, 50.0]), np.array([0.01, 0.03, 0.6])
    curve = curve_of_levels(noise, drop)
    assert curve is not None
    assert [curve.drop_at(each) for each in noise] == pytest.approx(drop)
    assert [curve.noise_at(each) for each in drop] == pytest.approx(noise)
    assert curve.drop_at(1 / 4) == pytest.approx(0.005, rel=2e-2)
    assert curve.drop_at(1e-4) == pytest.approx(1e-4, rel=2e-2)
    assert curve.drop_at(1e9) == 0.6


def test_a_curve_of_one_level() -> None:
    curve = curve_of_levels(np.array([2.0]), np.array([0.1]))
    assert curve is not None
    assert curve.noise_at(0.05) == pytest.approx(0.5, rel=2e-2)
    assert [curve.drop_at(2.0), curve.drop_at(200.0)] == pytest.approx([0.1, 0.1])


def test_levels_that_lose_less_than_those_before_cost_what_those_did() -> None:
    curve = curve_of_levels(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.05, 0.02, -0.3, 0.2]))
    assert curve is not None
    assert [curve.drop_at(each) for each in (1.0, 2.0, 3.0, 4.0)] == pytest.approx([0.05, 0.05, 0.05, 0.2])


def test_levels_at_which_nothing_is_lost_are_left_out() -> None:
    found = curve_of_levels(np.array([0.0, 0.1, 1.0, 4.0]), np.array([0.0, 0.0005, 0.3, 0.4]))
    expected = curve_of_levels(np.array([1.0, 4.0]), np.array([0.3, 0.4]))
    assert found is not None
    assert expected is not None
    assert np.array_equal(found.noise, expected.noise)
    assert np.array_equal(found.drop, expected.drop)


@pytest.mark.parametrize(
    ("noise", "drop"),
    [
        ([], []),
        ([1.0, 2.0], [0.0, 0.0]),
        ([1.0, 2.0], [-0.1, 0.0005]),
        ([1.0, 2.0], [0.5, 0.7]),
        ([1.0, 2.0], [0.0, 0.9]),
        ([0.0], [0.1]),
        ([1.0], [math.nan]),
    ],
)
def test_levels_that_do_not_show_where_a_metric_breaks(noise: list[float], drop: list[float]) -> None:
    assert curve_of_levels(np.array(noise), np.array(drop)) is None


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6))
def test_a_curve_of_levels_is_monotone_whatever_was_lost(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    curve = curve_of_levels(np.cumsum(10.0 ** random.uniform(-6, 3, count)), random.uniform(-0.2, 1.0, count))
    if curve is not None:
        assert (np.diff(curve.noise) > 0).all()
        assert (np.diff(curve.drop) >= 0).all()
        assert curve.drop[0] > 0
