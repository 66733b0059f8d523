"""How much accuracy a split can lose at most, given how many answers it lost and gained on held-out samples.

A sample counts +1 where a right answer was lost, -1 where one was gained, 0 otherwise; the true drop is the mean of
that. The samples must be drawn independently of each other and of what made the split, and how many there are must not
depend on what they showed. None of this can be seen in the counts: a sample that comes twice counts as two.

The bound is Gaffke's for the mean of values that cannot exceed 1 (2005; Learned-Miller and Thomas, arXiv:1905.06208):
the values and one more of 1, weighted by the gaps between uniform random numbers. For values in {-1, 0, 1} it is also
what Fay and Lumbard propose for matched pairs (Statistics in Medicine 40, 2020). Where no answer is gained, as always
without labels, it is the exact bound of Clopper and Pearson, and so proven. With gains, that it keeps its confidence
is conjectured. No counterexample is known: summing the probabilities of all counts found none for any truth at up to 40
samples, nor in what was tried at up to 10,000, with confidences from 0.5 to 0.999; tests/test_confidence.py repeats a
part. Bounds by betting (Waudby-Smith and Ramdas, 2024) are proven throughout, but up to twice as far from the truth,
and farther than Clopper and Pearson where gains are few: benchmarks/bench_confidence.py compares them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError

Floats = NDArray[np.float64]

MOST_SAMPLES = 10_000_000
"""More than anybody holds out: :func:`samples_needed` looks no further."""

_TOLERANCE = 1e-9
"""How far above its true value a bound may come out."""


def drop_upper_bound(lost: int, gained: int, samples: int, confidence: float) -> float:
    """What the true drop exceeds with probability 1 - ``confidence`` at most; a fraction.

    Never below the measured drop nor below 0: that a split gains accuracy is not claimed. See the module on what is
    assumed of the samples, and on what is proven.

    >>> round(drop_upper_bound(0, 0, 300, 0.95), 4), round(1 - 0.05 ** (1 / 300), 4)
    (0.0099, 0.0099)
    >>> [round(drop_upper_bound(20, gained, 1000, 0.95), 4) for gained in (0, 5, 10)]
    [0.0289, 0.0246, 0.0203]

    Raises:
        RequestError: the counts are negative or do not add up, or ``confidence`` does not lie between 0 and 1.
    """
    require_confidence(confidence)
    return drop_upper_bound_at(lost, gained, samples, 1 - confidence)


def drop_upper_bound_at(lost: int, gained: int, samples: int, risk: float) -> float:
    """:func:`drop_upper_bound` by its risk, 1 - confidence, which may be too small to be told from none in that form.

    >>> round(drop_upper_bound_at(0, 0, 300, 1e-40), 4), round(1 - 1e-40 ** (1 / 300), 4)
    (0.2644, 0.2644)

    Raises:
        RequestError: the counts are negative or do not add up.
    """
    if min(lost, gained) < 0 or lost + gained > samples:
        raise RequestError(f"{lost} lost and {gained} gained of {samples} samples: counts from 0 that add up")
    upper = _share_upper_bound_at(lost, samples, risk)
    if gained == 0 or samples == 0 or risk == 0:
        return upper
    lower = max(0.0, (lost - gained) / samples)
    risk_of = _risk(lost, gained, samples)
    if risk_of(lower) <= risk:
        return lower
    while upper - lower > _TOLERANCE:
        middle = (lower + upper) / 2
        if risk_of(middle) <= risk:
            upper = middle
        else:
            lower = middle
    return upper


def share_upper_bound(count: int, samples: int, confidence: float) -> float:
    """The exact upper confidence bound on a probability that showed ``count`` times in ``samples`` (Clopper, Pearson).

    >>> round(share_upper_bound(0, 300, 0.95), 4)
    0.0099
    """
    return _share_upper_bound_at(count, samples, 1 - confidence)


def _share_upper_bound_at(count: int, samples: int, risk: float) -> float:
    from scipy.special import betainccinv

    return 1.0 if count >= samples else float(betainccinv(count + 1, samples - count, risk))


def samples_needed(budget: float, confidence: float, loss_rate: float = 0.0, gain_rate: float = 0.0) -> int | None:
    """How many samples prove a drop of ``budget`` at most, where losses and gains keep to these rates.

    Counts are rounded to the bad side, so that the answer may be some samples more than the fewest. None where ten
    million are too few: the rates are then too near the budget, or beyond it.

    >>> samples_needed(0.01, 0.95)
    299
    >>> samples_needed(0.01, 0.95, loss_rate=0.005), samples_needed(0.01, 0.95, loss_rate=0.005, gain_rate=0.004)
    (1441, 750)
    >>> print(samples_needed(0.01, 0.95, loss_rate=0.02, gain_rate=0.01))
    None

    Raises:
        RequestError: a rate or the budget is not a fraction, or ``confidence`` does not lie between 0 and 1.
    """
    require_confidence(confidence)
    if not (0 <= budget <= 1 and 0 <= loss_rate <= 1 and 0 <= gain_rate <= 1 and loss_rate + gain_rate <= 1):
        raise RequestError(f"budget = {budget}, rates {loss_rate} and {gain_rate}: must be fractions from 0 to 1")
    if budget == 1:
        return 0
    if loss_rate - gain_rate > budget:
        return None

    def enough(samples: int) -> bool:
        lost = min(samples, math.ceil(loss_rate * samples - 1e-9))
        gained = min(samples - lost, math.floor(gain_rate * samples + 1e-9))
        return lost - gained <= budget * samples and _risk(lost, gained, samples)(budget) <= 1 - confidence

    few, many = 0, 1
    while not enough(many):
        few, many = many, 2 * many
        if few > MOST_SAMPLES:
            return None
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return many


def require_confidence(confidence: float) -> None:
    """Refuse what is no confidence.

    Raises:
        RequestError: it does not lie between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise RequestError(f"confidence = {confidence!r}: must lie between 0 and 1")


def _risk(lost: int, gained: int, samples: int) -> Callable[[float], float]:
    """The chance to see as few losses, beside these gains, if the true drop is the argument, below 1; falls with it.

    Gaffke's weights of the values are (X, Y, .) ~ Dirichlet(lost + 1, gained, unchanged), and this is P(X - Y > drop).
    Gamma variables in place of X, Y and the rest, and the Poisson process behind the first of them, turn it into
    P(M + N <= lost): before each gain comes a geometric number of losses of probability (1 + drop) / 2, which make up
    M, and before each unchanged answer one of probability ``drop``, which make up N. So it is a finite sum.
    """
    from scipy.special import gammaln, xlogy

    losses = np.arange(lost + 1, dtype=np.float64)
    orders = gammaln(losses + 1)

    def before(stops: int) -> Callable[[float], Floats]:
        """The probability of each number of losses before ``stops`` of the others, by the share of losses."""
        if stops == 0:
            return lambda _: np.where(losses == 0, 1.0, 0.0)
        ways = gammaln(stops + losses) - gammaln(stops) - orders
        return lambda share: np.asarray(np.exp(ways + xlogy(losses, share) + stops * math.log1p(-share)))

    before_gains, before_rest = before(gained), before(samples - lost - gained)

    def risk(drop: float) -> float:
        return float(before_gains((1 + drop) / 2) @ np.cumsum(before_rest(drop))[::-1])

    return risk
