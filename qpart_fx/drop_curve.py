"""How much accuracy a given noise on the model's output costs: one monotone curve, read in both directions."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .errors import CalibrationError

Floats = NDArray[np.float64]

_POINTS = 256

_FEW = 3
"""A share of fewer samples than these, and of less than ``_SMALL``, is no measure of how likely it is."""

_SMALL = 0.1

_OTHERS = 32
"""Samples whose falls the margins of each are tried with."""


@dataclass(frozen=True, slots=True)
class DropCurve:
    """Accuracy drop over noise. ``noise``: mean squared L2 norm on the output, ``drop``: a fraction; both increase.

    ``measured``: the noise that whole plans really make when their layers alone add up to ``noise``: less, where the
    network saturates, or more, where one layer's error opens the way for another's. As ``noise`` if not given.
    """

    noise: Floats
    drop: Floats
    measured: Floats = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        if not len(self.measured):
            object.__setattr__(self, "measured", self.noise)

    def drop_at(self, noise: float) -> float:
        """The drop that ``noise`` causes; 0 without noise."""
        if noise <= 0:
            return 0.0
        return float(np.interp(math.log(noise), np.log(self.noise), self.drop))

    def measured_at(self, noise: float) -> float:
        """The noise that plans whose layers alone add up to ``noise`` make; as the nearest that was measured beyond."""
        if noise <= 0:
            return 0.0
        factors = np.log(self.measured / self.noise)
        return noise * math.exp(float(np.interp(math.log(noise), np.log(self.noise), factors)))

    def noise_at(self, drop: float) -> float:
        """The noise that causes ``drop``; at the ends of what was measured, the noise there."""
        return float(np.exp(np.interp(drop, self.drop, np.log(self.noise))))


def curve_of_margins(margins: Floats, classes: int) -> DropCurve:
    """The share of answers that noise flips, from the margins between the best and the second class of each sample.

    White noise of squared norm sigma over K scores has variance 2 sigma / K on a difference of two of them, so a margin
    d flips with probability Phi(-d / sqrt(2 sigma / K)).

    Args:
        margins: d = z_(1) - z_(2) of every sample, non-negative, shape (samples,).
        classes: K.

    Raises:
        CalibrationError: all margins are zero, so that there is no answer to keep.
    """
    from scipy.special import ndtr

    scale = float(np.median(margins)) or float(np.max(margins, initial=0.0))
    if scale <= 0:
        raise CalibrationError("the model scores its two best classes alike on all calibration samples: is it trained?")
    deviation = scale * np.logspace(-4, 2, _POINTS)
    drop = ndtr(-margins[None, :] / deviation[:, None]).mean(axis=1)
    return DropCurve(noise=deviation**2 * classes / 2, drop=_continued(deviation, drop, len(margins)))


def curve_of_rivals(
    margins: Floats, spread: Floats, falls: Floats, predicted: Floats, measured: Floats, flips: Floats
) -> DropCurve:
    """The share of answers that noise flips, from noise that was seen: that of some plans, run on the calibration data.

    The noise of a quantized network is not white: it differs between a class and its rivals, some samples get much more
    of it than others, and it is now more, now less than the sum of what each layer makes alone. A margin d to the r-th
    rival flips when it falls by more, and an answer when one of them does. How far margins fall, in standard deviations
    sqrt(sigma * spread_r), is taken from what was seen of all samples, those to a sample's rivals together: who takes
    rivals for independent counts answers again that several of them overtake.

    Args:
        margins: of the best class over its rivals, nearest first, shape (samples, rivals).
        spread: mean squared change of those margins, for a noise of 1, shape (rivals,).
        falls: by how many standard deviations they fell under each plan, shape (plans, samples, rivals).
        predicted, measured: noise of the plans, predicted and as it was, both rising; shape (plans,).
        flips: the share of answers that each plan flipped of those samples; shape (plans,).
    """
    scale = float(np.median(margins[:, 0])) or float(np.max(margins))
    deviation = scale * np.logspace(-4, 2, _POINTS)  # of the change of the nearest margin
    noise = deviation**2 / spread[0]
    # From noise as it is to noise as it is predicted; it has to rise as well.
    factor = np.interp(np.log(noise), np.log(measured), np.log(measured / predicted))
    needed = np.square(margins) / spread
    shifts = np.unique(np.linspace(0, len(margins), _OTHERS, endpoint=False, dtype=np.int64))
    drop = np.mean([_fallen(noise, needed, np.roll(falls, shift, axis=1)) for shift in shifts], axis=0)
    drop = _continued(deviation, drop, len(margins))
    off = _unexplained(flips, np.interp(measured, noise, drop), len(margins))
    drop = np.minimum(drop * np.exp(np.interp(np.log(noise), np.log(measured), off)), 1.0)
    return DropCurve(
        noise=np.maximum.accumulate(noise * np.exp(-factor)), drop=np.maximum.accumulate(drop), measured=noise
    )


def _fallen(noise: Floats, needed: Floats, falls: Floats) -> Floats:
    """The share of samples, over all plans, of which a margin has fallen below nothing at each ``noise``.

    Args:
        needed: the noise at which a fall of one deviation is all of a margin, shape (samples, rivals).
    """
    least = np.divide(needed, np.square(falls), out=np.full(falls.shape, np.inf), where=falls > 0).min(axis=2)
    return np.asarray(np.searchsorted(np.sort(least, axis=None), noise) / least.size)


def _unexplained(flips: Floats, expected: Floats, samples: int) -> Floats:
    """By what factor, its logarithm, shares of flips are off in so far as chance does not explain it.

    Margins that fall far are not any margins: a layer may stretch all scores, and flip none. Shrunk as by James and
    Stein; a count of n is off by its root. Half of the way down only: another plan of equal noise may stretch less.
    """
    count = np.maximum(flips * samples, 1.0)
    ratio = np.log(count / (np.maximum(expected, 1e-12) * samples))
    unlikely = np.maximum(0.0, 1 - 1 / (count * np.maximum(ratio**2, 1e-12)))
    return np.where(flips > 0, ratio * unlikely * np.where(ratio < 0, 0.5, 1.0), 0.0)


def _continued(deviation: Floats, drop: Floats, samples: int) -> Floats:
    """``drop``, never falling, and where it is a share of few samples proportional to the ``deviation``.

    Margins near zero are about equally likely, so that flips are proportional to the noise's standard deviation; which
    few samples happen to lie nearest to zero says less.
    """
    drop = np.maximum.accumulate(drop)
    first = min(int(np.searchsorted(drop, min(_FEW / samples, _SMALL))), len(drop) - 1)
    drop[:first] = drop[first] * deviation[:first] / deviation[first]
    return np.asarray(drop)


def curve_of_levels(noise: Floats, drop: Floats) -> DropCurve | None:
    """The curve through drops measured at rising levels of noise, made monotone; like sqrt(noise) below the first.

    None when the levels do not show where the metric breaks: none loses between 0.1 % and 50 %.
    """
    drop = np.maximum.accumulate(np.maximum(drop, 0.0))
    used = (drop > 0.001) & (noise > 0)
    if not (used & (drop < 0.5)).any():
        return None
    noise, drop = noise[used], drop[used]
    below = np.logspace(-6, 0, 64, endpoint=False)
    return DropCurve(
        noise=np.concatenate([noise[0] * below, noise]), drop=np.concatenate([drop[0] * np.sqrt(below), drop])
    )


def curve_of_points(noise: Floats, drop: Floats) -> DropCurve:
    """The curve drop = c * sqrt(noise) through measured points: how a smooth metric first answers to noise.

    Flips grow like the square root of the noise; a squared error grows more slowly at first, so that the curve errs on
    the safe side below the points that it was fitted to.

    Raises:
        CalibrationError: no point lost between 1 % and 50 % of the metric, so that nothing can be fitted.
    """
    used = (drop > 0.01) & (drop < 0.5) & (noise > 0)
    if not used.any():
        raise CalibrationError(
            "the metric lost between 0.01 and 0.5 at none of the noise levels tried: scale it so that it is 1 for a "
            "perfect and 0 for a useless answer"
        )
    slope = float(np.median(drop[used] / np.sqrt(noise[used])))
    drops = np.logspace(-5, math.log10(0.5), _POINTS)
    return DropCurve(noise=(drops / slope) ** 2, drop=drops)
