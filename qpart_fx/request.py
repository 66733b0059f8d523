"""What a device asks for: its accuracy budget, its own speed, the server, the link, and what it minds paying for.

Every field is validated on construction and carries its unit in its name; a mistake raises
:class:`~qpart_fx.RequestError` naming the field. Requests are immutable: ``dataclasses.replace`` makes variants.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, field, fields
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

import numpy as np
from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    PlainValidator,
    SkipValidation,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)
from pydantic.dataclasses import dataclass

from . import channel
from .errors import RequestError
from .frozen import FrozenMapping
from .node_work import KINDS, OperatorCycles, Operators
from .plan import Plan
from .runtimes import OURS, carried_by, require_known, words

T = TypeVar("T")

# Far beyond anything physical, and tame enough that no price overflows.
Positive = Annotated[float, Field(gt=0, ge=1e-15, le=1e18, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, le=1e18, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Width = Annotated[int, Field(ge=2, le=16)]

PAPER_KAPPA = 1e-27
"""Energy of a device cycle is kappa * clock^2, in J. Table II's value is not legible in our copy of the paper; this one
gives 0.04 nJ a cycle at 200 MHz, as small processors of that class need."""

PAPER_SERVER_PRICE_PER_S = 1.0
"""zeta of eq. 8, likewise not legible. See ``Request.paper`` for what other values do."""


@dataclass_transform(frozen_default=True, field_specifiers=(field, Field))
def _validated(cls: type[T]) -> type[T]:
    """A frozen pydantic dataclass whose mistakes raise :class:`RequestError`."""
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    made: Any = dataclass(frozen=True, config=config)(cls)
    validating_init: Callable[..., None] = made.__init__

    @functools.wraps(validating_init)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            validating_init(self, *args, **kwargs)
        except ValidationError as error:
            raise RequestError(_explain(made, error)) from None

    made.__init__ = init
    return made  # type: ignore[no-any-return]  # pydantic's decorator forgets the class it was given


def _explain(cls: Any, error: ValidationError) -> str:
    names = list(cls.__dataclass_fields__)
    lines = []
    for problem in error.errors(include_url=False):
        first, *rest = problem["loc"]
        if isinstance(first, int):  # a positional argument
            first = names[first] if first < len(names) else first
        location = ".".join(str(part) for part in (cls.__name__, first, *rest))
        given = "" if problem["type"].startswith("missing") else f" = {problem['input']!r}"
        message = problem["msg"].removeprefix("Value error, ")
        lines.append(f"{location}{given}: {message[0].lower()}{message[1:]}")
    return "; ".join(lines)


def _widths(widths: tuple[int, ...]) -> tuple[int, ...]:
    if not widths:
        raise ValueError("name at least one width, from 2 to 16 bits")
    return tuple(sorted(set(widths)))


Widths = Annotated[tuple[Width, ...], AfterValidator(_widths)]


class CyclesByWidth(FrozenMapping[int, float]):
    """Cycles of a MAC for each of some widths, by rising width."""

    def __init__(self, cycles: Mapping[int, float]) -> None:
        super().__init__(dict(sorted(cycles.items())))

    @property
    def largest(self) -> float:
        """Those of the largest width."""
        return self[max(self)]

    def at(self, bits: int) -> float:
        """Those of the least width that is not below ``bits``, or else of the largest."""
        return next((cycles for width, cycles in self.items() if width >= bits), self.largest)


_ONE_SPEED = TypeAdapter(Positive)
_SPEEDS = TypeAdapter(dict[Width, Positive])


def _cycles(given: Any) -> float | Mapping[int, float]:
    if not isinstance(given, Mapping):
        return _ONE_SPEED.validate_python(given)
    if not given:
        raise ValueError("name the cycles of at least one width, from 2 to 16 bits")
    return CyclesByWidth(_SPEEDS.validate_python(dict(given)))


_CYCLES = TypeAdapter(Annotated[float, Field(ge=0, le=1e18, allow_inf_nan=False)])


def _operators(given: Any, info: ValidationInfo) -> Operators | None:
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise ValueError("give the cycles of each kind of operator, as qpart calibrate-device writes them")
    if isinstance(info.data.get("cycles_per_mac"), CyclesByWidth):
        raise ValueError("give one number for cycles_per_mac beside it")
    found = {}
    for kind, cycles in given.items():
        if kind not in KINDS:
            raise ValueError(f"there is no kind {kind!r}: name some of {', '.join(KINDS)}")
        record = asdict(cycles) if isinstance(cycles, OperatorCycles) else cycles
        names = [item.name for item in fields(OperatorCycles)]
        if not isinstance(record, Mapping) or not set(record) <= set(names):
            raise ValueError(f"{kind}: give some of {', '.join(names)}")
        found[kind] = OperatorCycles(**{name: _CYCLES.validate_python(value) for name, value in record.items()})
    return Operators(found)


def _runtime(name: str, info: ValidationInfo) -> str:
    require_known(name)
    if name in OURS and {"weight_bits", "activation_bits"} <= info.data.keys():
        stored, sent = info.data["weight_bits"], info.data["activation_bits"]
        _carried(name, "weight_bits", stored)
        _carried(name, "activation_bits", stored if sent is None else sent)
        if (inside := info.data.get("activation_bits_inside")) is not None:
            _carried(name, "activation_bits_inside", (inside,))
    return name


def _inside(bits: int | None, info: ValidationInfo) -> int | None:
    widths = info.data.get("weight_bits", ())
    if bits is not None and widths and min(widths) > bits:
        raise ValueError(f"integer kernels take weights of {bits} bits at most, and weight_bits has none")
    return bits


def _carried(runtime: str, name: str, widths: tuple[int, ...], where: str = "") -> tuple[int, ...]:
    """Those of a device's ``widths``, of the field ``name``, that its runtime carries.

    Raises:
        RequestError: it carries none of them.
    """
    carried = getattr(carried_by(runtime), name)
    common = tuple(bits for bits in widths if bits in carried)
    if not common:
        raise RequestError(f"{where}its backend carries none of {name} = {widths}, but {words(carried)}")
    return common


def _as_record(value: Any) -> dict[str, Any]:
    """Of a part of a request, for JSON."""
    if isinstance(value, CyclesByWidth):
        return {str(bits): cycles for bits, cycles in value.items()}
    if isinstance(value, Mapping):
        return dict(value)
    return {item.name: getattr(value, item.name) for item in fields(value)}


def _object_in(text: str | bytes, what: str) -> dict[str, Any]:
    """The object that JSON holds.

    Raises:
        RequestError: it holds none.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"not a {what}: it is no JSON ({error})") from None
    if not isinstance(record, dict):
        raise RequestError(f"not a {what}: the JSON is no object")
    return record


