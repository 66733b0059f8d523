"""Noise by width from what was measured, and the noise at which accuracy breaks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qpart_fx.drop_curve import DropCurve, curve_of_margins
from qpart_fx.noise import (
    LOW,
    MEASURED,
    WIDTHS,
    NoiseTable,
    between_measured,
    corrected,
    noise_at_zero_bits,
    noise_by_width,
)

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
    assert noise_at_zero_bits(measured) == pytest.approx(factor[:, 0])
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
    table = noise_by_width(np.array([[0.3, 0.06, 0.03, 0.03, 0.0]]))[0]
    assert table[WIDTHS.index(7)] > 0.03 / 100


def test_between_measured_is_the_line_where_the_measurements_are() -> None:
    factor = np.array([[3.0], [1e-9]])
    measured = factor * 4.0 ** -np.array(MEASURED, dtype=float)
    assert between_measured(measured) == pytest.approx(factor * 4.0 ** -np.array(WIDTHS, dtype=float))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_between_measured_goes_through_the_measurements_and_on_along_the_line(seed: int) -> None:
    measured = measurements(seed)
    table = between_measured(measured)
    assert table.shape == (3, len(WIDTHS))
    np.testing.assert_allclose(table[:, AT_MEASURED], measured, rtol=1e-9)
    beyond = table[:, AT_MEASURED[-1] :]
    np.testing.assert_allclose(beyond[:, :-1] / beyond[:, 1:], 4.0)
    five = 4.0 * np.sqrt(measured[:, 2] / 16 * measured[:, 3])  # the factors of 4 and 6 bits, in the middle
    np.testing.assert_allclose(table[:, WIDTHS.index(5)], five, rtol=1e-9)


@pytest.mark.filterwarnings("error")
def test_between_measured_has_next_to_nothing_of_nothing() -> None:
    table = between_measured(np.array([[0.0] * 5, [1.0, 0.0, 0.1, 0.01, 1e-4]]))
    assert np.isfinite(table).all()
    assert (table[0] < 1e-290).all()
    assert table[1, WIDTHS.index(3)] < 1e-290
    assert table[1, [0, *AT_MEASURED[2:]]] == pytest.approx([1.0, 0.1, 0.01, 1e-4])


def predictions(seed: int, rows: int = 3) -> Floats:
    random = np.random.default_rng(seed)
    return np.asarray(10.0 ** random.uniform(-6, 6, (rows, 1)) * 4.0 ** -np.array(WIDTHS, dtype=float))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([MEASURED, LOW, (*LOW, 6), (5,)]))
def test_corrected_is_what_was_measured_where_it_was_and_scaled_alike_beyond(
    seed: int, widths: tuple[int, ...]
) -> None:
    predicted = predictions(seed)
    before = predicted.copy()
    measured = measurements(seed)[:, : len(widths)]
    table = corrected(predicted, measured, widths)
    columns = [WIDTHS.index(width) for width in widths]
    np.testing.assert_allclose(table[:, columns], measured, rtol=1e-9)
    ratio = table / predicted
    np.testing.assert_allclose(ratio[:, columns[-1] :], ratio[:, [columns[-1]]].repeat(len(WIDTHS) - columns[-1], 1))
    np.testing.assert_allclose(ratio[:, : columns[0]], ratio[:, [columns[0]]].repeat(columns[0], 1))
    assert np.array_equal(predicted, before)


def test_corrected_is_geometric_between_the_widths_measured() -> None:
    predicted = np.full((1, len(WIDTHS)), 2.0)
    table = corrected(predicted, np.array([[8.0, 2.0, 2.0, 32.0]]), (2, 3, 4, 6))
    assert table[0, :7] == pytest.approx([8.0, 2.0, 2.0, 8.0, 32.0, 32.0, 32.0])


def test_a_prediction_that_was_right_stays() -> None:
    predicted = predictions(3)
    np.testing.assert_allclose(corrected(predicted, predicted[:, AT_MEASURED]), predicted, rtol=1e-12)


@pytest.mark.filterwarnings("error")
def test_corrected_keeps_rows_in_which_something_is_zero() -> None:
    predicted, measured = predictions(7, rows=4), measurements(8, rows=4)
    predicted[0], predicted[1, 3], measured[2, 1] = 0.0, 0.0, 0.0
    table = corrected(predicted, measured)
    assert np.array_equal(table[:3], predicted[:3])
    np.testing.assert_allclose(table[3, AT_MEASURED], measured[3], rtol=1e-9)


def test_corrected_of_nothing_is_nothing() -> None:
    assert corrected(np.zeros((0, len(WIDTHS))), np.zeros((0, len(LOW))), LOW).shape == (0, len(WIDTHS))


def table_of(noise: list[float], drop: list[float], samples: int = 1000) -> NoiseTable:
    return NoiseTable(np.array([noise]), np.array([drop]), samples)


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
    found = NoiseTable(noise, random.uniform(-0.05, 1, noise.shape), 96).at_drop(drop, curve)
    assert np.isfinite(found).all()
    assert (found > 0).all()
