"""What a device and a server say to each other: names, queries and answers, without torch and without gRPC.

One service, ``qpart.v1.QPart``, of three methods whose messages are bytes:

``Plan``
    A :class:`PlanQuery` in, a :class:`PlanAnswer` out, with :data:`HASH` (the SHA-256 of its text) in the trailing
    metadata. An answer is deflated against the one that the query says the device knows, if the server remembers it:
    then :data:`KNOWN` in the trailing metadata names that one, and what did not change takes no bytes.
``Head``
    A :class:`HeadQuery` in, a stream of chunks of :data:`CHUNK_BYTES` at most out: a head's file, the update that makes
    it of the held one, or nothing. The initial metadata say which (:data:`KIND`), how many bytes follow
    (:data:`BYTES`), and the SHA-256 of the head's file that the device then has (:data:`HASH`).
``Infer``
    A message of :mod:`qpart_fx.message` in, with :data:`PLAN` (which plan's head made it) and :data:`CALL` (a key of
    the caller's) in its metadata; a message of the model's outputs as they are out, with :data:`CALL` echoed in the
    trailing metadata. The answer to ``Plan`` says how they make up the model's output.

A plan's id is a hash of the model's name and file and of the plan, so it is the same on every server of a catalog. One
that has not met the plan, or has forgotten it, answers ``Head`` and ``Infer`` with NOT_FOUND. Then the same message is
sent once more behind an :class:`Introduction` of the plan, with :data:`INTRODUCES` in the metadata, and whichever
server gets that can answer. ``Plan`` takes an introduction too, of the plan of the head that the device holds: a server
that has not met it says so (:data:`UNKNOWN` in the trailing metadata).

The trailing metadata of ``Plan`` and ``Infer`` also say how long the call was the server's (:data:`SERVER_S`), which is
no time of the link, and hold a CRC-32 of the query (:data:`CHECK`), or of the message that answers: nobody takes an
answer for that to another call, or to a query that was altered on its way.

Hashes are SHA-256 in hexadecimal. A bearer token stands in the metadata ``authorization``.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .checksum import checksum
from .container import deflate, inflate
from .errors import ArtifactError

VERSION = 1

SERVICE = "qpart.v1.QPart"
PLAN_METHOD, HEAD_METHOD, INFER_METHOD = (f"/{SERVICE}/{name}" for name in ("Plan", "Head", "Infer"))

PLAN, CALL, HASH, KNOWN, KIND, BYTES, CHECK, SERVER_S = (
    "qpart-plan", "qpart-call", "qpart-hash", "qpart-known", "qpart-kind", "qpart-bytes", "qpart-check",
    "qpart-server-s",
)  # fmt: skip
"""Keys of metadata."""

LIMIT = "qpart-limit"
"""In the trailing metadata of FAILED_PRECONDITION: the field of the request that no plan can meet."""

RETRY_AFTER = "retry-after"
"""In the trailing metadata of RESOURCE_EXHAUSTED and UNAVAILABLE: seconds, as a decimal number."""

INTRODUCES = "qpart-introduces"
"""In the metadata of a call: how many bytes of its message, from the start, are an :class:`Introduction`."""

UNKNOWN = "qpart-unknown"
"""In the trailing metadata of ``Plan``: the hash of the held head, where the server has not met its plan."""

AUTHORIZATION, BEARER = "authorization", "Bearer "

HEAD, UPDATE, SAME = "head", "update", "same"
"""Kinds of answers to ``Head``."""

CHUNK_BYTES = 256 * 1024

MAX_QUERY_BYTES = 1 << 16
MAX_ANSWER_BYTES = 1 << 24
"""Of a query's and an answer's text: no more is inflated."""

MAX_INTRODUCTION_BYTES = 1 << 20
"""Of an introduction's text; packed, it takes some kB."""

MAX_CALL_KEY = 64

