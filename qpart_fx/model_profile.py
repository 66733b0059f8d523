"""All that is known offline about a model, and the plans and split models that follow from it for any request."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .cut import Cut
from .drop_curve import DropCurve
from .errors import InfeasibleError, RequestError
from .noise import noise_at_zero_bits, noise_by_width
from .plan import CutPrice, Plan, PlannedLayer
from .request import Request
from .solver.paper import Candidates, Chain, Choice, Patterns, choose, offline_patterns, price_patterns

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
        plan, choice = self._plan(request, cut, len(self._levels))
        if choice.limit is not None:
            raise InfeasibleError(_why(choice, plan, request), limit=choice.limit, nearest=plan)
        return plan

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
        request, stricter, attempt = plan_or_request, len(self._levels), 1
        while True:
            plan, choice = self._plan(request, cut, stricter)
            if choice.limit is not None:
                raise InfeasibleError(_why(choice, plan, request), limit=choice.limit, nearest=plan)
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

    @property
    def _levels(self) -> NDArray[np.float64]:
        """The accuracy levels with patterns, strictest first; for a budget of 0, ten times stricter than the first."""
        return np.array([0.0, *self.levels])

    @cached_property
    def _budgets(self) -> list[float]:
        """Delta(a) of eq. 23 for every level.

        By eq. 22 a degradation of mean sigma* costs the accuracy rho was measured at; the margins carry it to other
        drops.
        """
        reference = self.curve.noise_at(self.reference_drop)
        drops = [self.levels[0] / 10, *self.levels]
        return [self.adversarial_noise * self.curve.noise_at(drop) / reference for drop in drops]

    @cached_property
    def _chain(self) -> Chain:
        cuts = [place.cut for place in self.cuts]
        return Chain(
            sizes=np.array([layer.parameters for layer in self.layers], dtype=np.float64),
            degradation=_degradation(self.layers),
            layers=np.array([place.layers for place in self.cuts], dtype=np.int64),
            crossing_sizes=np.array([cut.elements for cut in cuts], dtype=np.float64),
            crossing_degradation=_degradation(self.cuts),
            device_macs=np.array([cut.device_macs for cut in cuts], dtype=np.float64),
            server_macs=np.array([cut.server_macs for cut in cuts], dtype=np.float64),
            exact_bits=np.array([cut.exact_bits for cut in cuts], dtype=np.float64),
            peak_bytes=np.array([cut.peak_bytes for cut in cuts], dtype=np.float64),
        )

    @cached_property
    def _patterns(self) -> Patterns:
        return offline_patterns(self._chain, self._budgets)

    def _plan(self, request: Request, cut: str | Sequence[str] | None, stricter_than: int) -> tuple[Plan, Choice]:
        """The best plan among the levels before ``stricter_than`` that meet the budget; the nearest if none is
        feasible."""
        candidates = price_patterns(request, self._chain, self._patterns)
        levels = self._levels
        allowed = (levels <= request.max_accuracy_drop) & (np.arange(len(levels)) < stricter_than)
        eligible = np.ones(len(self.cuts), dtype=bool)[:, None] & allowed
        shown = eligible
        if cut is not None:
            eligible = eligible & (np.arange(len(self.cuts)) == self._cut_index(cut))[:, None]
        choice = choose(candidates, eligible)
        return self._plan_at(request, candidates, choice, shown), choice

    def _plan_at(self, request: Request, candidates: Candidates, choice: Choice, eligible: NDArray[np.bool_]) -> Plan:
        at = (choice.cut, choice.level)
        place = self.cuts[choice.cut]
        widths = candidates.weights[at]
        crossing_bits = int(candidates.crossing[at])
        prices = {name: float(values[at]) for name, values in candidates.prices.as_dict().items()}
        lost = float(candidates.degradation[at]) * self.curve.noise_at(self.reference_drop) / self.adversarial_noise
        return Plan(
            model=self.model,
            method="paper",
            max_accuracy_drop=request.max_accuracy_drop,
            cut=place.cut.crossing,
            device_nodes=place.cut.device_nodes,
            layers=tuple(
                PlannedLayer(
                    name=layer.name,
                    operation=layer.operation,
                    macs=layer.macs,
                    parameters=layer.parameters,
                    bits=int(widths[index]) if index < place.layers else None,
                )
                for index, layer in enumerate(self.layers)
            ),
            activation_bits={name: crossing_bits for name in place.cut.crossing if name in self.ranges},
            time_s=float(candidates.prices.time_s[at]),
            energy_j=float(candidates.prices.energy_j[at]),
            cost=prices["server_cost"],
            objective=float(candidates.objective[at]),
            prices=prices,
            download_bytes=-(-int(candidates.download_bits[at]) // 8),
            upload_bytes=-(-int(candidates.upload_bits[at]) // 8),
            device_memory_bytes=-(-int(candidates.download_bits[at]) // 8) + place.cut.peak_bytes,
            inferences_per_download=request.inferences_per_download,
            by_cut=self._by_cut(candidates, eligible),
            predicted_drop=self.curve.drop_at(lost),
            uncounted=tuple(self.uncounted),
        )

    def _by_cut(self, candidates: Candidates, eligible: NDArray[np.bool_]) -> tuple[CutPrice, ...]:
        prices = []
        for index, place in enumerate(self.cuts):
            row = np.zeros_like(eligible)
            row[index] = True
            best = choose(candidates, eligible & row)
            at = (best.cut, best.level)
            prices.append(
                CutPrice(
                    cut=place.cut.crossing,
                    layers=place.layers,
                    time_s=float(candidates.prices.time_s[at]),
                    energy_j=float(candidates.prices.energy_j[at]),
                    cost=float(candidates.prices.server_cost[at]),
                    objective=float(candidates.objective[at]),
                    feasible=best.limit is None,
                )
            )
        return tuple(prices)

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


def _degradation(places: Sequence[LayerProfile | CutProfile]) -> NDArray[np.float64]:
    """psi of eqs. 20 and 21 at every width, shape (places, widths)."""
    noise = noise_by_width(np.array([place.noise for place in places]))
    return np.asarray(noise / np.array([place.robustness for place in places])[:, None])


def _why(choice: Choice, plan: Plan, request: Request) -> str:
    assert choice.limit is not None
    value: Any = request
    for part in choice.limit.split("."):
        value = getattr(value, part)
    needs = {
        "max_accuracy_drop": f"the widths in device.weight_bits = {request.device.weight_bits} are too few bits",
        "device.memory_bytes": f"it needs {plan.device_memory_bytes:,} bytes",
        "deadline_s": f"it takes {plan.time_s:.6g} s",
        "energy_budget_j": f"it takes {plan.energy_j:.6g} J",
    }[choice.limit]
    return (
        f"no plan meets {choice.limit} = {value}: the nearest, cut at {', '.join(plan.cut)}, oversteps it "
        f"{choice.overstep:.3g} times ({needs}); its plan is in the error's `nearest`"
    )
