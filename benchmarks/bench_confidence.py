"""What the bound on the drop costs, and how near it comes to the truth beside other bounds.

    python -m benchmarks.bench_confidence

prints for each bound how often it lies below the true drop (5 % at most is promised) and how far above it is on
average: summed over all counts, or, for bets in an order, over 1000 simulated runs. Takes some minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture
from scipy.special import logsumexp
from scipy.stats import binom, multinomial

from qpart_fx.confidence import drop_upper_bound, samples_needed, share_upper_bound

Floats = NDArray[np.float64]
Bound = Callable[[int, int, int, float], float]


@pytest.mark.parametrize("counts", [(0, 0, 10_000), (30, 20, 10_000), (300, 200, 10_000)])
def test_bound(benchmark: BenchmarkFixture, counts: tuple[int, int, int]) -> None:
    """A millisecond is the limit."""
    benchmark(drop_upper_bound, *counts, 0.95)


def test_samples_needed(benchmark: BenchmarkFixture) -> None:
    benchmark(samples_needed, 0.01, 0.95, 0.008, 0.002)


def losses_alone(lost: int, gained: int, samples: int, confidence: float) -> float:
    """Clopper and Pearson on the losses: gains are ignored."""
    return share_upper_bound(lost, samples, confidence)


_ORDERS = np.random.default_rng(0)
_SHARES = np.append(np.geomspace(1e-3, 0.999, 31), 1.0)
_WEIGHTS = np.append(np.full(31, 0.5 / 31), 0.5)


def betting_mixture(lost: int, gained: int, samples: int, confidence: float) -> float:
    """Fixed bets of all sizes, mixed, half of the capital on the largest: the order of the samples does not matter.

    A bet is ``share`` / (1 - m): what it makes of the capital at a loss, at no change and at a gain is known.
    """

    def capital(m: float) -> float:
        with np.errstate(divide="ignore"):
            at_loss = lost * np.log1p(-_SHARES) if lost else 0.0
        rest = (samples - lost - gained) * np.log1p(_SHARES * m / (1 - m))
        return float(logsumexp(at_loss + rest + gained * np.log1p(_SHARES * (1 + m) / (1 - m)), b=_WEIGHTS))

    return _bisect(capital, max(0.0, (lost - gained) / samples), confidence)


def betting_in_order(lost: int, gained: int, samples: int, confidence: float) -> float:
    """The predictable plug-in of Waudby-Smith and Ramdas; the samples in random order, the best capital on the way."""
    values = np.repeat([1.0, -1.0, 0.0], [lost, gained, samples - lost - gained])
    _ORDERS.shuffle(values)
    count = np.arange(1, samples + 1)
    mean = np.cumsum(values) / (count + 1)
    variance = (0.25 + np.cumsum((values - mean) ** 2)) / (count + 1)
    bets = np.sqrt(-2 * np.log(1 - confidence) / (samples * np.append(0.25, variance[:-1])))

    def capital(m: float) -> float:
        return float(np.cumsum(np.log1p(np.minimum(bets, 0.9 / (1 - m)) * (m - values))).max())

    return _bisect(capital, max(0.0, (lost - gained) / samples), confidence)


def half_and_half(lost: int, gained: int, samples: int, confidence: float) -> float:
    """The better of losses alone and the mixture, each at half of the risk."""
    each = (1 + confidence) / 2
    return min(bound(lost, gained, samples, each) for bound in (losses_alone, betting_mixture))


BOUNDS: dict[str, Bound] = {
    "losses alone": losses_alone,
    "bets in order": betting_in_order,
    "mixed bets": betting_mixture,
    "half and half": half_and_half,
    "ours": drop_upper_bound,
}


def _bisect(capital: Callable[[float], float], low: float, confidence: float) -> float:
    high = 1 - 1e-9
    while high - low > 1e-6:
        middle = (low + high) / 2
        if capital(middle) >= -np.log(1 - confidence):
            high = middle
        else:
            low = middle
    return high


def quality(bound: Bound, samples: int, lost: float, gained: float, confidence: float = 0.95) -> tuple[float, float]:
    """How often ``bound`` lies below the true drop, and its mean distance from it, at these rates."""
    if bound is betting_in_order:
        draws = np.random.default_rng(1).multinomial(samples, [lost, gained, 1 - lost - gained], 1000)[:, :2]
        weights = np.full(len(draws), 1 / len(draws))
    else:
        most = [int(binom.ppf(1 - 1e-9, samples, rate)) + 2 for rate in (lost, gained)]
        draws = np.stack(np.meshgrid(*map(np.arange, most), indexing="ij"), axis=-1).reshape(-1, 2)
        draws = draws[draws.sum(1) <= samples]
        rest = samples - draws.sum(1, keepdims=True)
        weights = multinomial.pmf(np.append(draws, rest, axis=1), samples, [lost, gained, 1 - lost - gained])
        draws, weights = draws[weights > 1e-9], weights[weights > 1e-9]
    known = bound if bound is betting_in_order else cache(bound)
    bounds = np.array([known(int(losses), int(gains), samples, confidence) for losses, gains in draws])
    return float(weights[bounds < lost - gained].sum()), float(weights @ (bounds - (lost - gained)))


def main() -> None:
    print("how often too low, and mean distance from the true drop, both in percent")
    print(f"{'samples':>7} {'lost':>6} {'gained':>6}", *(f"{name:>15}" for name in BOUNDS))
    for samples in (100, 300, 1000, 3000, 10_000):
        for lost, gained in ((0.001, 0.0), (0.003, 0.001), (0.01, 0.0), (0.01, 0.005), (0.01, 0.01), (0.03, 0.02)):
            found = [quality(bound, samples, lost, gained) for bound in BOUNDS.values()]
            cells = (f"{100 * missed:6.2f} {100 * excess:8.3f}" for missed, excess in found)
            print(f"{samples:7} {100 * lost:6.1f} {100 * gained:6.1f}", *cells, flush=True)


if __name__ == "__main__":
    main()
