"""The bound on the drop: it keeps its confidence, it is tight, and it moves the way it should."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom

from qpart_fx import RequestError
from qpart_fx.confidence import drop_upper_bound, drop_upper_bound_at, samples_needed, share_upper_bound

confidences = st.floats(0.5, 0.9999)
thousandths = st.integers(0, 200).map(lambda count: count / 1000)


@st.composite
def counts(draw: st.DrawFn, most: int = 400) -> tuple[int, int, int]:
    """(lost, gained, samples)"""
    samples = draw(st.integers(1, most))
    lost = draw(st.integers(0, samples))
    return lost, draw(st.integers(0, samples - lost)), samples


def worst_miss(samples: int, confidence: float) -> float:
    """How often the bound lies below the true drop, at the drop and the share of unchanged answers that are worst.

    The shares of answers (lost, same, gained) with a drop d are mixtures of (d, 1 - d, 0) and ((1 + d) / 2, 0,
    (1 - d) / 2). So they are covered if the samples are, whatever the number that comes from the first of the two.
    And while d grows the misses grow rarer, until it passes a value that the bound can take.
    """
    bounds = np.full((samples + 1, samples + 1), 2.0)
    for lost in range(samples + 1):
        for gained in range(samples + 1 - lost):
            bounds[lost, gained] = drop_upper_bound(lost, gained, samples, confidence)
    worst = 0.0
    for drop in np.unique(bounds[bounds < 1]) + 1e-9:  # the bound itself may be 1e-9 too high
        for first in range(samples + 1):
            lost_first, lost_second = np.arange(first + 1)[:, None], np.arange(samples - first + 1)[None]
            chance = binom.pmf(lost_first, first, drop) * binom.pmf(lost_second, samples - first, (1 + drop) / 2)
            missed = bounds[lost_first + lost_second, samples - first - lost_second] < drop
            worst = max(worst, float(chance[missed].sum()))
    return worst


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("samples", [1, 2, 5, 9])
def test_few_samples_keep_the_confidence_whatever_the_truth(samples: int, confidence: float) -> None:
    assert worst_miss(samples, confidence) == pytest.approx(1 - confidence, rel=1e-4)  # no more, and no less


@pytest.mark.slow
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.975, 0.9875, 0.999, 0.999999])
@pytest.mark.parametrize("samples", [14, 20, 30])
def test_so_do_more_samples(samples: int, confidence: float) -> None:
    assert worst_miss(samples, confidence) <= (1 - confidence) * 1.0001


@pytest.mark.parametrize(
    ("lost", "gained"), [(0.001, 0.0), (0.01, 0.0), (0.003, 0.001), (0.02, 0.01), (0.01, 0.01), (0.3, 0.2), (0.6, 0.4)]
)
def test_many_samples_keep_it_in_simulated_runs(lost: float, gained: float) -> None:
    samples, runs = 1000, 4000
    random = np.random.default_rng(0)
    drawn = random.multinomial(samples, [lost, gained, 1 - lost - gained], runs)
    bound = cache(lambda losses, gains: drop_upper_bound(losses, gains, samples, 0.95))
    missed = sum(bound(int(losses), int(gains)) < lost - gained for losses, gains, _ in drawn)
    assert missed / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


@settings(max_examples=100, deadline=None)
@given(counts(), confidences)
def test_between_what_was_measured_and_what_losses_alone_say(count: tuple[int, int, int], confidence: float) -> None:
    lost, gained, samples = count
    bound = drop_upper_bound(lost, gained, samples, confidence)
    assert max(0.0, (lost - gained) / samples) <= bound <= share_upper_bound(lost, samples, confidence) <= 1


@settings(max_examples=100, deadline=None)
@given(counts(), confidences)
def test_it_moves_the_way_it_should(count: tuple[int, int, int], confidence: float) -> None:
    lost, gained, samples = count
    bound = drop_upper_bound(lost, gained, samples, confidence)
    slack = 2e-9
    assert drop_upper_bound(lost + 1, gained, samples + 1, confidence) >= bound - slack
    assert drop_upper_bound(lost, gained + 1, samples + 1, confidence) <= bound + slack
    assert drop_upper_bound(lost, gained, samples + 1, confidence) <= bound + slack
    assert drop_upper_bound(lost, gained, samples, (1 + confidence) / 2) >= bound - slack
    if lost + gained < samples:
        assert drop_upper_bound(lost + 1, gained, samples, confidence) >= bound - slack
        assert drop_upper_bound(lost, gained + 1, samples, confidence) <= bound + slack


@settings(max_examples=20, deadline=None)
@given(counts(most=40), st.floats(0.6, 0.99))
def test_it_is_a_quantile_of_randomly_weighted_means(count: tuple[int, int, int], confidence: float) -> None:
    """Gaffke's own words: the samples and one more of 1, weighted by the gaps between uniform numbers."""
    lost, gained, samples = count
    values = np.repeat([1.0, 0.0, -1.0], [lost + 1, samples - lost - gained, gained])
    points = np.sort(np.random.default_rng(0).random((20_000, samples)), axis=1)
    means: NDArray[np.float64] = np.diff(points, axis=1, prepend=0.0, append=1.0) @ values
    bound = drop_upper_bound(lost, gained, samples, confidence)
    above = float((means > bound + 1e-9).mean())
    assert above <= 1 - confidence + 0.015
    if bound > max(0.0, (lost - gained) / samples):
        assert above >= 1 - confidence - 0.015