_TYPICAL = (
    b'{"version":1,"model":"","request":{"max_accuracy_drop":0.01,"device":{"clock_hz":1000000000.0,"cycles_per_mac":1.0,'
    b'"kappa":1e-27,"memory_bytes":null,"weight_bits":[2,3,4,5,6,7,8,9,10,11,12,13,14,15,16],"activation_bits":null,'
    b'"activation_bits_inside":null,"runtime":null},"server":{"clock_hz":3000000000.0,"cycles_per_mac":1.25,'
    b'"price_per_s":0.0},"link":{"uplink_bps":1000000.0,"downlink_bps":1000000.0,"round_trip_s":0.0,'
    b'"transmit_power_w":1.0,"receive_power_w":0.0},"objective":{"time":1.0,"energy":1.0,"cost":1.0},'
    b'"inferences_per_download":1000,"device_holds_head":false,"deadline_s":null,"energy_budget_j":null},"holds":"",'
    b'"knows":null}'
)
"""What queries look like. They are deflated against it: both sides have to have the same."""

_HASH = re.compile(r"[0-9a-f]{64}")
_DEFLATE_WINDOW = 1 << 15
_MAX_DEPTH = 32
_MOST_VALUES = 1 << 16
_SCALARS = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class PlanQuery:
    """``request``: what ``json.loads(Request.to_json())`` gives. ``holds``: the hash of the head's file that the device
    has; ``knows``: of the last :class:`PlanAnswer` that it got."""

    model: str
    request: Mapping[str, Any]
    holds: str | None = None
    knows: str | None = None

    def encode(self) -> bytes:
        record = {"version": VERSION, "model": self.model, "request": self.request}
        return deflate(_text({**record, "holds": self.holds, "knows": self.knows}), _TYPICAL)

    def padded(self, size: int) -> bytes:
        """The same with so many spaces behind it, and not compressed: to measure a link by."""
        record = inflate(self.encode(), _TYPICAL) + b" " * size
        packer = zlib.compressobj(0, zlib.DEFLATED, -zlib.MAX_WBITS)
        return packer.compress(record) + packer.flush()

    @classmethod
    def decode(cls, packed: bytes) -> PlanQuery:
        """The query that :meth:`encode` wrote; whether its request makes sense is not looked at.

        Raises:
            ArtifactError: it is malformed.
        """
        record = _record(inflate(packed, _TYPICAL, largest=MAX_QUERY_BYTES), "model request holds knows", "the query")
        request = record["request"]
        if not isinstance(request, dict):
            raise ArtifactError("the query is malformed: its request is no object")
        return cls(_string(record, "model"), request, _hash(record, "holds"), _hash(record, "knows"))


@dataclass(frozen=True)
class PlanAnswer:
    """``plan``: what ``json.loads(Plan.to_json())`` gives, without ``by_cut``. ``plan_id``: what ``Head`` and ``Infer``
    know it by. ``head_hash``, ``head_bytes``: of the head's file; ``update_bytes``: what ``Head`` will send instead to
    the device that asked, 0 where it holds the very head; None where it is sent the whole. ``outputs``: how the model's
    output is built, see :func:`build_outputs`. ``model_hash``: of the profile's file. ``alone``: where the head is
    all of the model, which of its values are those of the output, and nothing needs to be sent; else None."""

    plan: Mapping[str, Any]
    plan_id: str
    head_hash: str
    head_bytes: int
    update_bytes: int | None
    outputs: Mapping[str, Any]
    model_hash: str
    alone: Sequence[int] | None = None
    text: bytes = field(init=False, repr=False, compare=False)
    hash: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        record = {
            "version": VERSION,
            "plan": self.plan,
            "plan_id": self.plan_id,
            "head": {"hash": self.head_hash, "bytes": self.head_bytes},
            "update_bytes": self.update_bytes,
            "outputs": self.outputs,
            "model_hash": self.model_hash,
            "alone": None if self.alone is None else list(self.alone),
        }
        object.__setattr__(self, "text", _text(record))
        object.__setattr__(self, "hash", hashlib.sha256(self.text).hexdigest())

    def encode(self, known: bytes = b"") -> bytes:
        """For a device that knows the text of the answer ``known``."""
        return deflate(self.text, known[-_DEFLATE_WINDOW:])

    @classmethod
    def decode(cls, packed: bytes, hash_: str, known: bytes = b"") -> PlanAnswer:
        """The answer that :meth:`encode` wrote.

        Args:
            hash_: of it, from the metadata.
            known: the text of the answer that it was deflated against.

        Raises:
            ArtifactError: it is malformed, or not the one of this hash.
        """
        text = inflate(packed, known[-_DEFLATE_WINDOW:], largest=MAX_ANSWER_BYTES)
        if hashlib.sha256(text).hexdigest() != hash_:
            raise ArtifactError("the answer is damaged: it does not match its hash; ask again")
        names = "plan plan_id head update_bytes outputs model_hash alone"
        record = _record(text, names, "the answer")
        head, plan = record["head"], record["plan"]
        if not isinstance(plan, dict) or not isinstance(head, dict) or head.keys() != {"hash", "bytes"}:
            raise ArtifactError("the answer is malformed: its plan or its head is not as it should be")
        head_hash, model_hash, update = _hash(head, "hash"), _hash(record, "model_hash"), record["update_bytes"]
        if head_hash is None or model_hash is None:
            raise ArtifactError("the answer is malformed: it names no hash")
        outputs = checked_outputs(record["outputs"])
        size = _size(head["bytes"])
        update = None if update is None else _size(update)
        alone = record["alone"]
        places = isinstance(alone, list) and all(type(place) is int and 0 <= place < _MOST_VALUES for place in alone)
        if alone is not None and not (places and len(alone) == count_outputs(outputs)):
            raise ArtifactError("the answer is malformed: what it says of the head's values is not as it should be")
        return cls(plan, _string(record, "plan_id"), head_hash, size, update, outputs, model_hash, alone)


