"""Graphs as JSON: the same graph back, and nothing but known operations, however the record is forged."""

from __future__ import annotations

import contextlib
import json
import math
import operator
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, symbolic_trace
from torch.nn import functional as F

from qpart_fx import ArtifactError
from qpart_fx.graph_json import graph_from_record, graph_to_record, tensors_of

Record = dict[str, Any]


def through_json(graph_module: GraphModule) -> GraphModule:
    record = json.loads(json.dumps(graph_to_record(graph_module), allow_nan=False))
    return graph_from_record(record, tensors_of(graph_module))


def call(*arguments: Any, **keywords: Any) -> GraphModule:
    """A graph that hands these arguments on, as a tuple, with its input."""
    graph = Graph()
    graph.output((graph.placeholder("x"), arguments, keywords))
    return GraphModule(nn.Module(), graph)


class Branches(nn.Module):
    """Structure in the arguments, the attributes, the inputs and the output."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"a": nn.Sequential(nn.Linear(4, 4), nn.ReLU()), "conv-1": nn.Linear(4, 4)})
        self.register_buffer("scale", torch.arange(4.0))
        self.constant = torch.full((4,), 0.5)

    def forward(self, x: Tensor, mask: Tensor | None = None, *, gain: float = 2.0) -> dict[str, Any]:
        y = self.inner["a"](x) * self.scale + self.constant * gain
        z = torch.cat([y[..., 1:3], self.inner["conv-1"](x)[:, None, 0]], dim=-1)
        return {"y": y.to(torch.float64), "both": (z, [F.pad(z, (1, 0), value=-math.inf)]), "shape": x.shape}


def test_a_graph_comes_back_with_its_code() -> None:
    graph_module = symbolic_trace(Branches().eval())
    again = through_json(graph_module)
    body, expected = (module.code.strip().splitlines()[1:] for module in (again, graph_module))
    assert body == expected  # the first line may lose the annotations of the inputs
    assert [node.name for node in again.graph.nodes] == [node.name for node in graph_module.graph.nodes]
    assert type(again).__name__ == type(graph_module).__name__
    assert not again.training


def test_it_computes_the_same_and_keeps_structures() -> None:
    graph_module = symbolic_trace(Branches().eval())
    x = torch.randn(2, 4)
    expected, found = graph_module(x, gain=3.0), through_json(graph_module)(x, gain=3.0)
    assert found.keys() == expected.keys()
    assert torch.equal(found["y"], expected["y"])
    assert type(found["both"]) is tuple
    assert torch.equal(found["both"][1][0], expected["both"][1][0])
    assert found["shape"] == expected["shape"]


@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, -7, 2**60, 0.1, math.inf, -math.inf, "text", 'a "quoted" \\ \n text', (), [], {}, (1, [2, (3,)]),
        {"key": (1, None), "a b": [2]}, slice(1, None, -2), ..., torch.float16, torch.device("cpu"), torch.strided,
        torch.channels_last, (slice(None), ..., None, 0),
    ],
    ids=str,
)  # fmt: skip
def test_every_constant_comes_back(value: Any) -> None:
    again = through_json(call(value, key=value))
    _, positional, keywords = again(0)
    assert positional == (value,)
    assert keywords == {"key": value}
    assert type(positional[0]) is type(value)


def test_not_a_number_comes_back() -> None:
    assert math.isnan(through_json(call(math.nan))(0)[1][0])


@pytest.mark.parametrize("value", [1j, torch.zeros(2), b"bytes", {1, 2}], ids=["complex", "tensor", "bytes", "set"])
def test_another_constant_is_refused_by_its_type(value: Any) -> None:
    with pytest.raises(ArtifactError, match=f"a constant of type {type(value).__name__}"):
        graph_to_record(call(value))


def test_a_function_of_the_user_s_is_refused_by_name() -> None:
    graph = Graph()
    graph.output(graph.call_function(test_not_a_number_comes_back, ()))
    with pytest.raises(ArtifactError, match="test_not_a_number_comes_back, which no file may hold"):
        graph_to_record(GraphModule(nn.Module(), graph))


def test_a_constant_module_attribute_that_is_no_tensor_is_refused() -> None:
    root, graph = nn.Module(), Graph()
    root.table = [1, 2]  # type: ignore[assignment]
    graph.output(graph.get_attr("table"))
    with pytest.raises(ArtifactError, match="the constant 'table' is a list; a file holds tensors only"):
        tensors_of(GraphModule(root, graph))


def test_a_model_of_any_number_of_inputs_is_refused_or_comes_back() -> None:
    class Sum(nn.Module):
        def forward(self, first: Tensor, *rest: Tensor) -> Tensor:
            return first + rest[0]

    graph_module = symbolic_trace(Sum())
    try:
        record = graph_to_record(graph_module)
    except ArtifactError:
        return
    again = graph_from_record(record, {})
    assert torch.equal(again(torch.ones(1), torch.ones(1)), torch.full((1,), 2.0))


# Forged records: the graph of `relu(f(x) + c).sum(dim=1)`, one thing changed.


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Linear(2, 2)
        self.register_buffer("c", torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.f(x) + self.c).sum(dim=1)


def small() -> tuple[Record, dict[str, Tensor]]:
    graph_module = symbolic_trace(Small().eval())
    return json.loads(json.dumps(graph_to_record(graph_module))), tensors_of(graph_module)


def node(record: Record, name: str) -> list[Any]:
    found: list[Any] = next(each for each in record["nodes"] if each[1] == name)
    return found


def test_the_record_to_be_forged_is_good() -> None:
    record, tensors = small()
    assert graph_from_record(record, tensors)(torch.zeros(1, 2)).shape == (1,)


OPCODE, NAME, TARGET, ARGUMENTS, KEYWORDS = range(5)
X, RELU = {"node": "x"}, {"node": "relu"}


def change(name: str, part: int | slice, value: Any) -> Callable[[Record], None]:
    def edit(record: Record) -> None:
        node(record, name)[part] = value

    return edit


def update(**changes: Any) -> Callable[[Record], None]:
    return lambda record: record.update(changes)


def add_module(name: str) -> Callable[[Record], None]:
    return lambda record: record["modules"].update({name: {"type": "torch.nn.ReLU", "arguments": {}}})


def edits() -> Iterator[tuple[str, Callable[[Record], None]]]:
    value: Any
    for function in ("os.system", "builtins.eval", "torch.load", "torch.ops.load_library", "print", "", None, 3, ["x"]):
        yield f"function {function}", change("relu", TARGET, function)
    for method in ("apply_", "map_", "numpy", "__reduce_ex__", "__class__", "sum(); print", "", None, 3, ["sum"]):
        yield f"method {method}", change("sum_1", TARGET, method)
    for target in (
        "nope", "f.weight", "", ".", "c", "forward", "register_buffer", "load_state_dict", "add_module", "apply",
        "__init__", "__class__", "__class__.__subclasses__", "training.__class__.__base__.__subclasses__",
        "__dict__.__class__.fromkeys",
        "f.forward", "f.__class__", "_modules.clear", "forward.__globals__.clear", None, 3, ["f"],
    ):  # fmt: skip
        yield f"module {target}", change("f", TARGET, target)
    for value in ("nope", "f", "f.bias.data", "__class__", "training", "__dict__", "c.__class__", "", None, 3, ["c"]):
        yield f"tensor {value}", change("c", TARGET, value)
    for name in ("x y", "1x", "x=print(1)", "x)", "", "é l", None, 3):
        yield f"node name {name!r}", change("x", NAME, name)
        yield f"input {name!r}", change("x", TARGET, name)
        yield f"class {name!r}", update(name=name)
    for name in ("import", "self", "None", "lambda", "ｓelf", "__class__ ", "*args, y"):
        yield f"input {name}", change("x", TARGET, name)
    for opcode in ("exec", "root", "", None, 3, ["output"]):
        yield f"opcode {opcode}", change("f", OPCODE, opcode)
    for value in ("__class__", "__globals__", "grad_fn", "shape.__class__", "", None, 3, X):
        yield f"attribute {value}", change("relu", slice(TARGET, KEYWORDS), ["getattr", {"tuple": [X, value]}])
    yield "attribute missing", change("relu", slice(TARGET, KEYWORDS), ["getattr", {"tuple": [X]}])
    for value in (
        X,
        [X],
        None,
        3,
        "x",
        {},
        {"tuple": 3},
        {"tuple": [{"node": "later"}]},
        {"list": [X]},
        {"a": 1, "b": 2},
    ):
        yield f"arguments {value}", change("sum_1", ARGUMENTS, value)
    for value in ("a b", "1", "", "dim=1, x", "x)#", "import", "None", "dim\n", 1, None, {"tuple": []}, X):
        yield f"keyword {value!r}", change("sum_1", KEYWORDS, {"dict": [[value, 1]]})
    for value in ([], None, 3, X, {"tuple": []}, {"dict": [[1]]}, {"dict": 3}):
        yield f"keywords {value}", change("sum_1", KEYWORDS, value)
    for value in (
        {"os": 1}, {"dtype": "load"}, {"dtype": None}, {"layout": "nn"}, {"memory_format": "__name__"}, {"float": "x"},
        {"float": None}, {"device": "nope"}, {"device": 3.5}, {"slice": [1, 2, 3, 4]}, {"node": "sum_1"}, {"node": []},
        {"dict": [[[], 1]]}, {},
    ):  # fmt: skip
        yield f"constant {value}", change("sum_1", ARGUMENTS, {"tuple": [RELU, value]})
    yield (
        "input twice",
        lambda record: record["nodes"].insert(1, ["placeholder", "y", "x", {"tuple": []}, {"dict": []}]),
    )
    yield "output without a value", change("output", ARGUMENTS, {"tuple": []})
    yield "nothing", lambda record: record["nodes"].clear()
    yield "no output", lambda record: record["nodes"].pop()
    yield "a short node", lambda record: record["nodes"][0].pop()
    for part in ("name", "nodes", "modules"):
        for value in (None, 3, "x", [3]):
            if (part, value) != ("name", "x"):
                yield f"{part} = {value}", update(**{part: value})
    for name in ("a..b", "", ".", "f.weight", "__class__", "forward", "_modules", 'a"b', "a\nb", "a\\"):
        yield f"module called {name!r}", add_module(name)
    yield "deep", change("sum_1", ARGUMENTS, {"tuple": [json.loads("[" * 900 + "]" * 900)]})


EDITS = dict(edits())


@pytest.mark.parametrize("part", ["name", "nodes", "modules"])
def test_a_record_without_a_part_is_refused(part: str) -> None:
    record, tensors = small()
    del record[part]
    with pytest.raises(ArtifactError, match=part):
        graph_from_record(record, tensors)


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_a_forged_record_is_refused(edit: Callable[[Record], None]) -> None:
    record, tensors = small()
    edit(record)
    with pytest.raises(ArtifactError):
        graph_from_record(record, tensors)


@pytest.mark.parametrize("record", [None, 3, "x", [], {}])
def test_what_is_no_record_is_refused(record: Any) -> None:
    with pytest.raises(ArtifactError):
        graph_from_record(record, {})


@pytest.mark.parametrize("name", ["f.weight", "f.bias", "c"])
def test_a_tensor_that_is_missing_is_named(name: str) -> None:
    record, tensors = small()
    del tensors[name]
    with pytest.raises(ArtifactError, match=f"'{name}'"):
        graph_from_record(record, tensors)


def test_a_weight_of_another_shape_is_refused_by_name() -> None:
    record, tensors = small()
    tensors["f.weight"] = nn.Parameter(torch.zeros(3, 3))
    with pytest.raises(ArtifactError, match=r"'?f\.weight'?"):
        graph_from_record(record, tensors)


# Forged records that try to have code of theirs run, when the graph is loaded or called. Where a text is legal as a
# value, it must stay a value.


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "ran"


RUN = 'getattr(__import__("pathlib"), "Path")("ran")'
"""An expression without a dot; with ``.touch()`` behind it, or as below, it leaves a file."""
TOUCH = f'getattr({RUN}, "touch")()'
TEXTS = [
    TOUCH,
    f"x, {TOUCH}",
    f"x={TOUCH}",
    f"x=1, *[{TOUCH}], **{{}}",
    f"dim=[1, {TOUCH}][0], keepdim",
    f'c") or {TOUCH} or getattr(self, "c',
    f'training") or {TOUCH} or getattr(self, "training',
    f"c') or {TOUCH} or getattr(self, 'c",
    f"c\n    {TOUCH}\n    c = self",
    f'"); {TOUCH} #',
    f"'); {TOUCH} #",
    f"\\'); {TOUCH} #",
    f"{{{TOUCH}}}",
    f"x\r{TOUCH}\r",
    f"x;{TOUCH}",
]


def set_input(record: Record, tensors: dict[str, Tensor], text: str) -> None:
    node(record, "x")[TARGET] = text


def set_default(record: Record, tensors: dict[str, Tensor], text: str) -> None:
    node(record, "x")[ARGUMENTS] = {"tuple": [text]}


def set_node_name(record: Record, tensors: dict[str, Tensor], text: str) -> None:
    node(record, "sum_1")[NAME] = text
    record["nodes"][-1][ARGUMENTS] = {"tuple": [{"node": text}]}


def set_class_name(record: Record, tensors: dict[str, Tensor], text: str) -> None:
    record["name"] = text


def set_keyword(record: Record, tensors: dict[str, Tensor], text: str) -> None:
    node(record, "sum_1")[KEYWORDS] = {"dict": [[text, 1]]}


def set_key_of_a_dict(record: Record, tensors: dict[str, Tensor], text: str) -> None:
    record["nodes"][-1][ARGUMENTS] = {"tuple": [{"dict": [[text, RELU]]}]}


def set_text(record: Record, tensors: dict[str, Tensor], text: str) -> None:
    record["nodes"][-1][ARGUMENTS] = {"tuple": [[text, RELU]]}


def set_device(record: Record, tensors: dict[str, Tensor], text: str) -> None:
    record["nodes"][-1][ARGUMENTS] = {"tuple": [[{"device": text}, RELU]]}


def set_constant(record: Record, tensors: dict[str, Tensor], text: str) -> None:
    node(record, "c")[TARGET] = text
    tensors[text] = tensors["c"].clone()


def set_module(record: Record, tensors: dict[str, Tensor], text: str) -> None:
    record["modules"][text] = record["modules"]["f"]
    tensors[f"{text}.weight"], tensors[f"{text}.bias"] = tensors["f.weight"], tensors["f.bias"]
    node(record, "f")[TARGET] = text


def set_module_type(record: Record, tensors: dict[str, Tensor], text: str) -> None:
    record["modules"]["f"]["type"] = text


def set_module_argument(record: Record, tensors: dict[str, Tensor], text: str) -> None:
    record["modules"]["f"]["arguments"]["bias"] = text


def set_function(record: Record, tensors: dict[str, Tensor], text: str) -> None:
    node(record, "relu")[TARGET] = text


def set_method(record: Record, tensors: dict[str, Tensor], text: str) -> None:
    node(record, "sum_1")[TARGET] = text


def set_attribute(record: Record, tensors: dict[str, Tensor], text: str) -> None:
    node(record, "relu")[TARGET : ARGUMENTS + 1] = ["getattr", {"tuple": [X, text]}]


def set_output(record: Record, tensors: dict[str, Tensor], text: str) -> None:
    node(record, "output")[TARGET] = text


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    "place",
    [
        set_input, set_default, set_node_name, set_class_name, set_keyword, set_key_of_a_dict, set_text, set_device,
        set_constant, set_module, set_module_type, set_module_argument, set_function, set_method, set_attribute,
        set_output,
    ],
)  # fmt: skip
def test_no_text_in_a_record_becomes_code(
    place: Callable[[Record, dict[str, Tensor], str], None], text: str, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record, tensors = small()
    place(record, tensors, text)
    try:
        graph_module = graph_from_record(record, tensors)
    except ArtifactError:
        assert not marker.exists()
        return
    with contextlib.suppress(TypeError, RuntimeError, AttributeError):  # a value that the operation does not take
        graph_module(torch.zeros(1, 2))
    capsys.readouterr()  # torch.fx prints the line that failed
    assert not marker.exists()


def test_the_texts_would_run_where_they_became_code(marker: Path) -> None:
    eval(TOUCH)  # what the test above would notice
    assert marker.exists()


def test_operators_are_called_by_name_only() -> None:
    record, tensors = small()
    node(record, "relu")[TARGET : ARGUMENTS + 1] = ["operator.neg", {"tuple": [{"node": "add"}]}]
    assert (
        next(each for each in graph_from_record(record, tensors).graph.nodes if each.name == "relu").target
        is operator.neg
    )
