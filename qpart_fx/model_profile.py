"""All that is known offline about a model, and the plans and split models that follow from it for any request."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cut import Cut
from .drop_curve import DropCurve
from .errors import InfeasibleError, RequestError
from .exact_planner import ExactPlanner
from .node_work import NodeWork
from .noise import LINEAR_FROM, WIDTHS
from .paper_planner import PaperPlanner, why_infeasible
from .plan import Plan
from .plans import Plans, plan_all
from .request import Request

if TYPE_CHECKING:
    from torch import nn
    from torch.fx import GraphModule

    from .calibration import Batch
    from .cut_graph import CutGraph
    from .passes.capture import CaptureReport
    from .rounding import Rounding
    from .scores import Scorer
    from .split_model import SplitModel

METHODS = ("exact", "paper")
"""``"exact"``: proven best over every cut of the graph and every choice of bits. ``"paper"``: Algorithms 1 and 2 of the
paper as written, the reference that other methods are compared with; its bytes are those of eq. 14, and with a profile
of ``rounding="nearest"`` its quantizer is the paper's as well."""


@dataclass(frozen=True, slots=True)
class LayerProfile:
    """A weighted node. ``macs`` and ``activation_elements`` (of its output) are for one inference.

    ``noise_by_resolution``: sigma_w of eq. 18 at each resolution that the profile's rounding has, rising, predicted by
    backward passes and corrected by what was measured. ``bits_by_resolution``: of its weights in a head's file.
    ``channel_sensitivity``: for each weight by name, the mean squared norm of the Jacobian of the scores in the weights
    of each channel, along the weight's first dimension. ``robustness``: rho of eq. 22. ``noise_inside``: what values
    make that are rounded to 8 bits for the layer's integer kernels, if they are; None where that is not known.
    """

    name: str
    operation: str
    macs: int
    parameters: int
    activation_elements: int
    noise_by_resolution: Mapping[float, float]
    bits_by_resolution: Mapping[float, float]
    channel_sensitivity: Mapping[str, tuple[float, ...]] = field(repr=False)
    robustness: float
    noise_inside: float | None = None

    @property
    def sensitivity(self) -> float:
        """s_w of eq. 18: the noise on the output at zero bits, by the line through a width where noise is linear."""
        return self.noise_by_resolution[LINEAR_FROM] * 4.0**LINEAR_FROM

    @property
    def noise_by_width(self) -> tuple[float, ...]:
        """The noise at each of :data:`~qpart_fx.noise.WIDTHS`."""
        return tuple(self.noise_by_resolution[bits] for bits in WIDTHS)


@dataclass(frozen=True, slots=True)
class ValueProfile:
    """A value that may cross a cut, quantized: ``elements`` of one inference, and ``noise_by_width``, sigma_x of eq. 19
    at each of :data:`~qpart_fx.noise.WIDTHS`; of an input, the noise at which ``Profile.noise_curve`` says what it
    lost.
    """

    name: str
    elements: int
    noise_by_width: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class CutProfile:
    """A place where the chain of layers can be cut: after ``layers`` of them (p of the paper).

    ``noise_by_width``: sigma_x of eq. 19 at each of :data:`~qpart_fx.noise.WIDTHS`, of all that crosses.
    ``robustness``: rho of eq. 22, that of the last layer on the device; for p = 0, of the input.
    """

    cut: Cut
    layers: int
    noise_by_width: tuple[float, ...]
    robustness: float


