"""Accuracy drop over noise: monotone, read in both directions, and true of white noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qpart_fx import CalibrationError
from qpart_fx.drop_curve import DropCurve, curve_of_margins, curve_of_points

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
