"""A head on a device: its file in, messages for the server out."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import container
from ..container import read_checked
from ..errors import ArtifactError, MissingDependencyError, RequestError
from ..head_file import ONNX_GRAPH, Head, read_head
from ..message import DTYPES, require_rate, write_message
from ..plan_summary import PlanSummary
from ..stored_tensor import ChannelTensor, PlainTensor, StoredTensor, UniformTensor
from .arrays import Array, Rounded, plain
from .coding import Coding

try:
    import onnxruntime
except ModuleNotFoundError as error:
    raise MissingDependencyError("a device's runtime", extra="device") from error

_CODES = ".codes"
"""Of a weight, as its graph calls them."""

_SAFE = 63
"""Processors of x86 without VNNI add two products of 8 bits in 16, and clip what is more: codes of 7 bits fit. With
larger ones onnxruntime is told to take kernels that are exact, and a fourth slower there; with VNNI, half as fast."""

_NO_FOLDER = "/nonexistent"
"""Where a graph may read tensors from: nowhere. All that a head has are given to it."""

_FAILURES = (
    *(
        getattr(onnxruntime.capi.onnxruntime_pybind11_state, name)
        for name in "EPFail Fail InvalidArgument InvalidGraph InvalidProtobuf NotImplemented RuntimeException".split()
    ),
    RuntimeError, ValueError, MemoryError,
)  # fmt: skip

_NUMPY = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16"} | {
    f"tensor({name})": name for name in "int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool".split()
}


@dataclass(frozen=True)
class Input:
    """What a head takes: a tensor of ``dtype``, and of ``shape``, None where any size will do."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join('any' if size is None else str(size) for size in self.shape)}]"


@dataclass(frozen=True)
class _Output:
    """A value that crosses. ``grid``: None for one that crosses as it is. ``as_codes``: the graph returns codes."""

    name: str
    grid: Rounded | None
    as_codes: bool

    @classmethod
    def of(cls, record: Any) -> _Output:
        name, *rest = record
        if not rest:
            return cls(name, None, False)
        bits, step, zero_point, dtype, as_codes = rest
        if type(bits) is not int or not 2 <= bits <= 16 or type(zero_point) is not int or not float(step) > 0:
            raise ArtifactError(f"the value '{name}' is rounded to impossible steps")
        np.finfo(dtype)
        return cls(name, Rounded(bits, float(step), zero_point, dtype), bool(as_codes))

    def can_be(self, made: str) -> bool:
        """Whether it can be what a graph returns as the array type ``made``."""
        if self.grid is None:
            return made in DTYPES
        return made == (self.grid.dtype if not self.as_codes else "uint8" if self.grid.bits <= 8 else "uint16")

    def clipped(self, made: Array) -> Array:
        """Codes of fewer bits than their integers have: the graph leaves those beyond the last as they are."""
        if self.grid is None or not self.as_codes or self.grid.bits in (8, 16):
            return made
        return np.asarray(np.minimum(made, made.dtype.type(2**self.grid.bits - 1)))

    def value(self, made: Array) -> Array:
        """In floats, as PyTorch's head returns it."""
        return self.grid.decode(made) if self.grid is not None and self.as_codes else made

    def codes(self, made: Array) -> Array:
        return made if self.as_codes or self.grid is None else self.grid.encode(made)