@pytest.mark.parametrize("samples", [1, 30, 300, 10_000])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_without_losses_it_is_the_power_of_the_risk(samples: int, confidence: float) -> None:
    assert drop_upper_bound(0, 0, samples, confidence) == pytest.approx(1 - (1 - confidence) ** (1 / samples))


def test_without_gains_it_is_where_so_few_losses_get_unlikely() -> None:
    assert float(binom.cdf(7, 500, drop_upper_bound(7, 0, 500, 0.95))) == pytest.approx(0.05)


def test_without_unchanged_answers_it_is_a_binomial_bound_on_another_scale() -> None:
    bound = drop_upper_bound(12, 8, 20, 0.95)
    assert bound == pytest.approx(2 * share_upper_bound(12, 20, 0.95) - 1, abs=1e-8)


def test_gains_count_against_losses() -> None:
    bounds = [drop_upper_bound(30, gained, 3000, 0.95) for gained in (0, 1, 10, 30)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] < 0.4 * bounds[0]


@pytest.mark.parametrize(
    ("count", "bound"),
    [((0, 0, 0), 1.0), ((1, 0, 1), 1.0), ((0, 0, 1), 0.95), ((50, 0, 50), 1.0), ((0, 50, 50), 0.0)],
)
def test_ends(count: tuple[int, int, int], bound: float) -> None:
    assert drop_upper_bound(*count, 0.95) == pytest.approx(bound)


def test_a_million_samples_are_no_trouble() -> None:
    bound = drop_upper_bound(10_000, 5_000, 1_000_000, 0.95)
    assert bound == pytest.approx(0.005 + 1.645 * math.sqrt(15_000) / 1e6, rel=0.01)


@pytest.mark.parametrize("gained", [0, 4])
def test_risks_too_small_for_a_confidence(gained: int) -> None:
    bounds = [drop_upper_bound_at(7, gained, 500, risk) for risk in (0.05, 1e-17, 1e-40, 1e-250, 0.0)]
    assert bounds == sorted(set(bounds))
    assert bounds[0] == pytest.approx(drop_upper_bound(7, gained, 500, 0.95))
    assert bounds[-1] == 1.0


def test_without_gains_they_are_exact_too() -> None:
    assert float(binom.cdf(7, 500, drop_upper_bound_at(7, 0, 500, 1e-200))) == pytest.approx(1e-200, rel=1e-6)


@pytest.mark.parametrize("confidence", [0.0, 1.0, -0.1, math.nan])
def test_no_confidence_is_refused(confidence: float) -> None:
    with pytest.raises(RequestError, match=r"confidence = .*: must lie between 0 and 1"):
        drop_upper_bound(0, 0, 10, confidence)
    with pytest.raises(RequestError, match=r"confidence = .*: must lie between 0 and 1"):
        samples_needed(0.01, confidence)


@pytest.mark.parametrize("count", [(-1, 0, 10), (0, -1, 10), (6, 5, 10), (0, 0, -1)])
def test_counts_that_do_not_add_up_are_refused(count: tuple[int, int, int]) -> None:
    with pytest.raises(RequestError, match="add up"):
        drop_upper_bound(*count, 0.95)


@pytest.mark.parametrize("rates", [(-0.1, 0.0), (0.0, 1.1), (0.6, 0.6), (math.nan, 0.0)])
def test_rates_that_are_no_fractions_are_refused(rates: tuple[float, float]) -> None:
    with pytest.raises(RequestError, match="fractions from 0 to 1"):
        samples_needed(0.01, 0.95, *rates)


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-3, 0.2), thousandths, thousandths, confidences)
def test_the_samples_needed_prove_the_budget(budget: float, loss: float, gain: float, confidence: float) -> None:
    samples = samples_needed(budget, confidence, loss, gain)
    if samples is None:
        assert loss - gain > budget - 0.005
    else:
        lost, gained = math.ceil(loss * samples - 1e-9), math.floor(gain * samples + 1e-9)
        assert drop_upper_bound(lost, gained, samples, confidence) <= budget + 2e-9


@pytest.mark.parametrize("budget", [0.001, 0.01, 0.3])
def test_without_losses_no_fewer_would_do(budget: float) -> None:
    samples = samples_needed(budget, 0.95)
    assert samples == math.ceil(math.log(0.05) / math.log1p(-budget))


def test_samples_needed_at_the_ends() -> None:
    assert samples_needed(1.0, 0.95) == 0
    assert samples_needed(0.0, 0.95) is None
    assert samples_needed(0.01, 0.95, loss_rate=0.02) is None
    assert samples_needed(0.01, 0.95, loss_rate=0.01) is None  # in the limit, never
    assert samples_needed(0.0, 0.95, gain_rate=1.0) == 5  # five gains of five: one chance in 32
