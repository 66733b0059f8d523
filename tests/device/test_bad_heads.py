"""Heads that are none: damaged, for others, or made by hand to do harm. Each is refused, and nothing else happens."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from qpart_fx import ArtifactError, RequestError, container
from qpart_fx.device import HeadRuntime
from qpart_fx.head_file import ONNX_GRAPH
from tests.device.heads import rounded

X, Y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy")
ROW = np.arange(4, dtype=np.float32)[None]


def head() -> bytes:
    return rounded("classifier", "_2", 8).packed()


def file_of(graph: bytes, *, outputs: Any = (("y",),), tensors: Any = (), data: bytes = b"") -> bytes:
    """A head's file with a hash that is right."""
    packed = container.deflate(graph)
    rows = [{"name": ONNX_GRAPH, "dtype": "uint8", "shape": [len(packed)]}, *tensors]
    return container.encode("head", {"graph": {"graph": {"outputs": outputs}, "tensors": rows}}, packed + data)


def model_of(*nodes: onnx.NodeProto, initializers: Any = (), outputs: Any = (Y,)) -> bytes:
    graph = helper.make_graph(nodes, "graph", [X], outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    made: bytes = model.SerializeToString()
    return made


ADD = model_of(helper.make_node("Add", ["x", "x"], ["y"]))


def test_a_graph_made_by_hand_runs_if_it_is_sound() -> None:
    (made,) = HeadRuntime(file_of(ADD))(ROW)
    assert np.array_equal(made, 2 * ROW)


# Damaged


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 255))
def test_a_flipped_byte_is_noticed(place: int, change: int) -> None:
    damaged = bytearray(head())
    damaged[place % len(damaged)] ^= change
    with pytest.raises(ArtifactError):
        HeadRuntime(bytes(damaged))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.binary(max_size=8))
def test_a_file_of_another_length_is_noticed(length: int, more: bytes) -> None:
    with pytest.raises(ArtifactError):
        HeadRuntime(head()[: length % len(head())])
    if more:
        with pytest.raises(ArtifactError, match="goes on behind its end"):
            HeadRuntime(head() + more)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"cannot read .*head\.qpart: No such file"):
        HeadRuntime.load(tmp_path / "head.qpart")
    (tmp_path / "head.qpart").write_bytes(head()[:-40])
    with pytest.raises(ArtifactError, match=r"head\.qpart: the file is cut short"):
        HeadRuntime.load(tmp_path / "head.qpart")


def test_a_head_for_torch_is_said_to_be_one() -> None:
    with pytest.raises(ArtifactError, match='packed_head\\(runtime="onnx"\\)'):
        HeadRuntime(rounded("classifier", "_2", 8).split.packed_head())


# Forged


FORGED: dict[str, tuple[Callable[[], bytes], str]] = {
    "no ONNX": (lambda: file_of(b"no ONNX"), "cannot run this head"),
    "nothing": (lambda: file_of(b""), "cannot run this head"),
    "a name that is no text": (lambda: file_of(ADD.replace(b"x", b"\xff")), "malformed"),
    "an operator that is none": (
        lambda: file_of(model_of(helper.make_node("Frobnicate", ["x"], ["y"]))), "Frobnicate",
    ),
    "an operator of others": (
        lambda: file_of(model_of(helper.make_node("Run", ["x"], ["y"], domain="qpart"))), "Run",
    ),
    "a tensor that is not given": (
        lambda: file_of(model_of(helper.make_node("Add", ["x", "w"], ["y"]))), "cannot run this head",
    ),
    "a tensor too many": (
        lambda: file_of(ADD, tensors=[{"name": "w", "dtype": "float32", "shape": [1]}], data=bytes(4)),
        "cannot run this head",
    ),
    "no deflated bytes": (
        lambda: container.encode(
            "head",
            {"graph": {"graph": {"outputs": []}, "tensors": [{"name": ONNX_GRAPH, "dtype": "uint8", "shape": [3]}]}},
            b"abc",
        ),
        "malformed",
    ),
    "other outputs": (lambda: file_of(ADD, outputs=[["z"]]), "does not return what its file says"),
    "fewer outputs": (lambda: file_of(ADD, outputs=[]), "does not return what its file says"),
    "floats as codes": (lambda: file_of(ADD, outputs=[["y", 8, 1.0, 0, "float32", True]]), "does not return"),
    "other floats": (lambda: file_of(ADD, outputs=[["y", 8, 1.0, 0, "float64", False]]), "does not return"),
    "impossible bits": (lambda: file_of(ADD, outputs=[["y", 17, 1.0, 0, "float32", False]]), "impossible steps"),
    "an impossible step": (lambda: file_of(ADD, outputs=[["y", 8, -1.0, 0, "float32", False]]), "impossible steps"),
    "an unknown dtype": (lambda: file_of(ADD, outputs=[["y", 8, 1.0, 0, "float33", False]]), "malformed"),
    "outputs that are none": (lambda: file_of(ADD, outputs=7), "malformed"),
    "outputs without names": (lambda: file_of(ADD, outputs=[[]]), "malformed"),
    "half an output": (lambda: file_of(ADD, outputs=[["y", 8]]), "malformed"),
}  # fmt: skip


