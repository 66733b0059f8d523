"""All that is known offline about a model, and the plans and split models that follow from it for any request."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .cut import Cut
from .drop_curve import DropCurve
from .errors import InfeasibleError, RequestError
from .noise import noise_at_zero_bits
from .paper_planner import PaperPlanner, why_infeasible
from .plan import Plan
from .request import Request
from .solver.paper import Choice

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from .calibration import Batch
    from .passes.capture import CaptureReport
    from .scores import Scorer
    from .split_model import SplitModel

METHODS = ("paper",)
"""``"paper"``: Algorithms 1 and 2 of the paper as written, the reference that other methods are compared with."""

_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class LayerProfile:
    """A weighted node. ``macs`` and ``activation_elements`` (of its output) are for one inference.

    ``noise``: sigma_w of eq. 18 at each of the widths :data:`~qpart_fx.noise.MEASURED`. ``robustness``: rho of eq. 22.
    """

    name: str
    operation: str
    macs: int
    parameters: int
    activation_elements: int
    noise: tuple[float, ...]
    robustness: float

    @property
    def sensitivity(self) -> float:
        """s_w of eq. 18: the noise on the output at zero bits, by the line through the widths where noise is linear."""
        return float(noise_at_zero_bits(np.array([self.noise]))[0])


@dataclass(frozen=True, slots=True)
class CutProfile:
    """A place where the chain of layers can be cut: after ``layers`` of them (p of the paper).

    ``noise``: sigma_x of eq. 19 at the widths measured, of all that crosses together. ``robustness``: rho of eq. 22,
    that of the last layer on the device; for p = 0, of the input.
    """

    cut: Cut
    layers: int
    noise: tuple[float, ...]
    robustness: float


@dataclass(frozen=True)
class Profile:
    """What does not depend on the request: the layers, the cuts, and how noise and accuracy hang together.

    Made by :func:`qpart_fx.profile`. ``levels``: the accuracy drops that patterns are stored for.
    ``adversarial_noise``: mean sigma* of eq. 22. ``curve``: accuracy drop over noise on the output. ``reference_drop``:
    Delta_acc of eq. 22. ``ranges``: the calibrated range of every value that may cross. ``uncounted``: nodes whose MACs
    nobody knows, with their operations. ``graph``: the captured float model. ``check``: samples held back to measure
    plans on. ``scorer``: what counts as accuracy; None for a metric, which no file can hold.
    """

    model: str
    layers: tuple[LayerProfile, ...]
    cuts: tuple[CutProfile, ...]
    levels: tuple[float, ...]
    adversarial_noise: float
    curve: DropCurve = field(repr=False, compare=False)
    reference_drop: float
    ranges: Mapping[str, tuple[float, float]] = field(repr=False)
    uncounted: Mapping[str, str]
    samples: int
    graph: GraphModule = field(repr=False, compare=False)
    check: Sequence[Batch] = field(repr=False, compare=False)
    scorer: Scorer | None = field(repr=False, compare=False)

    @property
    def captured(self) -> CaptureReport:
        """The way by which the model became a graph, and why those tried before failed."""
        from .passes.capture import capture_report

        return capture_report(self.graph)

    def plan(self, request: Request, *, cut: str | Sequence[str] | None = None, method: str = "paper") -> Plan:
        """The cheapest plan that meets ``request``: Algorithm 2 over the stored patterns.

        Args:
            cut: plan for this cut alone: names of the crossing nodes, ``"input"`` (all on the server) or ``"output"``
                (all on the device).
            method: one of :data:`METHODS`.

        Raises:
            InfeasibleError: no plan meets the request; names the limit that binds and carries the nearest plan.
            RequestError: no such cut or method.
        """
        if method not in METHODS:
            raise RequestError(f"method {method!r} is unknown: choose one of {', '.join(METHODS)}")
        return self._best(request, cut)[0]

    def plan_many(self, requests: Iterable[Request]) -> list[Plan]:
        """A plan for each of ``requests``."""
        return [self.plan(request) for request in requests]

    def compile(
        self,
        plan_or_request: Plan | Request,
        *,
        cut: str | Sequence[str] | None = None,
        calibration: Iterable[Any] | None = None,
    ) -> SplitModel:
        """Lower a plan, or the plan for a request, to a split model, and measure what it loses on held-out samples.

        For a request, a plan that loses more than its budget there is replaced by the next stricter one. The bound on
        the drop allows for the number of plans that were tried.

        Args:
            cut: as for :meth:`plan`.
            calibration: batches to measure on, instead of the part of the profile's data that was held back. A profile
                from a file has none of its own: without them nothing is measured.

        Raises:
            InfeasibleError: no plan meets the request, or none of those that should keeps the accuracy when measured.
            RequestError: the plan is for another model, or there is no such cut.
            CalibrationError: ``calibration`` is broken or does not fit the model.
        """
        from .lower import lower

        check = self.check if calibration is None else self._read(calibration)
        if isinstance(plan_or_request, Plan):
            self._require_known(plan_or_request)
            return self._measured(lower(self.graph, plan_or_request, self.ranges, self.scorer), check, _CONFIDENCE)
        request, stricter, attempt = plan_or_request, None, 1
        while True:
            plan, choice = self._best(request, cut, stricter)
            # Half of the risk that is left goes to each attempt, so that all of them together keep the confidence.
            confidence = 1 - (1 - _CONFIDENCE) / 2**attempt
            split = self._measured(lower(self.graph, plan, self.ranges, self.scorer), check, confidence)
            assert split.plan is not None
            if split.plan.measured_drop is None or split.plan.measured_drop <= request.max_accuracy_drop:
                return split
            if choice.level == 0:
                raise InfeasibleError(
                    f"no plan keeps max_accuracy_drop = {request.max_accuracy_drop}: even the "
                    f"strictest lost {split.plan.measured_drop:.4f} on {split.plan.samples} held-out samples; allow a "
                    "larger drop, or profile with stricter levels=",
                    limit="max_accuracy_drop",
                    nearest=split.plan,
                )
            stricter, attempt = choice.level, attempt + 1

    @cached_property
    def _planner(self) -> PaperPlanner:
        return PaperPlanner(self)

    def _best(
        self, request: Request, cut: str | Sequence[str] | None, stricter_than: int | None = None
    ) -> tuple[Plan, Choice]:
        place = None if cut is None else self._cut_index(cut)
        plan, choice = self._planner.best(request, place, stricter_than)
        if choice.limit is not None:
            raise InfeasibleError(why_infeasible(choice, plan, request), limit=choice.limit, nearest=plan)
        return plan, choice

    def _cut_index(self, names: str | Sequence[str]) -> int:
        if names in ("input", "output"):
            return 0 if names == "input" else len(self.cuts) - 1
        wanted = {names} if isinstance(names, str) else set(names)
        for index, place in enumerate(self.cuts):
            if set(place.cut.crossing) == wanted:
                return index
        known = "; ".join(", ".join(place.cut.crossing) for place in self.cuts)
        raise RequestError(f"cut: {', '.join(sorted(wanted))} is none of the profiled cuts: {known}")

    def _require_known(self, plan: Plan) -> None:
        cut = self.cuts[self._cut_index(plan.cut)].cut
        planned = [(layer.name, layer.macs, layer.parameters) for layer in plan.layers]
        known = [(layer.name, layer.macs, layer.parameters) for layer in self.layers]
        quantized = {name for name in cut.crossing if name in self.ranges}
        same = planned == known and plan.device_nodes == cut.device_nodes and plan.activation_bits.keys() == quantized
        if not same:
            raise RequestError(f"the plan ({plan.model}, cut at {', '.join(plan.cut)}) is not for this {self.model}")

    def _read(self, calibration: Iterable[Any]) -> list[Batch]:
        from .calibration import read_batches
        from .inputs import device_of

        if self.scorer is None:
            raise RequestError(
                "the profile was made with a metric, which its file cannot hold: profile the model again"
            )
        device = device_of(self.graph)
        return [batch.to(device) for batch in read_batches(calibration, max_samples=sys.maxsize)]

    def _measured(self, split: SplitModel, check: Sequence[Batch], confidence: float) -> SplitModel:
        from .passes.verify_accuracy import verify_accuracy

        if check and self.scorer is not None:
            found = verify_accuracy(self.graph, split, check, self.scorer, confidence=confidence)
            assert split.plan is not None
            split.plan = split.plan.with_evidence(
                measured_drop=found.drop,
                drop_upper_bound=found.upper_bound,
                confidence=_CONFIDENCE,
                samples=found.samples,
                labelled=found.labelled,
            )
        return split

    def save(self, path: str | Path) -> None:
        """Write the profile, its graph and its weights to one file, which :func:`qpart_fx.load` reads back."""
        from .profile_file import save_profile

        save_profile(self, Path(path))
