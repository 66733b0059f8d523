"""Plans by the paper's method: a profile's numbers in the form of its equations, and its answer as a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError
from .plan import CutPrice, Plan, PlannedLayer
from .request import Request
from .solver.choice import Choice
from .solver.paper import Candidates, Chain, Patterns, choose, offline_patterns, price_patterns

if TYPE_CHECKING:
    from .model_profile import CutProfile, LayerProfile, Profile


@dataclass(frozen=True)
class PaperPlanner:
    """Algorithm 1 once, Algorithm 2 for every request."""

    profile: Profile

    @cached_property
    def _budgets(self) -> list[float]:
        """Delta(a) of eq. 23 for every level, strictest first; for a drop of 0 that of a tenth of the first level.

        By eq. 22 a degradation of mean sigma* costs the accuracy rho was measured at; the margins carry it to other
        drops.
        """
        reference = self.profile.curve.noise_at(self.profile.reference_drop)
        drops = [self.profile.levels[0] / 10, *self.profile.levels]
        return [self.profile.adversarial_noise * self.profile.curve.noise_at(drop) / reference for drop in drops]

    @cached_property
    def _chain(self) -> Chain:
        cuts = [place.cut for place in self.profile.cuts]
        return Chain(
            sizes=np.array([layer.parameters for layer in self.profile.layers], dtype=np.float64),
            degradation=_degradation(self.profile.layers),
            layers=np.array([place.layers for place in self.profile.cuts], dtype=np.int64),
            crossing_sizes=np.array([cut.elements for cut in cuts], dtype=np.float64),
            crossing_degradation=_degradation(self.profile.cuts),
            device_macs=np.array([cut.device_macs for cut in cuts], dtype=np.float64),
            server_macs=np.array([cut.server_macs for cut in cuts], dtype=np.float64),
            exact_bits=np.array([cut.exact_bits for cut in cuts], dtype=np.float64),
            peak_bytes=np.array([cut.peak_bytes for cut in cuts], dtype=np.float64),
        )

    @cached_property
    def _patterns(self) -> Patterns:
        return offline_patterns(self._chain, self._budgets)

    def first_drop(self, request: Request) -> float:
        """The largest accuracy level that ``request`` allows, 0 among them."""
        return max(drop for drop in (0.0, *self.profile.levels) if drop <= request.max_accuracy_drop)

    def stricter_drop(self, drop: float) -> float | None:
        """The level before ``drop``; None at 0."""
        return max((level for level in (0.0, *self.profile.levels) if level < drop), default=None)

    def best(self, request: Request, cut: int | None, drop: float) -> tuple[Plan, Choice]:
        """The best plan that meets ``request`` at a level of ``drop`` at most, and its place; the nearest if there is
        none.

        Args:
            cut: the place of a cut in ``profile.cuts``, to plan for it alone.

        Raises:
            RequestError: the device's speed depends on the width, which no equation of the paper knows.
        """
        if request.device.speed_depends_on_width:
            raise RequestError(
                f"device.cycles_per_mac = {request.device.cycles_per_mac}: the paper's method knows one speed for all "
                "MACs (eqs. 5, 6); give one number, or plan with method='exact'"
            )
        if request.device.activation_bits_inside is not None:
            raise RequestError(
                "device.activation_bits_inside: the paper's method knows no noise inside a head; leave it out, or plan "
                "with method='exact'"
            )
        if request.device.operators is not None:
            raise RequestError(
                "device.operators: the paper's method knows one speed for all MACs (eqs. 5, 6); leave them out, or "
                "plan with method='exact'"
            )
        candidates = price_patterns(request, self._chain, self._patterns)
        allowed = np.array([0.0, *self.profile.levels]) <= drop
        everywhere = np.ones(len(self.profile.cuts), dtype=bool)
        here = everywhere if cut is None else np.arange(len(self.profile.cuts)) == cut
        choice = choose(candidates, here[:, None] & allowed)
        return self._plan_at(request, candidates, choice, everywhere[:, None] & allowed), choice

    def _plan_at(self, request: Request, candidates: Candidates, choice: Choice, eligible: NDArray[np.bool_]) -> Plan:
        at = (choice.cut, choice.level)
        place = self.profile.cuts[choice.cut]
        widths = candidates.weights[at]
        crossing_bits = int(candidates.crossing[at])
        prices = {name: float(values[at]) for name, values in candidates.prices.as_dict().items()}
        lost = (
            float(candidates.degradation[at])
            * self.profile.curve.noise_at(self.profile.reference_drop)
            / self.profile.adversarial_noise
        )
        return Plan(
            model=self.profile.model,
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
                for index, layer in enumerate(self.profile.layers)
            ),
            activation_bits={name: crossing_bits for name in place.cut.crossing if name in self.profile.ranges},
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
            predicted_drop=self.profile.curve.drop_at(lost),
            uncounted=tuple(self.profile.uncounted),
            weights_hash=self.profile.weights_hash,
        )

    def _by_cut(self, candidates: Candidates, eligible: NDArray[np.bool_]) -> tuple[CutPrice, ...]:
        prices = []
        for index, place in enumerate(self.profile.cuts):
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


def _degradation(places: Sequence[LayerProfile | CutProfile]) -> NDArray[np.float64]:
    """psi of eqs. 20 and 21 at every width, shape (places, widths)."""
    robustness = np.array([place.robustness for place in places])
    return np.asarray(np.array([place.noise_by_width for place in places]) / robustness[:, None])


def why_infeasible(choice: Choice, plan: Plan, request: Request) -> str:
    """What to tell whoever made ``request``, whose nearest plan is ``plan``."""
    assert choice.limit is not None
    value: Any = request
    for part in choice.limit.split("."):
        value = getattr(value, part)
    device = request.device
    widths = f"device.weight_bits = {device.weight_bits}"
    if device.activation_bits is not None:
        widths += f" and device.activation_bits = {device.activation_bits}"
    if device.runtime is not None:
        widths += f" that device.runtime = {device.runtime!r} carries"
    needs = {
        "max_accuracy_drop": f"the widths in {widths} are too few bits",
        "device.memory_bytes": f"it needs {plan.device_memory_bytes:,} bytes",
        "deadline_s": f"it takes {plan.time_s:.6g} s",
        "energy_budget_j": f"it takes {plan.energy_j:.6g} J",
    }[choice.limit]
    return (
        f"no plan meets {choice.limit} = {value}: the nearest, cut at {', '.join(plan.cut)}, oversteps it "
        f"{choice.overstep:.3g} times ({needs}); its plan is in the error's `nearest`"
    )
