"""Execution: what a policy has a device and the server do for an inference, and the answers that come of it.

Times and energies of computing are the price model's (eqs. 5-8), those of the link the simulation's. Answers are real:
the two graph modules of a plan are run over the judged samples, once for all inferences with that plan.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import qpart_fx as qpart
from qpart_fx.prices import price

FLOAT_BITS = 32

Right = NDArray[np.bool_]
"""Whether each judged sample is answered rightly, shape (samples,)."""


@dataclass(frozen=True)
class Work:
    """One inference under a plan. ``head``: what the device has to hold for it; two that are equal are one download.
    ``right``: None where no answers are looked at."""

    head: Hashable
    download_bits: float
    upload_bits: float
    device_s: float
    device_energy_j: float
    server_s: float
    right: Right | None = None


class Policy(Protocol):
    """Decides what is done where."""

    def work(self, model: str, request: qpart.Request) -> Work | None:
        """For a request; None where it serves none, which counts as refused."""


@dataclass
class Planned:
    """Plans of profiles, by name of the model: ours, or the paper's.

    Args:
        cut: one for all requests, ``"input"`` or ``"output"`` for example; None for the best.
        judged: of each model, inputs and labels whose answers are looked at.
    """

    profiles: Mapping[str, qpart.Profile]
    method: str = "exact"
    cut: str | None = None
    judged: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _right: dict[Hashable, Right] = field(default_factory=dict, init=False, repr=False)

    def work(self, model: str, request: qpart.Request) -> Work | None:
        profile = self.profiles[model]
        try:
            plan = profile.plan(request, cut=self.cut, method=self.method)
        except qpart.InfeasibleError:
            return None
        head = (model, plan.cut, *plan.resolutions.items(), *plan.activation_bits.items())
        if model in self.judged and head not in self._right:
            split = replace(profile, check=()).compile(plan)  # as it is: judged here, not there
            self._right[head] = right(lambda x: split.tail(*split.head(x)), *self.judged[model])
        return Work(
            head=head,
            download_bits=8.0 * plan.download_bytes,
            upload_bits=8.0 * plan.upload_bytes,
            device_s=plan.prices["device_time_s"],
            device_energy_j=plan.prices["device_energy_j"],
            server_s=plan.prices["server_time_s"],
            right=self._right.get(head),
        )


@dataclass
class Unoptimised:
    """The paper's "no optimisation": the best cut between layers, and all that crosses, weights too, in float."""

    profiles: Mapping[str, qpart.Profile]
    judged: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _right: dict[str, Right] = field(default_factory=dict, init=False, repr=False)

    def work(self, model: str, request: qpart.Request) -> Work | None:
        profile = self.profiles[model]
        weights = np.cumsum([0, *(layer.parameters for layer in profile.layers)], dtype=np.float64)
        sent = np.array([FLOAT_BITS * place.cut.elements + place.cut.exact_bits for place in profile.cuts])
        heads = FLOAT_BITS * weights[[place.layers for place in profile.cuts]]
        prices = price(
            request,
            device_macs=np.array([place.cut.device_macs for place in profile.cuts], dtype=np.float64),
            server_macs=np.array([place.cut.server_macs for place in profile.cuts], dtype=np.float64),
            download_bits=heads,
            upload_bits=sent.astype(np.float64),
        )
        limit = request.device.memory_bytes
        fits = heads / 8 <= (np.inf if limit is None else limit)
        best = int(np.where(fits, prices.objective(request), np.inf).argmin())
        if not fits[best]:
            return None
        if model in self.judged and model not in self._right:
            self._right[model] = right(profile.graph, *self.judged[model])
        return Work(
            head=(model, "float", best),
            download_bits=float(heads[best]),
            upload_bits=float(sent[best]),
            device_s=float(prices.device_time_s[best]),
            device_energy_j=float(prices.device_energy_j[best]),
            server_s=float(prices.server_time_s[best]),
            right=self._right.get(model),
        )


def right(model: Callable[[Tensor], Tensor], inputs: Tensor, labels: Tensor) -> Right:
    """Whether ``model`` finds the labels."""
    with torch.no_grad():
        found = [model(x).argmax(1) == y for x, y in zip(inputs.split(64), labels.split(64), strict=True)]
    made: Right = torch.cat(found).numpy()
    return made
