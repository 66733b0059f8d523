"""What a head's file says of its plan: which one it is, and what proves that it keeps the accuracy.

Widths, steps and the graph are in the file anyway. Needs nothing but Python.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

from .errors import ArtifactError

if TYPE_CHECKING:
    from .plan import Plan

_WEIGHTS_DIGITS, _PLAN_DIGITS = 32, 16
_DIGITS = 4
_FRACTIONS = "max_accuracy_drop predicted_drop measured_drop drop_upper_bound confidence".split()


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """Fields as of :class:`~qpart_fx.Plan`, drops to four digits, the bound rounded up.

    ``weights_hash`` and ``plan_hash`` are the first 32 and 16 digits of SHA-256s: of the model's weights, and of the
    plan's JSON.
    """

    model: str
    weights_hash: str | None
    plan_hash: str
    cut: tuple[str, ...]
    max_accuracy_drop: float
    predicted_drop: float | None
    measured_drop: float | None
    drop_upper_bound: float | None
    confidence: float | None
    samples: int | None

    @classmethod
    def of(cls, plan: Plan) -> PlanSummary:
        return cls(
            model=plan.model,
            weights_hash=plan.weights_hash and plan.weights_hash[:_WEIGHTS_DIGITS],
            plan_hash=plan_hash(plan),
            cut=plan.cut,
            max_accuracy_drop=plan.max_accuracy_drop,
            predicted_drop=_rounded(plan.predicted_drop),
            measured_drop=_rounded(plan.measured_drop),
            drop_upper_bound=_rounded_up(plan.drop_upper_bound),
            confidence=plan.confidence,
            samples=plan.samples,
        )

    def to_record(self) -> list[Any]:
        """The fields in their order, as JSON: names would take more than they do."""
        return [list(value) if isinstance(value, tuple) else value for value in astuple(self)]

    @classmethod
    def from_record(cls, record: Any) -> PlanSummary:
        """The summary that :meth:`to_record` wrote.

        Raises:
            ArtifactError: it is not one.
        """
        try:
            model, weights_hash, plan_hash, cut, *numbers = record
            made = cls(model, weights_hash, plan_hash, tuple(cut), *numbers)
        except (TypeError, ValueError) as error:
            raise ArtifactError(f"what the file says of its plan is malformed: {error}") from None
        texts = (made.model, made.plan_hash, *made.cut, *([] if weights_hash is None else [weights_hash]))
        fractions = [getattr(made, name) for name in _FRACTIONS]
        right = all(isinstance(text, str) for text in texts) and isinstance(cut, list)
        right &= all(value is None or type(value) in (int, float) for value in fractions)
        if not right or None in fractions[:1] or type(made.samples) not in (int, type(None)):
            raise ArtifactError("what the file says of its plan is malformed: a field is of another type")
        return made


def plan_hash(plan: Plan) -> str:
    """What a head's file knows its plan by, 16 hexadecimal digits."""
    return hashlib.sha256(plan.to_json().encode()).hexdigest()[:_PLAN_DIGITS]


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")


def _rounded_up(value: float | None) -> float | None:
    if value is None or (rounded := float(f"{value:.{_DIGITS}g}")) >= value:
        return _rounded(value)
    unit = 10.0 ** (math.floor(math.log10(abs(value))) + 1 - _DIGITS)
    return float(f"{rounded + unit:.{_DIGITS}g}")