class HeadRuntime:
    """Runs the head in a file that :meth:`qpart_fx.SplitModel.packed_head` made for ``runtime="onnx"``.

    Attributes:
        plan: what the file says of its plan; None if it was packed without.
        inputs: what the head takes, in the order of its arguments.

    Args:
        content: the file.
        threads: that one call may use; by default as many as there are cores.

    Raises:
        ArtifactError: the file is damaged, of another version, for PyTorch, or calls what this onnxruntime has not.
        RequestError: ``threads`` is no number above 0.
    """

    plan: PlanSummary | None
    inputs: tuple[Input, ...]

    def __init__(self, content: bytes, *, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise RequestError(f"threads = {threads}: give a number above 0, or None for as many as there are cores")
        head = read_head(content)
        if ONNX_GRAPH not in head.tensors:
            raise ArtifactError('this head is for PyTorch: have it packed with packed_head(runtime="onnx")')
        self.plan = head.plan
        self._session = _session(head, threads)
        _give_back()
        self._outputs = read_checked(lambda: [_Output.of(record) for record in head.graph["outputs"]])
        self._codings = [Coding() for _ in self._outputs]
        self.inputs = read_checked(lambda: tuple(_input(each) for each in self._session.get_inputs()))
        made = read_checked(lambda: [_input(each) for each in self._session.get_outputs()])
        if [each.name for each in self._outputs] != [each.name for each in made] or not all(
            output.can_be(each.dtype) for output, each in zip(self._outputs, made, strict=True)
        ):
            raise ArtifactError("the head's graph does not return what its file says")

    @property
    def returns(self) -> int:
        """How many values the head returns."""
        return len(self._outputs)

    @classmethod
    def load(cls, path: str | Path, *, threads: int | None = None) -> HeadRuntime:
        """The head in the file at ``path``.

        Raises:
            ArtifactError: there is no such file, or as above.
        """
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise ArtifactError(f"cannot read {path}: {error.strerror}") from error
        try:
            return cls(content, threads=threads)
        except ArtifactError as error:
            raise ArtifactError(f"{path}: {error}") from error

    def __call__(self, *args: Array, **kwargs: Array) -> tuple[Array, ...]:
        """What crosses, rounded, as PyTorch's head returns it.

        Args:
            args, kwargs: arrays, as the model is called.

        Raises:
            RequestError: they are not what the head takes.
        """
        made = self._run(args, kwargs)
        return tuple(output.value(each) for output, each in zip(self._outputs, made, strict=True))

    def message(self, *args: Array, uplink_bps: float | None = None, **kwargs: Array) -> bytes:
        """The bytes to send for a call: what crosses, each value at its bits.

        Args:
            uplink_bps: the link's rate, bits a second: values are entropy-coded where that saves more time on the link
                than it takes, as far as calls before have shown; never if it is None.

        Raises:
            RequestError: the arguments are not what the head takes, or give NaN where floats are rounded. Where the
                graph returns codes, NaN have one, too.
        """
        require_rate(uplink_bps)
        return self.pack(self._run(args, kwargs), uplink_bps)

    def pack(self, made: list[Array], uplink_bps: float | None = None) -> bytes:
        """The message of what the graph returned."""
        values = []
        for output, coding, each in zip(self._outputs, self._codings, made, strict=True):
            if output.grid is None:
                values.append(plain(each))
                continue
            codes = output.codes(each)
            if not output.as_codes and np.isnan(codes).any():
                raise RequestError(f"'{output.name}' is NaN for these inputs, and cannot be sent")
            values.append(coding.write(codes, output.grid, uplink_bps))
        return write_message(values)

    def _run(self, args: tuple[Array, ...], kwargs: Mapping[str, Array]) -> list[Array]:
        given = dict(zip((each.name for each in self.inputs), args, strict=False))
        unknown = [name for name in kwargs if name in given or name not in {each.name for each in self.inputs}]
        if len(args) > len(self.inputs) or unknown:
            takes = ", ".join(f"{each.name}: {each}" for each in self.inputs)
            raise RequestError(f"the head takes ({takes}), and was given {len(args)} arrays and {sorted(kwargs)}")
        given |= kwargs
        for expected in self.inputs:
            _require(expected, given.get(expected.name))
        try:
            made: list[Array] = self._session.run(None, given)
        except _FAILURES as error:
            raise RequestError(f"the head cannot run on these inputs: {_line(error)}") from error
        return [output.clipped(each) for output, each in zip(self._outputs, made, strict=True)]


def _session(head: Head, threads: int | None) -> Any:
    """Made with the tensors of ``head``, which are let go of: onnxruntime keeps its own."""
    arrays = _arrays(head)
    codes = [array.astype(np.int16) for name, array in arrays.items() if name.endswith(_CODES)]
    options = session_options(threads, exact=any(np.abs(each).max(initial=0) > _SAFE for each in codes))
    options.add_session_config_entry("session.load_model_format", "ONNX")  # its own format is checked less
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", _NO_FOLDER)
    graph = _graph(head.tensors[ONNX_GRAPH])
    try:
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)) for array in arrays.values()]
        options.add_external_initializers(list(arrays), values)
        return onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"], enable_fallback=0)
    except _FAILURES as error:
        raise ArtifactError(f"onnxruntime {onnxruntime.__version__} cannot run this head: {_line(error)}") from error


