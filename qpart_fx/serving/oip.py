"""The Open Inference Protocol (KServe v2) over gRPC: tails for ordinary clients, ``tritonclient`` for example.

A model's version is a plan's id: its inputs are what crosses, each by its name in its dtype, or all of it as one UINT8
tensor ``message``. Without a version the whole float model answers, and its inputs are the model's own. Outputs are
called as :func:`qpart_fx.serving_protocol.output_names` says. Shared memory is not offered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from math import prod
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from .. import __version__
from ..memory_layout import MemoryLayout
from ..message import DTYPES, Header, write_number
from .access import Client
from .calls import Gate, deadline_of
from .catalog import Catalog
from .planner import Signature, Value
from .plans import Plans
from .records import Record
from .refusal import Refused, invalid, not_found
from .runner import Given, Runner
from .tails import Row

_DATATYPES = {
    "float32": "FP32", "float64": "FP64", "float16": "FP16", "bfloat16": "BF16", "int64": "INT64", "int32": "INT32",
    "int16": "INT16", "int8": "INT8", "uint64": "UINT64", "uint32": "UINT32", "uint16": "UINT16", "uint8": "UINT8",
    "bool": "BOOL",
}  # fmt: skip
_DTYPES = {datatype: dtype for dtype, datatype in _DATATYPES.items()}

_CONTENTS = {
    "FP32": ("fp32_contents", "<f4"), "FP64": ("fp64_contents", "<f8"), "INT64": ("int64_contents", "<i8"),
    "INT32": ("int_contents", "<i4"), "INT16": ("int_contents", "<i2"), "INT8": ("int_contents", "i1"),
    "UINT64": ("uint64_contents", "<u8"), "UINT32": ("uint_contents", "<u4"), "UINT16": ("uint_contents", "<u2"),
    "UINT8": ("uint_contents", "u1"), "BOOL": ("bool_contents", "?"),
}  # fmt: skip

Work = Callable[[Any, Any, dict[str, Any], Client], Awaitable[Any]]

_SERVICE = "inference.GRPCInferenceService"

_MESSAGE = "message"
_MOST_DIMENSIONS = 32
_SIZE_OF = {"float16": 2, "bfloat16": 2} | {name: np.dtype(name).itemsize for name in _DATATYPES if name != "bfloat16"}


class OipService:
    """Health, metadata and inference; what else the protocol has is not implemented.

    Args:
        ready: whether the server can take calls.
    """

    def __init__(self, catalog: Catalog, plans: Plans, runner: Runner, gate: Gate, ready: Callable[[], bool]) -> None:
        self._catalog, self._plans, self._runner, self._ready = catalog, plans, runner, ready
        self._methods = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ServerMetadata": gate.unary("ServerMetadata", _of_messages(self._server_metadata)),
            "ModelReady": gate.unary("ModelReady", _of_messages(self._model_ready)),
            "ModelMetadata": gate.unary("ModelMetadata", _of_messages(self._model_metadata)),
            "ModelInfer": gate.unary("ModelInfer", _of_messages(self._infer)),
        }

    def add_to(self, server: Any) -> None:
        """Let ``server`` answer."""
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(method, _reader(getattr(pb, f"{name}Request")), _written)
            for name, method in self._methods.items()
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))

    async def _server_live(self, request: Any, context: Any) -> Any:
        return pb.ServerLiveResponse(live=True)

    async def _server_ready(self, request: Any, context: Any) -> Any:
        return pb.ServerReadyResponse(ready=self._ready())

    async def _server_metadata(self, request: Any, context: Any, metadata: dict[str, Any], client: Client) -> Any:
        return pb.ServerMetadataResponse(name="qpart", version=__version__)

    async def _model_ready(self, request: Any, context: Any, metadata: dict[str, Any], client: Client) -> Any:
        client.require(request.name)
        try:
            self._record(request.name, request.version)
        except Refused:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self._ready())

    async def _model_metadata(self, request: Any, context: Any, metadata: dict[str, Any], client: Client) -> Any:
        client.require(request.name)
        tail = await self._runner.signature(self._record(request.name, request.version))
        return pb.ModelMetadataResponse(
            name=request.name,
            versions=[request.version] if request.version else [],
            platform="qpart",
            inputs=[_described(value, tail.batches) for value in tail.takes if value.dtype is not None],
            outputs=[_described(value, tail.batches) for value in tail.gives],
        )

    async def _infer(self, request: Any, context: Any, metadata: dict[str, Any], client: Client) -> Any:
        client.require(request.model_name)
        record = self._record(request.model_name, request.model_version)
        tail = await self._runner.signature(record)
        places = _places(tail, [output.name for output in request.outputs])
        rows = await self._runner.run(record, _given(tail, request), deadline_of(context))
        answer = pb.ModelInferResponse(
            model_name=request.model_name, model_version=request.model_version, id=request.id
        )
        for place in places:
            header, piece = rows[place]
            datatype, shape = _as_sent(header)
            answer.outputs.add(name=tail.gives[place].name, datatype=datatype, shape=shape)
            answer.raw_output_contents.append(bytes(piece))
        return answer

    def _record(self, name: str, version: str) -> Record:
        if not version:
            return self._plans.whole(name)
        record = self._plans.record(version)
        if record.model.name != name:
            raise not_found(f"the model {name[:128]!r} has no such version")
        return record


def _reader(message: Any) -> Callable[[bytes], Any]:
    """Reads messages of a type; bytes that are none are given as they are, for :func:`_of_messages` to refuse. What is
    raised here gRPC itself would log, with all that led there."""

    def read(data: bytes) -> Any:
        try:
            return message.FromString(data)
        except DecodeError:
            return data

    return read


def _written(message: Any) -> bytes:
    written: bytes = message.SerializeToString()
    return written


def _of_messages(work: Work) -> Work:
    """``work``, which is given no bytes that could not be read."""

    async def checked(request: Any, context: Any, metadata: dict[str, Any], client: Client) -> Any:
        if isinstance(request, bytes):
            raise invalid("the bytes are no message of this method")
        return await work(request, context, metadata, client)

    return checked


def _given(tail: Signature, request: Any) -> Given:
    """What is in a request.

    Raises:
        Refused: its inputs are not those that the tail takes.
    """
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise invalid(f"there are {len(request.inputs)} inputs, and raw contents of {len(raw)}")
    if len(request.inputs) == 1 and request.inputs[0].name == _MESSAGE and request.inputs[0].datatype == "UINT8":
        return _content(request.inputs[0], raw)
    given = {each.name: (each, raw[place : place + 1]) for place, each in enumerate(request.inputs)}
    names = [value.name for value in tail.takes if value.dtype is not None]
    if len(given) != len(request.inputs) or given.keys() != set(names):
        raise invalid(f"the inputs are {', '.join(names)}, each once, or '{_MESSAGE}' alone, of datatype UINT8")
    return [_row(value, *given[value.name]) if value.name in given else _number(value) for value in tail.takes]


def _row(value: Value, given: Any, raw: Sequence[bytes]) -> Row:
    """One input, as a message holds it."""
    dtype, shape = _DTYPES.get(given.datatype), tuple(given.shape)
    if dtype is None or dtype != value.dtype:
        wanted = _DATATYPES.get(str(value.dtype), value.dtype)
        raise invalid(f"input '{value.name}' is {given.datatype[:20]}, and the tail takes {wanted}")
    if len(shape) > _MOST_DIMENSIONS or any(not 0 < size < 2**31 for size in shape):
        raise invalid(f"input '{value.name}' has an impossible shape")
    content = _content(given, raw)
    if len(content) != prod(shape) * _SIZE_OF[dtype]:
        raise invalid(
            f"input '{value.name}' of shape {list(shape)} takes {prod(shape) * _SIZE_OF[dtype]:,} bytes, and comes "
            f"with {len(content):,}"
        )
    return Header(DTYPES.index(dtype), MemoryLayout.contiguous(shape)), content


def _content(given: Any, raw: Sequence[bytes]) -> bytes:
    """The bytes of an input, raw or in one of the typed fields.

    Raises:
        Refused: there are none.
    """
    if raw:
        return raw[0]
    if given.datatype not in _CONTENTS:
        raise invalid(f"input '{given.name[:128]}' of datatype {given.datatype[:20]} needs raw contents")
    name, dtype = _CONTENTS[given.datatype]
    try:
        return np.array(getattr(given.contents, name), dtype=dtype).tobytes()
    except (OverflowError, ValueError) as error:
        raise invalid(f"input '{given.name[:128]}': {error}") from None


def _number(value: Value) -> Row:
    """A value that is no tensor: as it was when the model was profiled."""
    return write_number(value.number)


def _places(tail: Signature, wanted: Sequence[str]) -> Sequence[int]:
    """Of the outputs that are asked for: all, if none is."""
    if not wanted:
        return range(len(tail.gives))
    names = {value.name: place for place, value in enumerate(tail.gives)}
    if unknown := [name for name in wanted if name not in names]:
        raise invalid(f"there is no output {unknown[0][:128]!r}, but: {', '.join(names)}")
    return [names[name] for name in wanted]


def _as_sent(header: Header) -> tuple[str, tuple[int, ...]]:
    """The datatype and the shape of an output.

    Raises:
        Refused: the protocol has no such datatype.
    """
    if (kind := header.number) is not None:
        return ("FP64" if kind is float else "INT64"), ()
    if header.dtype not in _DATATYPES:
        raise invalid(f"an output is {header.dtype}, which this protocol cannot send: use {_MESSAGE} and Infer")
    return _DATATYPES[header.dtype], header.layout.shape


def _described(value: Value, batches: bool) -> Any:
    shape = [-1, *value.shape] if batches else value.shape
    return pb.ModelMetadataResponse.TensorMetadata(
        name=value.name, datatype=_DATATYPES.get(value.dtype or "", "FP64"), shape=shape
    )
