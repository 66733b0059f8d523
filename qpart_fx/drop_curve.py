"""How much accuracy a given noise on the model's output costs: one monotone curve, read in both directions."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .answers import CERTAIN, Answers
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
    ``flipped``: the share of answers that change, of which some were wrong. As ``drop`` if not given.
    """

    noise: Floats
    drop: Floats
    measured: Floats = field(default_factory=lambda: np.zeros(0))
    flipped: Floats = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        if not len(self.measured):
            object.__setattr__(self, "measured", self.noise)
        if not len(self.flipped):
            object.__setattr__(self, "flipped", self.drop)

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

    def flipped_at(self, noise: float) -> float:
        """The share of answers that ``noise`` changes."""
        if noise <= 0:
            return 0.0
        return float(np.interp(math.log(noise), np.log(self.noise), self.flipped))

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
    return DropCurve(noise=deviation**2 * classes / 2, drop=_continued(deviation, drop, drop, len(margins), CERTAIN))


def curve_of_answers(
    answers: Answers, spread: Floats, falls: Floats, predicted: Floats, measured: Floats, lost: Floats, counts: Floats
) -> DropCurve:
    """The accuracy that noise costs, from noise that was seen: that of some plans, run on some of the samples.

    The noise of a quantized network is not white: it differs between a class and its rivals, some samples get much more
    of it than others, and it is now more, now less than the sum of what each layer makes alone. A margin d to the r-th
    rival flips when it falls by more, and an answer when one of them does. How far margins fall, in standard deviations
    sqrt(sigma * spread_r), is taken from what was seen of all samples, those to a sample's rivals together: who takes
    rivals for independent counts answers again that several of them overtake.

    Args:
        spread: mean squared change of the margins to each rival, for a noise of 1, shape (rivals,).
        falls: by how many standard deviations they fell under each plan, shape (plans, some samples, rivals).
        predicted, measured: noise of the plans, predicted and as it was, both rising; shape (plans,).
        lost: the accuracy that the changed answers of each plan cost, a fraction; shape (plans,).
        counts: of how many changes alike that is the sum, which says how sure it is; shape (plans,).
    """
    margins = answers.margins
    scale = float(np.median(margins[:, 0])) or float(np.max(margins))
    deviation = scale * np.logspace(-4, 2, _POINTS)  # of the change of the nearest margin
    noise = deviation**2 / spread[0]
    # From noise as it is to noise as it is predicted; it has to rise as well.
    factor = np.interp(np.log(noise), np.log(measured), np.log(measured / predicted))
    drop, flipped = _fallen(noise, answers, spread, falls)
    drop = _continued(deviation, drop, flipped, len(margins), answers.temperature)
    flipped = _continued(deviation, flipped, flipped, len(margins), CERTAIN)
    off = unexplained(lost, counts, np.interp(measured, noise, drop))
    # Margins that fall far are not any margins: a layer may stretch all scores, and flip none. Half of the way down
    # only, since another plan of equal noise may stretch less.
    off = np.interp(np.log(noise), np.log(measured), np.where(off < 0, off / 2, off))
    drop, flipped = (np.maximum.accumulate(np.minimum(each * np.exp(off), 1.0)) for each in (drop, flipped))
    return DropCurve(
        noise=np.maximum.accumulate(noise * np.exp(-factor)), drop=drop, measured=noise,
        flipped=np.maximum(drop, flipped),
    )  # fmt: skip


def _fallen(noise: Floats, answers: Answers, spread: Floats, falls: Floats) -> tuple[Floats, Floats]:
    """What the samples lose at each ``noise`` of which a margin has fallen below nothing, and how many those are:
    shares of all, over all plans; each with the falls of many others."""
    needed = np.square(answers.margins) / spread  # the noise at which a fall of one deviation is all of a margin
    samples = np.arange(len(needed))
    lost, fallen = np.zeros(len(noise)), np.zeros(len(noise))
    shifts = np.unique(np.linspace(0, falls.shape[1], _OTHERS, endpoint=False, dtype=np.int64))
    for shift in shifts:
        of_others = falls[:, (samples + shift) % falls.shape[1]]
        at = np.divide(needed, np.square(of_others), out=np.full(of_others.shape, np.inf), where=of_others > 0)
        rival = at.argmin(axis=2)
        first = np.take_along_axis(at, rival[:, :, None], axis=2).ravel()
        order = np.argsort(first, kind="stable")
        count = np.searchsorted(first[order], noise, side="right")
        costs = np.concatenate([[0.0], np.cumsum(answers.worth[samples, rival].ravel()[order])])
        lost += costs[count] / first.size / len(shifts)
        fallen += count / first.size / len(shifts)
    return lost, fallen


def unexplained(lost: Floats, counts: Floats, expected: Floats) -> Floats:
    """By what factor, its logarithm, losses are off in so far as chance does not explain it; 0 where nothing was lost.

    Shrunk as by James and Stein (1961); a count of n is off by its root.

    Args:
        lost, expected: fractions of the accuracy. counts: of how many changes alike each of ``lost`` is the sum.
    """
    ratio = np.log(np.maximum(lost, 1e-12) / np.maximum(expected, 1e-12))
    unlikely = np.maximum(0.0, 1 - 1 / (np.maximum(counts, 1.0) * np.maximum(ratio**2, 1e-12)))
    return np.where(lost > 0, ratio * unlikely, 0.0)


def _continued(deviation: Floats, drop: Floats, flipped: Floats, samples: int, temperature: float) -> Floats:
    """``drop``, never falling, and where it is that of few samples as margins near zero make it.

    Those are about equally likely, so that flips are proportional to the noise's ``deviation``; which few samples
    happen to lie nearest to zero says less. Each costs in proportion to its margin where that is far below the
    ``temperature``.

    Args:
        flipped: the share of samples that makes the drop.
    """
    drop = np.maximum.accumulate(drop)
    few = np.searchsorted(np.maximum.accumulate(flipped), min(_FEW / samples, _SMALL))
    first = min(int(few), len(drop) - 1)
    like = deviation**2 / (deviation + 2 * temperature)
    drop[:first] = drop[first] * like[:first] / like[first]
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