@_validated
class Device:
    """The device that runs the head.

    ``clock_hz``: cycles a second (f of eq. 5). ``cycles_per_mac``: gamma of eq. 5, one number, or ``{bits: cycles}``
    where MACs with narrow weights take fewer; see :meth:`cycles_at`. ``kappa``: energy of a cycle is
    kappa * clock_hz**2 joules (eq. 6). ``memory_bytes``: what the head's weights and the peak of its live activations
    must fit in, None for no limit. ``weight_bits``: the widths that the device can store, from 2 to 16.
    ``activation_bits``: those that it can send, None for the same. ``activation_bits_inside``: 8 where integer kernels
    run the head: what goes into its convolutions and linear layers and comes out of them is rounded, and the accuracy
    budget pays for it; None for floats. ``runtime``: the backend whose files it runs; plans then have only widths that
    these carry, too. ``operators``: cycles of each kind of operator (:mod:`qpart_fx.node_work`), as ``qpart
    calibrate-device`` measures them, by which the head's time is priced rather than by ``cycles_per_mac``.
    """

    clock_hz: Positive
    cycles_per_mac: Annotated[float | Mapping[int, float], PlainValidator(_cycles)]
    kappa: NonNegative = PAPER_KAPPA
    memory_bytes: Annotated[int, Field(gt=0, le=1 << 60)] | None = None
    weight_bits: Widths = tuple(range(2, 17))
    activation_bits: Widths | None = None
    activation_bits_inside: Annotated[Literal[8] | None, AfterValidator(_inside)] = None
    runtime: Annotated[str, AfterValidator(_runtime)] | None = None
    operators: Annotated[Mapping[str, OperatorCycles] | None, PlainValidator(_operators)] = None

    def to_json(self) -> str:
        """The device as JSON; :meth:`from_json` gives an equal one."""
        return json.dumps(_as_record(self), default=_as_record, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Device:
        """The device that :meth:`to_json`, or ``qpart calibrate-device``, wrote.

        Raises:
            RequestError: the text is no JSON, or a field is missing, unknown or wrong; names the field.
        """
        return cls(**_object_in(text, "device"))

    @property
    def storable_bits(self) -> tuple[int, ...]:
        """The widths that weights may have: integer kernels take none above 8."""
        inside = self.activation_bits_inside
        if inside is not None:
            self._carried("activation_bits_inside", (inside,))
        widths = tuple(bits for bits in self.weight_bits if inside is None or bits <= inside)
        return self._carried("weight_bits", widths)

    @property
    def crossing_bits(self) -> tuple[int, ...]:
        """The widths that values which cross may have."""
        sent = self.weight_bits if self.activation_bits is None else self.activation_bits
        return self._carried("activation_bits", sent)

    def _carried(self, name: str, widths: tuple[int, ...]) -> tuple[int, ...]:
        if self.runtime is None:
            return widths
        return _carried(self.runtime, name, widths, f"Device.runtime = {self.runtime!r}: ")

    @property
    def float_cycles_per_mac(self) -> float:
        """Cycles of a MAC that no weight of the plan takes part in: those of the largest listed width."""
        cycles = self.cycles_per_mac
        return cycles.largest if isinstance(cycles, CyclesByWidth) else cycles  # type: ignore[return-value]  # a number

    def cycles_at(self, bits: int) -> float:
        """Cycles of a MAC with a weight of ``bits`` bits: those of the least listed width that holds it, or else of the
        largest one.

        >>> device = Device(clock_hz=1e9, cycles_per_mac={4: 0.5, 8: 1})
        >>> [device.cycles_at(bits) for bits in (2, 4, 5, 8, 9)]
        [0.5, 0.5, 1.0, 1.0, 1.0]
        """
        cycles = self.cycles_per_mac
        return cycles.at(bits) if isinstance(cycles, CyclesByWidth) else self.float_cycles_per_mac

    @property
    def speed_depends_on_width(self) -> bool:
        """Whether a plan's widths decide how long its MACs take."""
        cycles = self.cycles_per_mac
        return isinstance(cycles, CyclesByWidth) and any(
            cycles.at(bits) != cycles.largest for bits in self.storable_bits
        )


@_validated
class Server:
    """The server that runs the tail, as ``qpart calibrate-server`` measures it. ``price_per_s``: what a second of it
    costs (zeta of eq. 8)."""

    clock_hz: Positive
    cycles_per_mac: Positive
    price_per_s: NonNegative = 0.0

    def to_json(self) -> str:
        """The server as JSON; :meth:`from_json` gives an equal one."""
        return json.dumps(_as_record(self), indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Server:
        """The server that :meth:`to_json`, or ``qpart calibrate-server``, wrote.

        Raises:
            RequestError: the text is no JSON, or a field is missing, unknown or wrong; names the field.
        """
        return cls(**_object_in(text, "server"))


@_validated
class Link:
    """The link between device and server, seen from the device.

    ``uplink_bps`` carries activations, ``downlink_bps`` heads. ``transmit_power_w`` and ``receive_power_w`` are what
    the device spends while it sends and receives. ``round_trip_s`` is paid once an inference.
    """

    uplink_bps: Positive
    downlink_bps: Positive
    round_trip_s: NonNegative = 0.0
    transmit_power_w: NonNegative = 1.0
    receive_power_w: NonNegative = 0.0

    @classmethod
    def from_snr(cls, bandwidth_hz: float, snr: float, *, downlink_snr: float | None = None, **others: float) -> Link:
        """A link at the channel's capacity (eq. 13); ``others`` are further fields of :class:`Link`.

        >>> Link.from_snr(20e6, snr=3.0, transmit_power_w=1.0).uplink_bps
        40000000.0
        """
        uplink = channel.capacity_bps(bandwidth_hz, snr)
        downlink = uplink if downlink_snr is None else channel.capacity_bps(bandwidth_hz, downlink_snr)
        return cls(uplink_bps=uplink, downlink_bps=downlink, **others)

    @classmethod
    def rayleigh(
        cls,
        bandwidth_hz: float,
        large_scale_gain: float,
        noise_w_per_hz: float,
        *,
        seed: int,
        transmit_power_w: float = 1.0,
        server_power_w: float | None = None,
        **others: float,
    ) -> Link:
        """A link under one draw of Rayleigh fading (eqs. 11-13).

        Both directions see the same gain; the server sends with ``server_power_w``, by default the device's power.
        The same ``seed`` gives the same link.
        """
        if seed < 0:
            raise RequestError(f"Link.rayleigh: seed = {seed!r} must not be negative")
        gain = float(channel.rayleigh_gains(large_scale_gain, 1, np.random.default_rng(seed))[0])
        return cls.from_snr(
            bandwidth_hz,
            channel.snr(transmit_power_w, gain, noise_w_per_hz, bandwidth_hz),
            downlink_snr=channel.snr(
                transmit_power_w if server_power_w is None else server_power_w, gain, noise_w_per_hz, bandwidth_hz
            ),
            transmit_power_w=transmit_power_w,
            **others,
        )


@_validated
class Objective:
    """The weights of eq. 17: minimise ``time`` * seconds + ``energy`` * joules + ``cost`` * price."""

    time: NonNegative = 1.0
    energy: NonNegative = 1.0
    cost: NonNegative = 1.0


@_validated
class Request:
    """All that decides which plan a device gets.

    ``max_accuracy_drop``: the accuracy that may be lost, a fraction (0.01 is one percentage point).
    ``inferences_per_download``: how often a downloaded head is used; its download is paid a share of 1/N an inference.
    ``device_holds_head``: it holds the very head that it asks for, and nothing is downloaded. ``deadline_s`` and
    ``energy_budget_j`` limit one inference, the download's share included. ``calibration``: batches for
    :func:`qpart_fx.compile`; it takes no part in comparisons. ``device_holds``: the plan of another head of the same
    model that the device holds; it downloads what differs.
    """

    max_accuracy_drop: Fraction
    device: Device
    server: Server
    link: Link
    objective: Objective = Objective()  # immutable
    inferences_per_download: Annotated[int, Field(ge=1, le=10**15)] = 1
    device_holds_head: bool = False
    deadline_s: Positive | None = None
    energy_budget_j: Positive | None = None
    calibration: SkipValidation[Iterable[Any] | None] = field(default=None, compare=False, repr=False)
    device_holds: Plan | None = field(default=None, repr=False, hash=False)

    @classmethod
    def paper(cls, max_accuracy_drop: float = 0.01, **others: Any) -> Request:
        """Table II of the paper: a 200 MHz device, a 3 GHz server, 200 Mbit/s both ways at 1 W, all weights one.

        The head is paid for at every inference, as in the paper; whether a cut inside the network then pays depends on
        the server's price. ``others`` are further fields of :class:`Request`, or replace those of the table.
        """
        table: dict[str, Any] = {
            "device": Device(clock_hz=200e6, cycles_per_mac=5.0, kappa=PAPER_KAPPA),
            "server": Server(clock_hz=3e9, cycles_per_mac=1.25, price_per_s=PAPER_SERVER_PRICE_PER_S),
            "link": Link(uplink_bps=200e6, downlink_bps=200e6, transmit_power_w=1.0, receive_power_w=1.0),
        }
        return cls(max_accuracy_drop=max_accuracy_drop, **{**table, **others})

    def to_json(self) -> str:
        """The request as JSON, without ``calibration`` and ``device_holds``; :meth:`from_json` gives an equal one."""
        record = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in _LOCAL}
        return json.dumps(record, default=_as_record, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Request:
        """The request that :meth:`to_json` wrote.

        Raises:
            RequestError: the text is no JSON, or a field is missing, unknown or wrong; names the field.
        """
        record = _object_in(text, "request")
        if extra := [name for name in _LOCAL if name in record]:
            raise RequestError(f"Request.{extra[0]}: it cannot stand in JSON; leave it out")
        try:
            return _ADAPTER.validate_json(json.dumps(record), strict=True)
        except ValidationError as error:
            raise RequestError(_explain(cls, error)) from None


_LOCAL = ("calibration", "device_holds")
"""Fields of a request that stay where it was made."""

_ADAPTER = TypeAdapter(Request)