@pytest.mark.parametrize("what", FORGED)
def test_forged_heads_are_refused(what: str) -> None:
    made, expected = FORGED[what]
    with pytest.raises(ArtifactError, match=expected):
        HeadRuntime(made())


def elsewhere(place: str) -> TensorProto:
    """A tensor that is said to lie in the file at ``place``."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=place)
    return tensor


@pytest.mark.parametrize("place", ["_", "{}/secret", "../{}/secret", "/nonexistent/..{}/secret", "*/_ORT_MEM_ADDR_/*"])
@pytest.mark.parametrize("kind", ["initializer", "constant"])
def test_no_file_is_read(place: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_", "secret"):
        (tmp_path / name).write_bytes(ROW.tobytes())
    monkeypatch.chdir(tmp_path)
    tensor, add = elsewhere(place.format(tmp_path)), helper.make_node("Add", ["x", "w"], ["y"])
    if kind == "initializer":
        graph = model_of(add, initializers=[tensor])
    else:
        graph = model_of(helper.make_node("Constant", [], ["w"], value=tensor), add)
    with pytest.raises(ArtifactError, match="cannot run this head"):
        HeadRuntime(file_of(graph))


def test_onnxruntime_s_own_format_is_refused(tmp_path: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(ADD, options)
    with pytest.raises(ArtifactError, match="cannot run this head"):
        HeadRuntime(file_of((tmp_path / "model.ort").read_bytes()))


def test_a_head_that_wants_more_memory_than_there_is_fails_as_a_call() -> None:
    shape = helper.make_tensor("s", TensorProto.INT64, [2], [2**60, 4])
    graph = model_of(helper.make_node("Expand", ["x", "s"], ["y"]), initializers=[shape])
    with pytest.raises(RequestError, match="cannot run on these inputs"):
        HeadRuntime(file_of(graph))(ROW)


FUZZ = """
import random, sys
from pathlib import Path
import numpy as np
from qpart_fx import ArtifactError, RequestError
from qpart_fx.device import HeadRuntime
x = np.zeros((2, 3, 8, 8), dtype=np.float32)
refused = 0
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        HeadRuntime(path.read_bytes(), threads=1).message(x)
    except (ArtifactError, RequestError):
        refused += 1
print(refused)
"""


def test_graphs_that_are_damaged_with_a_hash_that_is_right_do_not_crash(tmp_path: Path) -> None:
    _, manifest, data = container.decode(head(), "head")
    table = manifest["graph"]["tensors"]
    size = table[0]["shape"][0]
    graph, rest = container.inflate(bytes(data[:size])), bytes(data[size:])
    for seed in range(150):
        packed = container.deflate(damaged(graph, random.Random(seed)))
        rows = [{**table[0], "shape": [len(packed)]}, *table[1:]]
        changed = {**manifest, "graph": {**manifest["graph"], "tensors": rows}}
        (tmp_path / f"{seed:03}").write_bytes(container.encode("head", changed, packed + rest))
    result = subprocess.run([sys.executable, "-c", FUZZ, str(tmp_path)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert 50 < int(result.stdout) <= 150


def damaged(graph: bytes, generator: random.Random) -> bytes:
    """A byte changed, some left out, or one node's operator, inputs or numbers replaced by another's."""
    way, place = generator.randrange(4), generator.randrange(len(graph))
    if way == 0:
        return graph[:place] + bytes([generator.randrange(256)]) + graph[place + 1 :]
    if way == 1:
        return graph[:place] + graph[place + generator.randrange(1, 5) :]
    model = onnx.load_from_string(graph)
    node, other = generator.choices(model.graph.node, k=2)
    if way == 2:
        node.op_type = other.op_type
    else:
        node.ClearField("attribute")
        node.attribute.extend(other.attribute)
    made: bytes = model.SerializeToString()
    return made
