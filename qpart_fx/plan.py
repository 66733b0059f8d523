"""A plan: where the graph is cut, how many bits each weight gets, what it costs, and what is known of its accuracy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, field, replace
from dataclasses import fields as fields_of
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from .container import write_file
from .errors import ArtifactError
from .resolution import RESOLUTIONS, width_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")

VERSION = 1

MAKE_BY_CUT = "_make_by_cut"
"""Where an :func:`unchecked` plan without ``by_cut`` keeps the function that makes it."""

TERMS = (
    "device_time_s download_time_s upload_time_s round_trip_s server_time_s device_energy_j receive_energy_j "
    "transmit_energy_j server_cost"
).split()
"""What :attr:`Plan.prices` holds, the fields of :class:`~qpart_fx.prices.Prices`."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PlannedLayer:
    """A weighted layer in a plan. ``bits``, the width that its codes fit in, is None for a layer on the server, whose
    weights stay in float; ``coded_bits``, of all its weights in the head's file, where that is not eq. 14.
    ``resolution``: how fine its steps are, in bits (:data:`~qpart_fx.resolution.RESOLUTIONS`); by default ``bits``."""

    name: str
    operation: str
    macs: int
    parameters: int
    bits: Annotated[int, Field(ge=2, le=16)] | None
    coded_bits: Annotated[float, Field(ge=0)] | None = None
    resolution: float | None = None

    def __post_init__(self) -> None:
        if self.resolution is None and self.bits is not None:
            object.__setattr__(self, "resolution", float(self.bits))
        if self.resolution not in (None, *RESOLUTIONS):
            raise ValueError(f"there is no resolution of {self.resolution} bits")
        widest = None if self.resolution is None else width_of(self.resolution)
        if (self.bits is None) != (widest is None) or (self.bits or 0) > (widest or 0):
            raise ValueError(f"codes of a resolution of {self.resolution} bits are not {self.bits} bits wide")

    @property
    def weight_bytes(self) -> float:
        """Bytes of its weights in the head."""
        return ((self.bits or 0) * self.parameters if self.coded_bits is None else self.coded_bits) / 8


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class CutPrice:
    """What the best pattern at one cut would cost under the same request (one point of the paper's Fig. 5); where the
    device's speed depends on the width, one close to the best."""

    cut: tuple[str, ...]
    layers: int
    time_s: float
    energy_j: float
    cost: float
    objective: float
    feasible: bool


