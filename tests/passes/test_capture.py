"""Capturing leaves the caller's module as it was, and says what it cannot do."""

from __future__ import annotations

import copy
import re
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qpart_fx as qpart
from qpart_fx.passes.capture import capture, capture_report
from tests.networks import Residual, images


def test_graph_computes_what_the_module_computes_in_eval_mode() -> None:
    model = Residual().train()
    x = images(3)
    graph = capture(model)
    assert torch.equal(graph(x), model.eval()(x))


def test_golden_graph() -> None:
    graph = capture(nn.Sequential(nn.Linear(4, 3), nn.ReLU()))
    assert [(node.op, node.name) for node in graph.graph.nodes] == [
        ("placeholder", "input_1"),
        ("call_module", "_0"),
        ("call_module", "_1"),
        ("output", "output"),
    ]


@pytest.mark.parametrize("training", [True, False])
def test_module_is_bit_for_bit_as_it_was(training: bool) -> None:
    model = Residual().train(training)
    model.conv2.eval()  # a mixed state has to survive too
    calls: list[int] = []
    model.fc.register_forward_hook(lambda *_: calls.append(1))
    model(images(2)).sum().backward()
    state, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    hooks = [dict(module._forward_hooks) for module in model.modules()]
    forwards = [module.forward for module in model.modules()]

    request = qpart.Request.paper(0.5)
    qpart.compile(model, request, calibration=[images(8), images(8, seed=1)])

    after = model.state_dict()
    assert state.keys() == after.keys()
    assert all(torch.equal(state[name], after[name]) for name in state)
    assert [module.training for module in model.modules()] == modes
    assert [dict(module._forward_hooks) for module in model.modules()] == hooks
    assert [module.forward for module in model.modules()] == forwards
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        assert parameter.requires_grad
        assert (parameter.grad is None) == (grad is None)
        assert parameter.grad is None or grad is None or torch.equal(parameter.grad, grad)


def test_the_global_random_state_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))
    before = torch.get_rng_state()
    qpart.compile(model, qpart.Request.paper(0.5), calibration=[images(8).flatten(1)[:, :4]])
    assert torch.equal(before, torch.get_rng_state())


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        if y.sum() > 0:  # a decision on data
            return y
        return -y


def test_untraceable_forward_names_its_line() -> None:
    with pytest.raises(
        qpart.CaptureError, match=r"Branches cannot be captured\. symbolic_trace: at .*test_capture\.py:\d+"
    ):
        capture(Branches())


def test_not_a_module() -> None:
    with pytest.raises(qpart.CaptureError, match=r"expected a torch\.nn\.Module, got builtin_function"):
        capture(torch.relu)  # type: ignore[arg-type]


def test_module_that_cannot_be_copied() -> None:
    model = nn.Linear(2, 2)
    model.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(qpart.CaptureError, match="cannot be copied"):
        capture(model)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(value: float) -> None:
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight[0, 1] = value
    with pytest.raises(qpart.ModelError, match="'weight' holds 1 NaN or infinite values of 6"):
        capture(model)


class Optional(nn.Module):
    """An argument that is mostly left out, and control flow on a size."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor, mask: Tensor | None = None, flip: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        y: Tensor = self.fc(x)
        if mask is not None:
            y = y * mask
        if flip:
            y = -y
        if x.dim() == 2 and x.shape[1] > 3:
            y = y + 1
        return y, {"size": x}


@pytest.mark.parametrize("kwargs", [{}, {"flip": True}, {"mask": torch.ones(4)}])
def test_optional_arguments_and_control_flow_on_sizes(kwargs: dict[str, Any]) -> None:
    model, x = Optional(), torch.randn(3, 4)
    graph = capture(model, (x,), kwargs)
    assert capture_report(graph).way == "tracing beside a run"
    assert "symbolic_trace" in capture_report(graph).failed
    for size in (1, 3, 8):
        x = torch.randn(size, 4)
        output, expected = graph(x, **kwargs), model(x, **kwargs)
        assert torch.equal(output[0], expected[0])
        assert torch.equal(output[1]["size"], x)


def test_a_flag_that_was_captured_is_checked() -> None:
    graph = capture(Optional(), (torch.randn(3, 4),), {"flip": True})
    with pytest.raises(AssertionError, match="captured with flip = True"):
        graph(torch.randn(3, 4), flip=False)


def test_a_transformer_keeps_its_fast_path() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 3).eval()
    x = torch.randn(2, 5, 16)
    split = qpart.split(model, x)
    with torch.no_grad():
        assert torch.equal(split(x), model(x))
    assert any(name.startswith("layers.0") for name in split.head.state_dict())
    assert any(name.startswith("layers.2") for name in split.tail.state_dict())


def test_an_unknown_object_in_the_output_comes_back() -> None:
    class Cache:
        def __init__(self, keys: list[Tensor], length: int) -> None:
            self.keys, self.length = keys, length

    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Cache]:
            y = self.fc(x)
            return y.relu(), Cache([y, y * 2], 2)

    model, x = Cached(), torch.randn(2, 4)
    scores, cache = qpart.split(model, x)(x)
    assert torch.equal(scores, model(x)[0])
    assert type(cache) is Cache
    assert cache.length == 2
    assert torch.equal(cache.keys[1], model(x)[1].keys[1])


class Raises(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("only on Sundays")


def test_a_forward_that_raises_names_its_line() -> None:
    with pytest.raises(qpart.CaptureError, match=r"test_capture\.py:\d+: .*only on Sundays"):
        qpart.split(Raises(), torch.randn(2, 3))


class Frozen(nn.Module):
    """Its sizes are numbers of Python, which a trace beside a run takes for constants."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            x = x * mask
        y: Tensor = self.fc(x) / int(x.shape[0])
        return y


def test_a_batch_size_that_a_trace_froze_is_noticed() -> None:
    model, x = Frozen(), torch.randn(4, 4)
    graph = capture(model, (x,))
    report = capture_report(graph)
    assert re.search(r"test_capture\.py:\d+\): the model decided by a size here", report.failed["tracing beside a run"])
    assert report.way == "torch.export, this batch size"
    assert torch.equal(graph(x), model(x))
    with pytest.raises(AssertionError, match=r"froze the shape of its input 'x' .* takes \[4, 4\] only"):
        graph(torch.randn(3, 4))
    with pytest.raises(qpart.CaptureError, match="froze its batch size"):
        qpart.profile(model, [x])
