"""How sure a model is of its answers, and what it costs to change one.

An answer that noise changes was not always right. With scores z the model's own answer is right with probability p_1 of
softmax(z / T), and the one that takes its place with p_r: the accuracy that is lost is p_1 - p_r, next to nothing where
the two were close. The temperature T is the one at which the scores fit the labels (Guo et al., On Calibration of
Modern Neural Networks, 2017). To count losses and gains themselves would say the same, but of a few hundred samples
with an error larger than what is to be measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CERTAIN = 0.0
"""The temperature at which the model's own answers are right: what is taken where there are no labels."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Those of a model to some samples, and how sure they are.

    ``margins``: of the best class over its rivals, the nearest first, shape (samples, rivals). ``worth``: the accuracy
    that a change from the best class to each costs, 0 to 1, shape (samples, rivals). ``temperature``: of the scores, in
    their unit.
    """

    margins: Floats
    worth: Floats
    temperature: float
