"""Capturing leaves the caller's module as it was, and says what it cannot do."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import qpart_fx as qpart
from qpart_fx.passes.capture import capture
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
    model.history = model.weight * 2  # carries a gradient history
    with pytest.raises(qpart.CaptureError, match="cannot be copied"):
        capture(model)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(value: float) -> None:
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight[0, 1] = value
    with pytest.raises(qpart.ModelError, match="'weight' holds 1 NaN or infinite values of 6"):
        capture(model)
