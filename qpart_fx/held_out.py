"""What plans lose on samples held out, for a profile that is about to lose them.

Compiling a plan measures it on samples that its making never saw, and takes a stricter one where it loses too much. A
profile that is read from a file, by a server for example, has no samples: what it predicts has to be right by itself.
It errs to one side. Of all plans the best is one whose noise was rather under- than overestimated, and the samples that
a profile was made with may be such as the model was trained with. So before a profile is written, some plans are tried
on the samples held out, and if they lose more than predicted, its curve says so from then on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from .drop_curve import DropCurve
from .errors import InfeasibleError
from .progress import progress_bar
from .request import Request
from .scores import ClassScores

if TYPE_CHECKING:
    from .model_profile import Profile

_TRIED = (0.005, 0.01, 0.02, 0.05)
"""Budgets whose plans are tried; the samples are the same, so that more of them would hardly tell more."""


def curve_held_out(profile: Profile) -> DropCurve:
    """The profile's ``noise_curve``, with drops as much larger as plans lost more on the samples held out than it says;
    as it is without such samples, without class scores, or where they lost less."""
    curve = profile.noise_curve
    if not profile.check or not isinstance(profile.scorer, ClassScores):
        return curve
    predicted = lost = 0.0
    for budget in progress_bar(_TRIED, "plans on samples held out", enabled=True, unit="plan"):
        try:
            plan = profile.plan(Request.paper(budget), cut="output")
        except InfeasibleError:
            continue
        tried = profile.compile(plan, progress=False).plan
        assert tried is not None
        predicted += tried.predicted_drop or 0.0
        lost += tried.measured_drop or 0.0
    more = max(1.0, lost / predicted) if predicted > 0 else 1.0
    return replace(curve, drop=np.minimum(curve.drop * more, 1.0))
