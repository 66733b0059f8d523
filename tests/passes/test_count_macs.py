"""The pass, the table that it reads, and what it cannot know."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, symbolic_trace

from qpart_fx.errors import InternalError, ModelError, RequestError
from qpart_fx.macs import table, zero
from qpart_fx.macs.table import count, handler_of
from qpart_fx.meta import TensorInfo, info, set_info
from qpart_fx.pass_manager import Pipeline
from qpart_fx.passes.count_macs import Call, CountMacs, macs_of, register_macs, uncounted
from qpart_fx.passes.propagate_shapes import PropagateShapes
from tests.macs.oracle import annotate, macs, one_call, ours, total, traced

r = torch.randn


@pytest.fixture(autouse=True)
def own_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(table, "_handlers", dict(table._handlers))


def test_the_pass_only_annotates() -> None:
    graph_module = symbolic_trace(nn.Sequential(nn.Linear(4, 3), nn.ReLU()))
    PropagateShapes((r(2, 4),)).run(graph_module)
    for node in graph_module.graph.nodes:
        set_info(node, weights={"w": 1})
    before = graph_module.code
    result = CountMacs().run(graph_module)
    assert result.graph_module is graph_module
    assert not result.modified
    assert graph_module.code == before
    assert macs(graph_module) == {"input_1": 0, "_0": 24, "_1": 0, "output": 0}
    assert all(info(node).weights == {"w": 1} for node in graph_module.graph.nodes)
    assert all(info(node).output is not None for node in graph_module.graph.nodes)


def test_in_a_pipeline() -> None:
    graph_module = symbolic_trace(nn.Linear(4, 3))
    assert total(Pipeline([PropagateShapes((r(2, 4),)), CountMacs()]).run(graph_module)) == 24
    assert repr(CountMacs()) == "CountMacs()"
    assert CountMacs() == CountMacs()


def test_a_shared_module_counts_at_every_call_and_parameters_count_nothing() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.weight = nn.Parameter(r(4, 2))

        def forward(self, x: Tensor) -> Any:
            return self.linear(self.linear(x)) @ self.weight

    assert list(macs(traced(Twice(), r(3, 4))).values()) == [0, 48, 48, 0, 24, 0]


UNKNOWN: list[tuple[Callable[..., Any] | str, tuple[Tensor, ...], str]] = [
    (torch.fft.rfft, (r(4),), "torch.fft.rfft"),
    (torch.cdist, (r(3, 4), r(5, 4)), "torch.functional.cdist"),
    ("cov", (r(3, 4),), "torch.Tensor.cov"),
    (torch.chain_matmul, (r(3, 4), r(4, 5)), "torch.functional.chain_matmul"),
    (nn.CosineSimilarity(), (r(3, 4), r(3, 4)), "torch.nn.modules.distance.CosineSimilarity"),
    (torch.ops.aten.cdist.default, (r(3, 4), r(5, 4)), "aten.cdist.default"),
]


@pytest.mark.parametrize(("operation", "inputs", "name"), UNKNOWN)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_unknown_operation_is_listed(operation: Any, inputs: tuple[Tensor, ...], name: str) -> None:
    graph_module = one_call(operation, *inputs)
    assert uncounted(graph_module) == {"call": name}
    assert [node for node, count in macs(graph_module).items() if count is None] == ["call"]


def test_a_method_that_no_tensor_has_is_listed() -> None:
    graph = Graph()
    graph.output(graph.call_method("frobnicate", (graph.placeholder("x"),)))
    assert uncounted(GraphModule(nn.Module(), graph)) == {"frobnicate": "frobnicate"}


def test_methods_of_sizes_lists_and_dictionaries_count_nothing() -> None:
    graph = Graph()
    given = graph.placeholder("given")
    calls = [graph.call_method(name, (given,)) for name in ("append", "extend", "items", "numel", "setdefault")]
    assert [macs_of(node) for node in calls] == [0] * 5


def test_a_call_of_a_module_that_is_not_there_is_unknown() -> None:
    graph = Graph()
    assert macs_of(graph.call_module("anything", (graph.placeholder("x"),))) is None


def test_without_shapes_products_are_unknown_and_the_rest_counts_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2), nn.ConvTranspose1d(1, 1, 1))
    graph_module = symbolic_trace(model)
    CountMacs().run(graph_module)
    assert list(macs(graph_module).values()) == [0, None, 0, 0, None, None, 0]
    assert list(uncounted(graph_module)) == ["_0", "_3", "_4"]


def test_no_handler_of_ours_fails_on_missing_shapes() -> None:
    products = [operation for operation, handler in table._handlers.items() if handler is not zero.nothing]
    functions = [operation for operation in products if not inspect.isclass(operation)]
    assert len(functions) > 40
    for operation in functions:
        expected = 0 if table._handlers[operation] is zero.norm else None
        for arguments in ((), (None,) * 4, (TensorInfo((2, 3), torch.float32), None, None, None)):
            assert count(operation, Call(arguments, {}, None, None)) == expected, operation


def test_argument_by_position_name_and_default() -> None:
    call = Call((1, 2), {"dim": 3}, None, None)
    assert call.argument(1, "other") == 2
    assert call.argument(2, "dim") == 3
    assert call.argument(3, "keepdim", False) is False
    assert call.argument(3, "out") is None
    assert call.tensor(1, "other") is None


def test_a_handler_sees_shapes_in_place_of_tensors() -> None:
    calls = []

    @register_macs(torch.fft.rfft)
    def record(call: Call) -> int | None:
        calls.append(call)
        return 0

    one_call(torch.fft.rfft, r(4, 6), dim=0)
    x, output = TensorInfo((4, 6), torch.float32), TensorInfo((3, 6), torch.complex64)
    assert calls[0] == Call((x,), {"dim": 0}, output, None)


class Own(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return torch.fft.rfft(x).abs().cov()


class Renamed(Own): ...


class Other(Own):
    def forward(self, x: Tensor) -> Any:
        return x


def test_registering_a_function_a_method_and_a_module() -> None:
    @register_macs(torch.fft.rfft, Tensor.cov, Own)
    def handler(call: Call) -> int | None:
        return int(call.args[0].elements) if call.module is None else 1

    assert handler_of(torch.fft.rfft) is handler
    assert macs(traced(Own(), r(2, 6))) == {"x": 0, "fft_rfft": 12, "abs_1": 0, "cov": 8, "output": 0}
    assert ours(Own(), r(2, 6)) == ours(Renamed(), r(2, 6)) == 1
    assert uncounted(one_call(Other(), r(2, 6))) == {"call": f"{__name__}.Other"}  # another forward is other work


def test_a_later_registration_replaces_ours() -> None:
    register_macs(nn.Linear, nn.ReLU)(lambda call: 7)
    assert total(traced(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), r(2, 4))) == 14


def test_a_registration_holds_within_larger_layers() -> None:
    register_macs(nn.MultiheadAttention)(lambda call: 0)
    assert ours(nn.TransformerEncoderLayer(12, 3, 5), r(4, 2, 12)) == 4 * 2 * 2 * 12 * 5


@pytest.mark.parametrize("operation", ["conv2d", None, 3, nn.Linear(1, 1)])
def test_registering_what_is_no_operation_fails(operation: Any) -> None:
    with pytest.raises(RequestError, match="register_macs takes"):
        register_macs(torch.matmul, operation)


def test_registering_nothing_fails() -> None:
    with pytest.raises(RequestError, match="at least one"):
        register_macs()
    not_a_handler: Any = 3
    with pytest.raises(RequestError, match="a MAC handler"):
        register_macs(torch.fft.fft)(not_a_handler)


@pytest.mark.parametrize("answer", [-1, 2.0, True, "many"])
def test_an_answer_that_is_no_count_names_node_line_handler_and_operation(answer: Any) -> None:
    @register_macs(torch.fft.rfft)
    def my_handler(call: Call) -> int | None:
        return answer  # type: ignore[no-any-return]

    graph_module = symbolic_trace(Own())
    for node in graph_module.graph.nodes:
        node.stack_trace = 'File "model.py", line 7, in forward'
    with pytest.raises(
        ModelError, match=r"node 'fft_rfft' \(model\.py:7\).*my_handler of torch\.fft\.rfft returned .*register_macs"
    ):
        annotate(graph_module, r(2, 6))


def test_a_handler_that_raises_is_named_where_it_was_called() -> None:
    @register_macs(nn.Linear)
    def my_handler(call: Call) -> int | None:
        raise KeyError("lost")

    message = r"node 'call'.*my_handler of torch\.nn\.modules\.linear\.Linear raised KeyError"
    for module, x in ((nn.Linear(4, 3), r(2, 4)), (nn.TransformerEncoderLayer(12, 3, 5), r(4, 2, 12))):
        with pytest.raises(ModelError, match=message) as caught:
            one_call(module, x)
        assert isinstance(caught.value.__cause__, KeyError)


def test_a_handler_of_ours_that_raises_is_our_bug() -> None:
    def handler(call: Call) -> int | None:
        raise KeyError("lost")

    handler.__module__ = zero.__name__
    register_macs(torch.fft.rfft)(handler)
    with pytest.raises(InternalError, match="please report"):
        one_call(torch.fft.rfft, r(4))