@dataclass(frozen=True)
class HeadQuery:
    """``holds``: the hash of the head's file that the device has."""

    plan_id: str
    holds: str | None = None

    def encode(self) -> bytes:
        return _text({"version": VERSION, "plan_id": self.plan_id, "holds": self.holds})

    @classmethod
    def decode(cls, text: bytes) -> HeadQuery:
        """The query that :meth:`encode` wrote.

        Raises:
            ArtifactError: it is malformed.
        """
        record = _record(text, "plan_id holds", "the query")
        return cls(_string(record, "plan_id"), _hash(record, "holds"))


@dataclass(frozen=True)
class Introduction:
    """A plan as one server made it, for another one. ``model_hash``, ``plan``: as in its :class:`PlanAnswer`."""

    model: str
    model_hash: str
    plan: Mapping[str, Any]

    def encode(self) -> bytes:
        record = {"version": VERSION, "model": self.model, "model_hash": self.model_hash, "plan": self.plan}
        return deflate(_text(record))

    @classmethod
    def decode(cls, packed: bytes) -> Introduction:
        """The introduction that :meth:`encode` wrote; whether its plan makes sense is not looked at.

        Raises:
            ArtifactError: it is malformed.
        """
        text = inflate(packed, largest=MAX_INTRODUCTION_BYTES)
        record = _record(text, "model model_hash plan", "the introduction")
        plan, model_hash = record["plan"], _hash(record, "model_hash")
        if not isinstance(plan, dict) or model_hash is None:
            raise ArtifactError("the introduction is malformed: its plan is no object, or its model has no hash")
        return cls(_string(record, "model"), model_hash, plan)


def parted(message: bytes, introduces: Any) -> tuple[Introduction | None, bytes]:
    """The introduction before a message, and the message.

    Args:
        introduces: what the metadata :data:`INTRODUCES` say; None for nothing.

    Raises:
        ArtifactError: there is no introduction of so many bytes.
    """
    if introduces is None:
        return None, message
    size = int(introduces) if isinstance(introduces, str) and re.fullmatch(r"[0-9]{1,7}", introduces) else 0
    if not 0 < size <= len(message):
        raise ArtifactError(f"the metadata {INTRODUCES} are no number of the message's bytes")
    return Introduction.decode(message[:size]), message[size:]


def check_of(message: bytes) -> str:
    """Its checksum, 8 hexadecimal digits."""
    return f"{checksum(message):08x}"


