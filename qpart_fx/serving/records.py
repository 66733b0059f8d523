"""What a plan is known by: on every server of a catalog by the same id, from which nothing is missing to make it again.

A plan is not made anew from the query that led to it: prices that follow the load, the head that a device held, or
another processor's last bits would make another one of it. It is told as it is.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace

from ..plan import TERMS, Plan
from .catalog import Model


@dataclass(frozen=True, slots=True)
class Record:
    """A plan of ``model``, as JSON, with nothing in it that differs from request to request; None for the whole float
    model, which has no head."""

    plan_id: str
    model: Model
    plan: str | None

    @classmethod
    def of(cls, model: Model, plan: str) -> Record:
        """That of a plan as JSON. Its id also has the model's name: names are told apart by tokens.

        Raises:
            ArtifactError: it is no plan.
        """
        plan = general(plan)
        digest = hashlib.sha256(f"{model.name}\n{model.hash}\n{plan}".encode()).hexdigest()
        return cls(digest[:32], model, plan)

    @classmethod
    def whole(cls, model: Model) -> Record:
        """The float model, cut at its input."""
        return cls(f"whole:{model.name}", model, None)


def general(plan: str) -> str:
    """A plan as JSON without what differs between requests that lead to the same head, so that these share it. Its
    budget is then what it is predicted to lose."""
    read = Plan.from_json(plan)
    budget = read.max_accuracy_drop if read.predicted_drop is None else read.predicted_drop
    same = replace(
        read, max_accuracy_drop=budget, time_s=0.0, energy_j=0.0, cost=0.0, objective=0.0,
        prices=dict.fromkeys(TERMS, 0.0), download_bytes=0, upload_bytes=0, device_memory_bytes=0,
        inferences_per_download=1, by_cut=(), lower_bound=None, updates_held_head=False,
    )  # fmt: skip
    return json.dumps(json.loads(same.to_json()))
