"""The closed form of eqs. 27, 39 and 40, against a numerical optimiser, and its rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize

from qpart_fx.noise import WIDTHS
from qpart_fx.solver.closed_form import closed_form_bits, narrowest, round_up, shares

Floats = NDArray[np.float64]
Instance = tuple[Floats, Floats, float]


@st.composite
def instances(draw: st.DrawFn) -> Instance:
    """Sizes, degradations at zero bits, and a budget that is met at some 2 to 12 bits."""
    layers = draw(st.integers(1, 8))
    sizes = draw(st.lists(st.floats(1.0, 1e6), min_size=layers, max_size=layers))
    noises = draw(st.lists(st.floats(1e-3, 1e3), min_size=layers, max_size=layers))
    return np.array(sizes), np.array(noises), sum(noises) * 4.0 ** -draw(st.floats(2, 12))


def degradation(noises: Floats, bits: Floats) -> Floats:
    return np.asarray(noises * 4.0**-bits)


def on_the_line(noises: Floats) -> Floats:
    """Eqs. 18 and 19 at every width."""
    return np.asarray(noises[:, None] * 4.0 ** -np.array(WIDTHS, dtype=np.float64))


def off_the_line(noises: Floats, seed: int) -> Floats:
    """Like a measurement: anywhere above the line, but never rising."""
    factors = np.random.default_rng(seed).uniform(1, 30, (noises.size, len(WIDTHS)))
    return np.asarray(np.maximum.accumulate((on_the_line(noises) * factors)[:, ::-1], axis=1)[:, ::-1])


@settings(max_examples=25, deadline=None)
@given(instances())
def test_no_optimiser_finds_less(instance: Instance) -> None:
    """Sequential quadratic programming on eq. 23, from a start that knows nothing of the answer."""
    sizes, noises, budget = instance
    assume(sizes.max() / sizes.min() < 1e3)  # beyond, the optimiser stops early
    weights = sizes / sizes.sum()
    limit: dict[str, Any] = {
        "type": "ineq",
        "fun": lambda bits: np.log(budget) - np.log(degradation(noises, bits).sum()),
        "jac": lambda bits: np.log(4) * degradation(noises, bits) / degradation(noises, bits).sum(),
    }
    start = np.full(sizes.size, np.log2(noises.sum() / budget) / 2 + 1)
    found = minimize(
        lambda bits: weights @ bits,
        start,
        jac=lambda bits: weights,
        constraints=[limit],
        method="SLSQP",
        options={"maxiter": 1000, "ftol": 1e-12},
    )
    assume(found.success)
    assert weights @ closed_form_bits(sizes, noises, budget) == pytest.approx(found.fun, rel=1e-4, abs=1e-4)


@settings(max_examples=100, deadline=None)
@given(instances())
def test_it_is_the_optimum_of_the_dual(instance: Instance) -> None:
    """For a multiplier m each layer takes b = log4(ln4 * m * s / z); a search finds the m that spends the budget."""
    sizes, noises, budget = instance

    def bits(log_multiplier: float) -> Floats:
        return np.asarray(np.log2(np.log(4) * np.exp(log_multiplier) * noises / sizes) / 2)

    multiplier = brentq(lambda m: np.log(degradation(noises, bits(m)).sum() / budget), -100, 100, xtol=1e-13)
    assert closed_form_bits(sizes, noises, budget) == pytest.approx(bits(multiplier), abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(instances())
def test_the_budget_is_spent_in_proportion_to_size(instance: Instance) -> None:
    sizes, noises, budget = instance
    spent = degradation(noises, closed_form_bits(sizes, noises, budget))
    assert spent.sum() == pytest.approx(budget, rel=1e-9)
    assert spent / sizes == pytest.approx(np.full(sizes.size, budget / sizes.sum()), rel=1e-9)  # eq. 27
    assert shares(sizes, budget) == pytest.approx(spent, rel=1e-9)


def test_eq_40_by_hand() -> None:
    bits = closed_form_bits(np.array([100.0, 300.0]), np.array([1.0, 12.0]), 1 / 64)
    assert bits == pytest.approx([4.0, 5.0])  # 1 / 4^4 + 12 / 4^5 = 1/64


def test_a_layer_without_noise_needs_no_bits() -> None:
    assert closed_form_bits(np.array([1.0, 1.0]), np.array([0.0, 8.0]), 1.0).tolist() == [-np.inf, 2.0]


@settings(max_examples=100, deadline=None)
@given(instances())
def test_on_the_line_the_narrowest_width_is_the_closed_form_rounded_up(instance: Instance) -> None:
    sizes, noises, budget = instance
    exact = closed_form_bits(sizes, noises, budget)
    assume((np.abs(exact - np.round(exact)) > 1e-6).all())
    found = narrowest(on_the_line(noises), shares(sizes, budget), WIDTHS)
    assert found.tolist() == np.clip(np.ceil(exact), WIDTHS[0], WIDTHS[-1] + 1).astype(int).tolist()


@pytest.mark.parametrize("width", WIDTHS)
def test_a_width_that_is_hit_exactly_is_enough(width: int) -> None:
    noises = np.array([3.0, 7.0])
    assert narrowest(on_the_line(noises), noises * 4.0**-width, WIDTHS).tolist() == [width, width]


@settings(max_examples=100, deadline=None)
@given(instances(), st.sets(st.integers(2, 16), min_size=1), st.integers(0, 2**32))
def test_rounding_keeps_the_budget(instance: Instance, device: set[int], seed: int) -> None:
    """On any table that does not rise, on the line or not, wherever the device has a width that is enough."""
    sizes, noises, budget = instance
    table, share = off_the_line(noises, seed), shares(sizes, budget)
    needed = narrowest(table, share, WIDTHS)
    bits = round_up(needed, sorted(device))
    assert set(bits.tolist()) <= device
    spent = table[np.arange(sizes.size), bits - WIDTHS[0]]
    enough = needed <= max(device)
    assert (spent <= share * (1 + 1e-8)).tolist() == enough.tolist()
    assert spent.sum() <= budget * (1 + 1e-8) or not enough.all()


@settings(max_examples=50, deadline=None)
@given(instances(), st.integers(0, 2**32))
def test_no_narrower_width_keeps_its_share(instance: Instance, seed: int) -> None:
    sizes, noises, budget = instance
    table, share = off_the_line(noises, seed), shares(sizes, budget)
    for row, width in enumerate(narrowest(table, share, WIDTHS)):
        assert all(table[row, narrower - WIDTHS[0]] > share[row] for narrower in WIDTHS if narrower < width)


def test_where_no_width_is_enough_it_is_said() -> None:
    table = np.ones((2, len(WIDTHS)))
    assert narrowest(table, np.array([0.5, 1.0]), WIDTHS).tolist() == [17, 2]


def test_a_device_s_next_width_is_taken_and_its_widest_where_none_is_enough() -> None:
    assert round_up(np.array([2, 4, 5, 8, 9, 17]), (8, 4)).tolist() == [4, 4, 8, 8, 8, 8]
