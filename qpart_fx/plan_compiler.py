"""From plans to split models whose loss is measured: of one plan, or of the cheapest that holds what a request asks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .calibration import Batch
from .confidence import drop_upper_bound, drop_upper_bound_at, samples_needed
from .errors import InfeasibleError
from .exact_planner import ExactPlanner
from .lower import lower, with_bytes_of
from .paper_planner import PaperPlanner
from .passes.tune_weights import tune_weights
from .passes.verify_accuracy import Evidence, verify_accuracy
from .plan import Plan
from .progress import progress_bar
from .request import Request
from .risk_shares import attempt_share, risk_share
from .scores import ClassScores
from .split_model import SplitModel

if TYPE_CHECKING:
    from .model_profile import Profile

_CONFIDENCE = 0.95

_ATTEMPTS = 16
"""Plans that are tried at most for one request."""

_WORTH_A_PROOF = 0.5
"""A proof that the budget is kept is asked for where it leaves this part of the budget at least: it takes room for what
is lost and gained by chance, and the fewer the samples the more."""

_LEFT_BY_TUNING = 0.8
"""Of the noise of a plan, about: what tuning leaves lies between 0.6 and 0.9."""


@dataclass(frozen=True)
class PlanCompiler:
    """Lowers plans of ``profile``, and measures them on the samples ``check``, if there are any.

    ``planner``: the exact one, whose tables say how many plans a bound has to hold for. ``tune``: the samples that the
    rounded weights are fitted to; None to leave them. ``seed``: of their order. ``progress``: show a progress bar.
    """

    profile: Profile
    planner: ExactPlanner
    check: Sequence[Batch]
    tune: Sequence[Batch] | None
    seed: int
    progress: bool

    def of_plan(self, plan: Plan) -> SplitModel:
        """The split model of a plan as it is."""
        return self._measured(self._lowered(plan), _CONFIDENCE)[0]

    def of_request(
        self, request: Request, planner: ExactPlanner | PaperPlanner, best: Callable[[float], Plan]
    ) -> SplitModel:
        """That of the cheapest plan that holds what ``request`` asks, as surely as the held-out samples can tell.

        Plans are tried from the cheapest on, each predicted to lose less than the one before.

        Args:
            best: the best plan of ``planner`` that is predicted to lose so much at most.

        Raises:
            InfeasibleError: none keeps the accuracy when measured.
        """
        budget, curve = request.max_accuracy_drop, self.profile.noise_curve
        drop, proof = self._aim(planner, request)
        if self.tune is not None:
            drop = curve.drop_at(curve.noise_at(drop) / _LEFT_BY_TUNING)
        safest: tuple[float, SplitModel] | None = None
        for attempt in range(1, _ATTEMPTS + 1):
            risk = (1 - _CONFIDENCE) * attempt_share(attempt)  # so that all of them together keep the confidence
            split, found = self._measured(self._lowered(best(drop)), 1 - risk)
            if found is None:
                return split
            bound = found.drop if found.upper_bound is None else found.upper_bound
            if (bound if proof else found.drop) <= budget:
                return split
            if safest is None or bound < safest[0]:
                safest = bound, split
            if (stricter := planner.stricter_drop(drop)) is None:
                break
            drop = stricter
        assert safest is not None
        assert safest[1].plan is not None
        nearest = safest[1].plan
        assert nearest.measured_drop is not None
        if nearest.measured_drop <= budget:
            return safest[1]
        raise InfeasibleError(
            f"no plan keeps max_accuracy_drop = {budget}: even the safest that was tried lost "
            f"{nearest.measured_drop:.4f} on {nearest.samples} held-out samples; allow a larger drop, or profile with "
            "stricter levels=",
            limit="max_accuracy_drop",
            nearest=nearest,
        )

    def _aim(self, planner: ExactPlanner | PaperPlanner, request: Request) -> tuple[float, bool]:
        """The predicted drop to plan for first, and whether the held-out samples are to prove that the budget is kept.

        It is the largest at which they may be expected to do so, since each plan that fails costs confidence; or else
        one below the largest allowed, since predictions err.
        """
        most, samples = planner.first_drop(request), sum(batch.size for batch in self.check)
        if not samples or not isinstance(self.profile.scorer, ClassScores):
            return most, False
        drop: float | None = most
        while drop is not None and drop >= _WORTH_A_PROOF * most:
            flipped = max(self.profile.noise_curve.flipped_at(self.profile.noise_curve.noise_at(drop)), drop)
            lost, gained = (math.ceil((flipped + sign * drop) / 2 * samples) for sign in (1, -1))
            bound = drop_upper_bound(
                lost, min(gained, samples - lost), samples, 1 - (1 - _CONFIDENCE) * attempt_share(1)
            )
            if bound <= request.max_accuracy_drop:
                return drop, True
            drop = planner.stricter_drop(drop)
        below = planner.stricter_drop(most)
        return (below if below is not None and below >= _WORTH_A_PROOF * most else most), False

    def _lowered(self, plan: Plan) -> SplitModel:
        profile, curve = self.profile, self.profile.noise_curve
        split = lower(profile.graph, plan, profile.ranges, profile.inside, profile.rounding, profile.scorer)
        if self.tune is None or profile.scorer is None:
            return split
        tuned = tune_weights(
            split.head, split.tail, profile.graph, self.tune, profile.scorer,
            seed=self.seed, progress=lambda items: progress_bar(items, "tuning", enabled=self.progress),
        )  # fmt: skip
        if tuned.share < 1:
            predicted = curve.drop_at(curve.noise_at(plan.predicted_drop or 0.0) * tuned.share)
            split.plan = replace(with_bytes_of(plan, split.head), predicted_drop=predicted, tuned=True)
        return split

    def _measured(self, split: SplitModel, confidence: float) -> tuple[SplitModel, Evidence | None]:
        profile = self.profile
        if not self.check or profile.scorer is None:
            return split, None
        found = verify_accuracy(profile.graph, split, self.check, profile.scorer, confidence=confidence)
        assert split.plan is not None
        needed = of_table = None
        if found.lost is not None and found.gained is not None and found.samples:
            rates = found.lost / found.samples, found.gained / found.samples
            needed = samples_needed(split.plan.max_accuracy_drop, confidence, *rates)
            if not split.plan.tuned:  # the table has the plans as they are
                risk = (1 - _CONFIDENCE) * risk_share(self.planner, split.plan)
                of_table = drop_upper_bound_at(found.lost, found.gained, found.samples, risk)
        split.plan = split.plan.with_evidence(
            measured_drop=found.drop,
            drop_upper_bound=found.upper_bound,
            table_drop_upper_bound=of_table,
            confidence=_CONFIDENCE,
            samples=found.samples,
            samples_needed=needed,
            labelled=found.labelled,
        )
        return split, found