def _all_terms(prices: dict[str, float]) -> dict[str, float]:
    if missing := [name for name in TERMS if name not in prices]:
        raise ValueError(f"missing: {', '.join(missing)}")
    return prices


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Plan:
    """The compiler's answer to a request. Times and energies are for one inference, a download's share included.

    ``cut``: names of the crossing nodes. ``device_nodes``: every node on the device. ``activation_bits``: the width of
    each crossing value that is quantized. ``download_bytes``: of the head's file; with the paper's rounding or method,
    the payload of eq. 14, as ``upload_bytes`` is. ``updates_held_head``: the request says which other head the device
    holds, and ``download_bytes`` are those of the update: layers held at their resolution cost nothing, at another what
    the difference of their codes takes, estimated from some channels of large ones. ``tuned``: the head's weights were
    fitted to the float model afterwards; bytes are those of its file, prices those that the plan was chosen by.
    ``activation_bits_inside``: of the values inside the head, None where they stay in float.
    ``device_memory_bytes``: the head's file and the peak of live activations. ``lower_bound``: proven on ``objective``,
    None where the method proves none.
    Accuracies are fractions; ``measured_drop``, ``drop_upper_bound`` (which the true drop exceeds with probability
    1 - ``confidence`` at most) and ``samples`` are None where nothing was measured; ``labelled`` says whether the drop
    is one of accuracy or of agreement with the float model.
    ``drop_upper_bound`` holds for the plans tried for one request. ``table_drop_upper_bound``, which is higher, holds
    for every plan of a profile at once: with that probability at most, measured on the same samples, any plan at all
    has a true drop above its own. It is close where the profile stores the plan's widths, for devices of any width,
    and far where a limit, a forced cut or the paper's method made others.
    ``samples_needed``: how many samples would prove the budget if they lost as these did; None where no number would.
    ``uncounted``: nodes whose MACs nobody knows, priced at nothing. ``weights_hash``: of the weights it was made for.
    """

    model: str
    method: str
    max_accuracy_drop: float
    cut: tuple[str, ...]
    device_nodes: tuple[str, ...]
    layers: tuple[PlannedLayer, ...]
    activation_bits: dict[str, Annotated[int, Field(ge=2, le=16)]]
    time_s: float
    energy_j: float
    cost: float
    objective: float
    prices: Annotated[dict[str, float], AfterValidator(_all_terms)]
    download_bytes: int
    upload_bytes: int
    device_memory_bytes: int
    inferences_per_download: int
    by_cut: tuple[CutPrice, ...] = field(default_factory=tuple)  # without a value in the class: see __getattr__
    lower_bound: float | None = None
    predicted_drop: float | None = None
    measured_drop: float | None = None
    drop_upper_bound: float | None = None
    table_drop_upper_bound: float | None = None
    confidence: float | None = None
    samples: int | None = None
    samples_needed: int | None = None
    labelled: bool | None = None
    uncounted: tuple[str, ...] = ()
    weights_hash: str | None = None
    updates_held_head: bool = False
    tuned: bool = False
    activation_bits_inside: Literal[8] | None = None

    if not TYPE_CHECKING:  # who checks types would take any name for an attribute

        def __getattr__(self, name: str) -> Any:
            """``by_cut`` of a plan made online: made when it is first read, since it takes longer than the rest."""
            made = vars(self)
            if name == "by_cut":
                if (make := made.get(MAKE_BY_CUT)) is not None:
                    made["by_cut"] = make()
                    made.pop(MAKE_BY_CUT, None)
                if "by_cut" in made:  # now, or because another thread has made it
                    return made["by_cut"]
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    def __getstate__(self) -> dict[str, Any]:
        _ = self.by_cut  # a copy should not need the table that it is made from
        return vars(self)

    @property
    def weight_bits(self) -> dict[str, int]:
        """Bits of each weighted node on the device."""
        return {layer.name: layer.bits for layer in self.layers if layer.bits is not None}

    @property
    def resolutions(self) -> dict[str, float]:
        """How fine the steps of each weighted node on the device are, in bits; ``weight_bits`` are these rounded up."""
        return {layer.name: layer.resolution for layer in self.layers if layer.resolution is not None}

    def with_evidence(self, **evidence: Any) -> Plan:
        """The same plan with what was measured of its accuracy."""
        return replace(self, **evidence)

    def to_json(self) -> str:
        """The plan as JSON, with the version of its format; :meth:`from_json` gives an equal plan."""
        return json.dumps({"format": "qpart.plan", "version": VERSION, **asdict(self)}, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Plan:
        """The plan that :meth:`to_json` wrote.

        Raises:
            ArtifactError: the text is not JSON, not a plan, of a later version, or a field of it is wrong.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"not a plan: it is not JSON ({error})") from None
        if not isinstance(data, Mapping) or data.get("format") != "qpart.plan":
            raise ArtifactError("not a plan: the JSON has no field format = 'qpart.plan'")
        if data.get("version") != VERSION:
            raise ArtifactError(f"a plan of version {data.get('version')!r}: this qpart_fx reads version {VERSION}")
        try:
            return _ADAPTER.validate_python({key: data[key] for key in data if key not in ("format", "version")})
        except ValidationError as error:
            problems = error.errors(include_url=False)
            where = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg'].lower()}" for item in problems[:5])
            raise ArtifactError(f"not a valid plan: {where}") from None

    def save(self, path: str | Path) -> None:
        """Write :meth:`to_json` to ``path``, whole or not at all.

        Raises:
            ArtifactError: it cannot be written there.
        """
        write_file(Path(path), (self.to_json() + "\n").encode())

    def plot(self, path: str | Path | None = None) -> Figure:
        """Bits by layer, and the prices by cut as in the paper's Fig. 5; written to ``path`` if one is given.

        Raises:
            MissingDependencyError: matplotlib is not installed (the extra ``plot``).
            ArtifactError: the picture cannot be written to ``path``.
        """
        from .plot import plot_plan

        return plot_plan(self, path)

    def __str__(self) -> str:
        from .plan_table import table

        return table(self)


_ADAPTER = TypeAdapter(Plan)


def unchecked(cls: type[T], **fields: Any) -> T:
    """A record of ``cls`` with ``fields`` that are known to be right, and its defaults: an online answer has no time to
    validate them."""
    made = object.__new__(cls)
    vars(made).update(_defaults(cls), **fields)  # type: ignore[arg-type]  # a class is hashable
    return made


@cache
def _defaults(cls: type) -> dict[str, Any]:
    return {item.name: item.default for item in fields_of(cls) if item.default is not MISSING}