def session_options(threads: int | None, *, exact: bool) -> Any:
    """Those of every session here. ``exact``: integers of 8 bits are multiplied, which not all kernels do exactly."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised
    options.intra_op_num_threads = threads or 0
    if exact and not _adds_in_32_bits():
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def _adds_in_32_bits() -> bool:
    """Whether the processor is known to add products of 8 bits without clipping them: has VNNI, on Linux."""
    try:
        return "_vnni" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def _arrays(head: Head) -> dict[str, Array]:
    """What the graph takes its tensors from, by the names that it has for them."""
    integers = read_checked(lambda: frozenset(head.graph.get("integers", ())))
    arrays: dict[str, Array] = {}
    for name, tensor in head.tensors.items():
        if name in integers:
            arrays |= {f"{name}{_CODES}": _codes(tensor), f"{name}.scale": _steps(tensor)}
        elif name != ONNX_GRAPH:
            arrays[name] = tensor.values
    filled = read_checked(
        lambda: {str(name): [*map(int, shape)] for name, shape in head.graph.get("filled", {}).items()}
    )
    return arrays | {name: _filled(name, arrays.get(name), shape) for name, shape in filled.items()}


def _filled(name: str, array: Array | None, shape: list[int]) -> Array:
    """An array with zeros at its ends up to ``shape``, or more of its last scale."""
    missing = [] if array is None else [new - old for new, old in zip(shape, array.shape, strict=False)]
    if array is None or len(shape) != array.ndim or not all(0 <= count < 64 for count in missing):
        raise ArtifactError(f"tensor '{name}' cannot be filled up to {shape}")
    return np.pad(array, [(0, count) for count in missing], mode="edge" if name.endswith(".scale") else "constant")


def _codes(tensor: StoredTensor) -> Array:
    """In 8 bits."""
    if isinstance(tensor, ChannelTensor) and tensor.bits <= 8:
        return tensor.codes.astype(np.int8)
    if isinstance(tensor, UniformTensor) and tensor.bits <= 8:
        return tensor.codes.astype(np.uint8)
    raise ArtifactError(f"tensor '{tensor.name}' is no integers of 8 bits")


def _steps(tensor: StoredTensor) -> Array:
    return tensor.steps if isinstance(tensor, ChannelTensor) else np.array(getattr(tensor, "step", 0.0), np.float32)


def _graph(tensor: StoredTensor) -> bytes:
    if not isinstance(tensor, PlainTensor):
        raise ArtifactError("the head's graph is no bytes")
    return container.inflate(tensor.data)


def _give_back() -> None:
    """Give memory that is free back to the system, which glibc would keep: a third of what a small device holds."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _input(of_graph: Any) -> Input:
    """What onnxruntime says of an input, or an output, of its graph."""
    sizes = tuple(size if isinstance(size, int) else None for size in of_graph.shape)
    return Input(of_graph.name, _NUMPY.get(of_graph.type, of_graph.type), sizes)


def _require(expected: Input, given: Any) -> None:
    """Refuse an input of another type or shape: onnxruntime would say less."""
    if not isinstance(given, np.ndarray):
        what = "is missing" if given is None else f"is a {type(given).__name__}"
        raise RequestError(f"input '{expected.name}' {what}: the head takes an array, {expected}")
    fits = given.dtype == expected.dtype and given.ndim == len(expected.shape)
    if not fits or any(size not in (None, of) for of, size in zip(given.shape, expected.shape, strict=True)):
        raise RequestError(
            f"input '{expected.name}' is {given.dtype}{list(given.shape)}, and the head takes {expected}"
        )


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return text.removeprefix("[ONNXRuntimeError] : ").strip()