@dataclass(frozen=True)
class Profile:
    """What does not depend on the request: the layers, the cuts, and how noise and accuracy hang together.

    Made by :func:`qpart_fx.profile`. ``weights_hash``: of the model's weights; :meth:`require_weights` compares.
    ``levels``: the accuracy drops that patterns are stored for. ``adversarial_noise``: mean sigma* of eq. 22.
    ``curve``: accuracy drop over noise on the output. ``reference_drop``: Delta_acc of eq. 22. ``ranges``: the
    calibrated range of every value that may cross. ``uncounted``: nodes whose MACs nobody knows, with their operations.
    ``graph``: the captured float model. ``check``: samples held back to measure plans on. ``closed_cuts``: every cut of
    the graph that can be best; of a graph that has too many, those that most likely are, and ``cut_graph`` holds all.
    ``head_bits``: what the head's file holds at each of ``closed_cuts`` beside the weights; 0 where eq. 14 prices it.
    ``rounding``: how weights become few bits. ``values``: those that may cross. ``noise_curve``: the drop over the
    noise that plans are predicted to make. ``inside``: the values that are rounded for integer kernels, and by whose
    range each is. ``work``: what the nodes that take time are made of, by name. ``scorer``: what counts as accuracy;
    None for a metric, which no file can hold.
    """

    model: str
    weights_hash: str
    layers: tuple[LayerProfile, ...]
    cuts: tuple[CutProfile, ...]
    values: tuple[ValueProfile, ...]
    closed_cuts: tuple[Cut, ...]
    head_bits: tuple[float, ...] = field(repr=False)
    cut_graph: CutGraph | None = field(repr=False)
    levels: tuple[float, ...]
    adversarial_noise: float
    curve: DropCurve = field(repr=False, compare=False)
    noise_curve: DropCurve = field(repr=False, compare=False)
    reference_drop: float
    ranges: Mapping[str, tuple[float, float]] = field(repr=False)
    inside: Mapping[str, str] = field(repr=False)
    work: Mapping[str, NodeWork] = field(repr=False)
    uncounted: Mapping[str, str]
    samples: int
    graph: GraphModule = field(repr=False, compare=False)
    rounding: Rounding = field(repr=False, compare=False)
    fit: Sequence[Batch] = field(repr=False, compare=False)
    check: Sequence[Batch] = field(repr=False, compare=False)
    scorer: Scorer | None = field(repr=False, compare=False)
    _update_bits: dict[tuple[str, float], tuple[float, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def complete(self) -> bool:
        """Whether ``closed_cuts`` are all cuts of the graph that can be best."""
        return self.cut_graph is None

    @property
    def captured(self) -> CaptureReport:
        """The way by which the model became a graph, and why those tried before failed."""
        from .passes.capture import capture_report

        return capture_report(self.graph)

    def require_weights(self, model: nn.Module) -> None:
        """Refuse a model with other weights than the profile was made for, one trained further, for example.

        Raises:
            RequestError: the weights are others.
        """
        from .weights_hash import weights_hash

        if weights_hash(model) != self.weights_hash:
            raise RequestError(
                f"this profile of {self.model} was made for other weights than those of the {type(model).__name__} "
                "given: profile the model again"
            )

    def update_bits(self, layer: str, held: float) -> tuple[float, ...]:
        """Bits of the weights of a layer in an update of a head, at each resolution, where the device has them at the
        resolution ``held`` and is sent the difference; of a large one, estimated."""
        if (layer, held) not in self._update_bits:
            from .head_size import update_bits
            from .meta import info

            node = next(node for node in self.graph.graph.nodes if node.name == layer)
            weights = [(name, self.graph.get_parameter(name)) for name in info(node).weights]
            each = [update_bits(self.rounding, name, weight, held) for name, weight in weights]
            self._update_bits[layer, held] = tuple(map(sum, zip(*each, strict=True)))
        return self._update_bits[layer, held]

    def plan(self, request: Request, *, cut: str | Sequence[str] | None = None, method: str = "exact") -> Plan:
        """The cheapest plan that meets ``request``: Algorithm 2 over the stored patterns.

        The accuracy level is the largest of ``levels`` that the request allows.

        Args:
            cut: plan for this cut alone: names of the crossing nodes, ``"input"`` (all on the server) or ``"output"``
                (all on the device).
            method: one of :data:`METHODS`.

        Raises:
            InfeasibleError: no plan meets the request; names the limit that binds and carries the nearest plan.
            RequestError: no such cut or method.
        """
        return self._best(request, cut, method)

    def plan_many(self, requests: Iterable[Request]) -> Plans:
        """The plan that :meth:`plan` makes for each of ``requests``, as a sequence: a million in seconds.

        All are chosen now, and each is made when it is read. ``plans.feasible`` says which requests have a plan: to
        read that of another raises the InfeasibleError that :meth:`plan` raises.

        Raises:
            RequestError: one of ``requests`` is something else.
        """
        return plan_all(self._exact, self.plan, requests)

    def compile(
        self,
        plan_or_request: Plan | Request,
        *,
        cut: str | Sequence[str] | None = None,
        method: str = "exact",
        calibration: Iterable[Any] | None = None,
        tune: bool | Iterable[Any] = False,
        seed: int = 0,
        progress: bool = True,
    ) -> SplitModel:
        """Lower a plan, or the plan for a request, to a split model, and measure what it loses on held-out samples.

        For a request, a plan that loses more than its budget there is replaced by a stricter one. Where the samples are
        enough to prove that the budget is kept, at the price of half of it at most, so is one that they do not prove.
        The bound on the drop allows for the number of plans tried.

        Args:
            cut, method: as for :meth:`plan`.
            calibration: batches to measure on, instead of the part of the profile's data that was held back. A profile
                from a file has none of its own: without them nothing is measured.
            tune: fit the head's rounded weights, biases and norms together to the float model, on the samples that the
                profile was made with, or on these batches, none of which may measure: ten runs forward and back over
                them, for some tenths of the noise less. For a request, so much more is planned for, so that fewer bytes
                keep the budget. Prices stay those of the plan as it was chosen, ``download_bytes`` are the file's.
                A model that runs forward only stays as it is.
            seed: of the order in which tuning takes the samples.
            progress: show a progress bar where there is a terminal.

        Raises:
            InfeasibleError: no plan meets the request, or none of those that should keeps the accuracy when measured.
            RequestError: the plan is for another model, or there is no such cut.
            CalibrationError: ``calibration`` is broken or does not fit the model.
        """
        from .plan_compiler import PlanCompiler

        check = self.check if calibration is None else self._read(calibration)
        samples = self._samples_to_tune(tune)
        compiler = PlanCompiler(self, self._exact, check, samples, seed, progress)
        if isinstance(plan_or_request, Plan):
            self._require_known(plan_or_request)
            return compiler.of_plan(plan_or_request)
        request = plan_or_request
        return compiler.of_request(request, self._planner(method), partial(self._best, request, cut, method))

    def _samples_to_tune(self, tune: bool | Iterable[Any]) -> Sequence[Batch] | None:
        """Those that are asked for; None where none are."""
        from .rounding import NearestRounding

        if tune is False:
            return None
        if isinstance(self.rounding, NearestRounding):
            raise RequestError('tune: a profile of rounding="nearest" stands for the paper\'s quantizer, as it is')
        samples = self.fit if tune is True else self._read(tune)
        if not samples or self.scorer is None:
            raise RequestError("tune: a profile from a file has no samples of its own; give batches, tune=loader")
        return samples

    @cached_property
    def _paper(self) -> PaperPlanner:
        return PaperPlanner(self)

    @cached_property
    def _exact(self) -> ExactPlanner:
        return ExactPlanner(self)

    def _planner(self, method: str) -> ExactPlanner | PaperPlanner:
        if method not in METHODS:
            raise RequestError(f"method {method!r} is unknown: choose one of {', '.join(METHODS)}")
        return self._exact if method == "exact" else self._paper

    def _best(self, request: Request, cut: str | Sequence[str] | None, method: str, drop: float | None = None) -> Plan:
        planner = self._planner(method)
        if request.device_holds is not None and method == "paper":
            raise RequestError('Request.device_holds: method="paper" prices whole heads only; leave one of them out')
        place = None if cut is None else _place_of(cut, self._cuts(method))
        if cut == "output":
            self._require_device_runs_all()
        plan, choice = planner.best(request, place, planner.first_drop(request) if drop is None else drop)
        if choice.limit is not None:
            raise InfeasibleError(why_infeasible(choice, plan, request), limit=choice.limit, nearest=plan)
        return plan

    def _require_device_runs_all(self) -> None:
        from .meta import info

        if opaque := next((node.name for node in self.graph.graph.nodes if info(node).opaque), None):
            raise RequestError(
                f"cut: the device cannot run all: '{opaque}' runs on the server only, since what it does depends on "
                "the contents of tensors; name another cut, or none"
            )

    def _cuts(self, method: str) -> Sequence[Cut]:
        return self.closed_cuts if method == "exact" else [place.cut for place in self.cuts]

    def _require_known(self, plan: Plan) -> None:
        cuts = self._cuts(plan.method)
        cut = cuts[_place_of(plan.cut, cuts)]
        planned = [(layer.name, layer.macs, layer.parameters) for layer in plan.layers]
        known = [(layer.name, layer.macs, layer.parameters) for layer in self.layers]
        quantized = {name for name in cut.crossing if name in self.ranges}
        same = planned == known and plan.device_nodes == cut.device_nodes and plan.activation_bits.keys() == quantized
        if same and plan.weights_hash not in (None, self.weights_hash):
            raise RequestError(f"the plan is for a {plan.model} of other weights than this profile's: plan again")
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

    def save(self, path: str | Path) -> None:
        """Write the profile, its graph and its weights to one file, which :func:`qpart_fx.load` reads back.

        The samples stay behind. What is read back predicts no less than some plans really lost on those held out, which
        are measured now: its plans may be a little more careful than those of the profile here.
        """
        from .profile_file import save_profile

        save_profile(self, Path(path))


def _place_of(names: str | Sequence[str], cuts: Sequence[Cut]) -> int:
    if names in ("input", "output"):
        return 0 if names == "input" else len(cuts) - 1
    wanted = {names} if isinstance(names, str) else set(names)
    for index, cut in enumerate(cuts):
        if set(cut.crossing) == wanted:
            return index
    known = "; ".join(", ".join(cut.crossing) for cut in cuts[:: max(1, len(cuts) // 20)])
    raise RequestError(f"cut: {', '.join(sorted(wanted))} is none of the {len(cuts)} profiled cuts, such as: {known}")
