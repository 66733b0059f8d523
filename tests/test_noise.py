"""Noise by width from what was measured, and the noise at which accuracy breaks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qpart_fx.drop_curve import DropCurve, curve_of_margins
from qpart_fx.noise import LOW, MEASURED, WIDTHS, Estimate, NoiseTable, by_width, combined, noise_by_width

Floats = NDArray[np.float64]
AT_MEASURED = [WIDTHS.index(width) for width in MEASURED]


def measurements(seed: int, rows: int = 3) -> Floats:
    """Noise at ``MEASURED``: about the line of eqs. 18 and 19, up to a hundred times off, and not always falling."""
    random = np.random.default_rng(seed)
    line = 10.0 ** random.uniform(-6, 6, (rows, 1)) * 4.0 ** -np.array(MEASURED, dtype=float)
    return np.asarray(line * 10.0 ** random.uniform(-1, 1, line.shape))


def margins(seed: int, samples: int = 200) -> Floats:
    return np.random.default_rng(seed).exponential(1.0, samples)


def test_on_the_line_the_table_is_the_line() -> None:
    factor = np.array([[3.0], [1e-9]])
    measured = factor * 4.0 ** -np.array(MEASURED, dtype=float)
    assert noise_by_width(measured) == pytest.approx(factor * 4.0 ** -np.array(WIDTHS, dtype=float))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_noise_never_rises_with_the_width(seed: int) -> None:
    table = noise_by_width(measurements(seed))
    assert table.shape == (3, len(WIDTHS))
    assert np.isfinite(table).all()
    assert (np.diff(table, axis=1) <= 0).all()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_noise_is_never_below_what_was_measured_at_low_widths(seed: int) -> None:
    measured = measurements(seed)
    table = noise_by_width(measured)
    for column, width in enumerate(MEASURED):
        if width < 4:
            assert (table[:, WIDTHS.index(width)] >= measured[:, column] * (1 - 1e-12)).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_beyond_what_was_measured_noise_falls_fourfold_a_bit(seed: int) -> None:
    table = noise_by_width(measurements(seed))[:, AT_MEASURED[-1] + 1 :]
    assert table[:, :-1] / table[:, 1:] == pytest.approx(np.full((3, table.shape[1] - 1), 4.0))


def test_rows_do_not_depend_on_each_other() -> None:
    measured = measurements(5)
    assert np.array_equal(noise_by_width(measured)[1:2], noise_by_width(measured[1:2]))


@pytest.mark.filterwarnings("error")
def test_what_makes_no_noise_makes_none_at_any_width() -> None:
    assert not noise_by_width(np.zeros((2, len(MEASURED)))).any()


def test_between_a_width_with_noise_and_one_without_there_is_some() -> None:
    """Noise of what is rounded anyway ends somewhere between 6 and 9 bits: 7 are not known to be free of it."""
    table = noise_by_width(np.array([[0.3, 0.06, 0.03, 0.03, 0.03, 0.0]]))[0]
    assert table[WIDTHS.index(7)] > 0.03 / 100


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([MEASURED, (4, 6, 9), (4, 5, 8, 14)]))
def test_by_width_goes_through_what_is_given_and_on_along_the_line(seed: int, widths: tuple[int, ...]) -> None:
    random = np.random.default_rng(seed)
    given_noise = 10.0 ** random.uniform(-6, 6, (3, len(widths)))
    table = by_width(given_noise, widths)
    assert table.shape == (3, len(WIDTHS))
    columns = [WIDTHS.index(width) for width in widths]
    np.testing.assert_allclose(table[:, columns], given_noise, rtol=1e-9)
    beyond = table[:, columns[-1] :]
    np.testing.assert_allclose(beyond[:, :-1] / beyond[:, 1:], 4.0)


def test_by_width_is_geometric_between() -> None:
    table = by_width(np.array([[16.0, 1.0]]), (4, 6))
    assert table[0, WIDTHS.index(5)] == pytest.approx(4.0)
    assert by_width(np.zeros((0, 2)), (4, 6)).shape == (0, len(WIDTHS))


def predictions(seed: int, rows: int = 3, error: float = 0.1) -> Estimate:
    random = np.random.default_rng(seed)
    noise = 10.0 ** random.uniform(-6, 6, (rows, 1)) * 4.0 ** -np.array(WIDTHS, dtype=float)
    return Estimate(np.asarray(noise), np.full(noise.shape, error))


def exactly(noise: Floats, error: float = 0.0) -> Estimate:
    return Estimate(noise, np.full(noise.shape, error))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([MEASURED, LOW]))
def test_what_was_measured_without_error_stands_where_it_was_measured(seed: int, widths: tuple[int, ...]) -> None:
    predicted = predictions(seed, error=0.0)
    before = predicted.noise.copy()
    measured = measurements(seed)[:, : len(widths)]
    table = combined(predicted, exactly(measured), widths)
    columns = [WIDTHS.index(width) for width in widths]
    np.testing.assert_allclose(table[:, columns], measured, rtol=1e-9)
    assert np.array_equal(predicted.noise, before)


def test_beyond_the_widths_measured_half_of_the_difference_is_left_at_every_bit() -> None:
    predicted = predictions(3, error=0.0)
    measured = predicted.noise[:, [WIDTHS.index(width) for width in LOW]] * 16.0
    ratio = combined(predicted, exactly(measured), LOW) / predicted.noise
    np.testing.assert_allclose(ratio[:, WIDTHS.index(4) :], 16.0**0.5 ** np.arange(13.0)[None].repeat(3, 0))


def test_a_difference_that_errors_explain_is_none() -> None:
    predicted = predictions(4, error=0.2)
    places = [WIDTHS.index(width) for width in MEASURED]
    near = exactly(predicted.noise[:, places] * 1.2, error=0.1)
    np.testing.assert_allclose(combined(predicted, near, MEASURED)[:, 2:], predicted.noise[:, 2:], rtol=1e-12)
    far = exactly(predicted.noise[:, places] * 30.0, error=0.1)
    ratio = combined(predicted, far, MEASURED)[:, places] / predicted.noise[:, places]
    assert ((ratio > 28) & (ratio <= 30 * (1 + 1e-9))).all()


def test_below_the_widths_predicted_only_measurements_count() -> None:
    predicted = predictions(5, error=10.0)
    measured = measurements(6)
    table = combined(predicted, exactly(measured, error=10.0), MEASURED)
    assert np.array_equal(table[:, :2], measured[:, :2])


@pytest.mark.filterwarnings("error")
def test_where_nothing_was_measured_because_the_model_broke_noise_rises_fourfold_a_bit() -> None:
    predicted = predictions(7)
    measured = measurements(8)
    measured[0, :2], measured[1, 0] = np.nan, np.nan
    table = combined(predicted, exactly(measured), MEASURED)
    assert table[0, 0] == 4 * table[0, 1] == 16 * table[0, 2]
    assert table[1, 1] == measured[1, 1]
    assert table[1, 0] == 4 * measured[1, 1]
    assert np.isfinite(table).all()


@pytest.mark.filterwarnings("error")
def test_predictions_stay_where_nothing_was_seen() -> None:
    predicted = predictions(9)
    table = combined(predicted, exactly(np.zeros((3, len(MEASURED)))), MEASURED)
    np.testing.assert_allclose(table[:, 2:], predicted.noise[:, 2:], rtol=1e-12)


def test_combined_of_nothing_is_nothing() -> None:
    nothing = predictions(0, rows=0)
    assert combined(nothing, exactly(np.zeros((0, len(LOW)))), LOW).shape == (0, len(WIDTHS))


def test_an_estimate_is_the_mean_and_its_relative_standard_error() -> None:
    draws = np.random.default_rng(0).exponential(3.0, (10_000, 2, 3))
    found = Estimate.of(draws)
    np.testing.assert_allclose(found.noise, 3.0, rtol=0.05)
    np.testing.assert_allclose(found.error, 0.01, rtol=0.1)
    single = Estimate.of(draws[:1])
    assert np.array_equal(single.noise, draws[0])
    assert (single.error == 1.0).all()
    assert np.isfinite(Estimate.of(np.zeros((5, 1, 1))).error).all()


def table_of(noise: list[float], drop: list[float], samples: int = 1000) -> NoiseTable:
    return NoiseTable(np.array([noise]), np.zeros((1, len(noise))), np.array([drop]), samples)


def test_a_row_on_the_curve_breaks_where_the_curve_says() -> None:
    curve = curve_of_margins(margins(0), 10)
    noise = [curve.noise_at(drop) for drop in (0.3, 0.12, 0.05, 0.01, 0.002)]
    table = table_of(noise, [0.3, 0.12, 0.05, 0.01, 0.002])
    assert table.at_drop(0.1, curve) == pytest.approx([curve.noise_at(0.1)], rel=1e-6)


def test_a_row_that_stands_ten_times_the_noise_breaks_at_ten_times_the_noise() -> None:
    curve = curve_of_margins(margins(0), 10)
    drops = [0.3, 0.12, 0.05, 0.01, 0.002]
    table = table_of([10 * curve.noise_at(drop) for drop in drops], drops)
    assert table.at_drop(0.1, curve) == pytest.approx([10 * curve.noise_at(0.1)], rel=1e-6)


@pytest.mark.parametrize("drop", [0.0, 0.0004, 0.45, 0.9])
def test_a_row_that_no_width_disturbs_or_every_width_breaks_stands_what_the_output_does(drop: float) -> None:
    curve = curve_of_margins(margins(0), 10)
    width = len(MEASURED)
    assert table_of([1.0] * width, [drop] * width).at_drop(0.1, curve).tolist() == [curve.noise_at(0.1)]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.floats(1e-3, 0.3))
def test_robustness_is_positive_and_finite_whatever_was_measured(seed: int, drop: float) -> None:
    random = np.random.default_rng(seed)
    curve: DropCurve = curve_of_margins(margins(seed), 10)
    noise = measurements(seed) * random.integers(0, 2, (3, 1))
    found = NoiseTable(noise, noise, random.uniform(-0.05, 1, noise.shape), 96).at_drop(drop, curve)
    assert np.isfinite(found).all()
    assert (found > 0).all()