def build_outputs(structure: Any, values: Sequence[Any]) -> Any:
    """The model's output from the values of an answer to ``Infer``.

    Args:
        structure: one of ``{"value": place in values}``, ``{"constant": scalar}``, ``{"tuple": [...]}``,
            ``{"list": [...]}``, ``{"dict": [[key, ...], ...]}``; as :func:`checked_outputs` returned it.

    >>> build_outputs({"dict": [["logits", {"value": 0}], ["hidden", {"tuple": [{"constant": None}]}]]}, [1.5])
    {'logits': 1.5, 'hidden': (None,)}

    Raises:
        ArtifactError: there are more or fewer values than the structure holds.
    """
    if count_outputs(structure) != len(values):
        raise ArtifactError(f"the answer holds {len(values)} values, and the model returns {count_outputs(structure)}")
    return _built(structure, values)


def checked_outputs(structure: Any) -> Mapping[str, Any]:
    """``structure`` if :func:`build_outputs` can build it.

    Raises:
        ArtifactError: it cannot.
    """
    places: list[int] = []
    _check(structure, places, _MAX_DEPTH)
    if sorted(places) != list(range(len(places))):
        raise ArtifactError("the structure of the output does not use every value once")
    checked: Mapping[str, Any] = structure
    return checked


def count_outputs(structure: Any) -> int:
    """How many values a structure holds."""
    return len(output_names(structure))


def output_names(structure: Any) -> list[str]:
    """A name for each value of a structure, by its place: the keys and positions that lead to it.

    >>> output_names({"value": 0})
    ['output']
    >>> output_names({"tuple": [{"value": 0}, {"dict": [["logits", {"value": 1}]]}]})
    ['0', '1.logits']
    """
    names: dict[int, str] = {}
    _name(structure, "", names)
    return [names[place] for place in sorted(names)]


def _built(structure: Any, values: Sequence[Any]) -> Any:
    ((kind, content),) = structure.items()
    match kind:
        case "value":
            return values[content]
        case "constant":
            return content
        case "dict":
            return {key: _built(part, values) for key, part in content}
    parts = [_built(part, values) for part in content]
    return tuple(parts) if kind == "tuple" else parts


def _check(structure: Any, places: list[int], depth: int) -> None:
    if not depth or not isinstance(structure, dict) or len(structure) != 1:
        raise ArtifactError("the structure of the output is malformed")
    ((kind, content),) = structure.items()
    right = False
    match kind:
        case "value":
            right = type(content) is int
            places.append(content)
        case "constant":
            right = isinstance(content, _SCALARS)
        case "tuple" | "list" if isinstance(content, list):
            right = True
            for part in content:
                _check(part, places, depth - 1)
        case "dict" if isinstance(content, list):
            right = all(isinstance(row, list) and len(row) == 2 and isinstance(row[0], _SCALARS) for row in content)
            for row in content if right else ():
                _check(row[1], places, depth - 1)
    if not right:
        raise ArtifactError(f"the structure of the output is malformed: {str(structure)[:100]}")


def _name(structure: Any, path: str, names: dict[int, str]) -> None:
    ((kind, content),) = structure.items()
    if kind == "value":
        names[content] = path or "output"
    elif kind != "constant":
        for key, part in content if kind == "dict" else enumerate(content):
            _name(part, f"{path}.{key}" if path else str(key), names)


def _text(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":"), allow_nan=False).encode()


def _record(text: bytes, names: str, what: str) -> dict[str, Any]:
    """The object in ``text``, of this version and with these fields and no others."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{what} is malformed: {str(error)[:200]}") from None
    if not isinstance(record, dict):
        raise ArtifactError(f"{what} is malformed: it is no object")
    if record.get("version") != VERSION:
        raise ArtifactError(f"{what} is of version {record.get('version')!r}: this qpart_fx speaks version {VERSION}")
    if record.keys() != {"version", *names.split()}:
        raise ArtifactError(f"{what} is malformed: it has the fields {', '.join(sorted(record))[:200]}")
    return record


def _string(record: Mapping[str, Any], name: str) -> str:
    value = record[name]
    if not isinstance(value, str) or not 0 < len(value) <= 256:
        raise ArtifactError(f"{name} is no text of 1 to 256 characters")
    return value


def _hash(record: Mapping[str, Any], name: str) -> str | None:
    value = record[name]
    if value is not None and not (isinstance(value, str) and _HASH.fullmatch(value)):
        raise ArtifactError(f"{name} is no SHA-256 in hexadecimal")
    return value


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 40:
        raise ArtifactError("the answer is malformed: a number of bytes is none")
    return value
