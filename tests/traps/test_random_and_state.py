"""What is random in train mode, or always; and state that changes in a call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import symbolic_trace

import qpart_fx as qpart
from tests.traps.harness import (
    CAPTURED,
    assert_exact_at_every_cut,
    linear,
    net,
    numbers,
    rows,
    same,
    state_of,
    with_buffers,
)


def random(kind: str) -> nn.Module:
    def forward(self: Any, x: Tensor) -> Any:
        y, on = self.a(x), self.training
        match kind:
            case "module":
                y = self.dropout(y)
            case "dropout":
                y = F.dropout(y, 0.5, training=on)
            case "torch.dropout":
                y = torch.dropout(y, 0.5, on)
            case "dropout2d":
                y = F.dropout2d(y[..., None, None], 0.5, training=on)[..., 0, 0]
            case "alpha_dropout":
                y = F.alpha_dropout(y, 0.5, training=on)
            case "attention":
                y = F.scaled_dot_product_attention(y, y, y, dropout_p=0.5 if on else 0.0)
            case "rrelu":
                y = F.rrelu(y, training=on)
            case "dropout by default":
                y = F.dropout(y, 0.5)
            case "dropout always":
                y = F.dropout(y, 0.5, training=True)
            case "rare dropout":
                y = F.dropout(y, 1e-6, training=True)
            case "randn_like":
                y = y + torch.randn_like(y)
            case "randn":
                y = y + torch.randn(y.shape)
            case "rand of a shape":
                y = y * torch.rand(y.shape[0], 1)
            case "normal_":
                y = y.add_(torch.empty_like(y).normal_())
            case "bernoulli":
                y = y * torch.bernoulli(torch.full_like(y, 0.5))
            case "randperm":
                y = y[:, torch.randperm(4)]
            case "gumbel_softmax":
                y = F.gumbel_softmax(y)
            case "seeded":
                y = y + torch.randn(4, generator=torch.Generator().manual_seed(7))
        return self.b(y.relu())

    return net(forward, a=linear(), b=linear(), dropout=nn.Dropout(0.5))


DROPOUTS = "module dropout torch.dropout dropout2d alpha_dropout attention".split()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [*DROPOUTS, "rrelu", "seeded"])
def test_dropout_is_silent(kind: str, training: bool) -> None:
    assert_exact_at_every_cut(random(kind).train(training), rows(4))


@pytest.mark.parametrize("kind", DROPOUTS)
def test_a_graph_module_traced_in_train_mode_is_that_of_inference(kind: str) -> None:
    model = random(kind).train()
    assert_exact_at_every_cut(symbolic_trace(model), rows(4), reference=model)


RANDOM = [
    "randn_like", "randn", "rand of a shape", "normal_", "bernoulli", "randperm",
    "dropout by default", "dropout always", "rare dropout",
]  # fmt: skip


@pytest.mark.parametrize("kind", RANDOM)
def test_a_model_that_is_always_random_is_refused(kind: str) -> None:
    torch.manual_seed(0)  # by chance alone, two runs of coins agree now and then
    with pytest.raises(qpart.CaptureError, match="random"):
        qpart.split(random(kind), numbers(CAPTURED, 4))


@pytest.mark.parametrize(
    ("kind", "training"), [("randn_like", False), ("bernoulli", False), ("gumbel_softmax", False), ("rrelu", True)]
)
def test_a_graph_module_that_is_random_is_refused(kind: str, training: bool) -> None:
    torch.manual_seed(0)
    with pytest.raises(qpart.CaptureError, match="random"):
        qpart.split(symbolic_trace(random(kind).train(training)), numbers(CAPTURED, 4))


# State.


def counting(kind: str) -> nn.Module:
    def forward(self: Any, x: Tensor) -> Any:
        y = self.first(x)
        match kind:
            case "buffer":
                self.calls += 1
                y = y * self.calls
            case "buffer on both sides":
                y = y + self.calls
                self.calls.add_(1)
                return self.second(y.relu()) * self.calls
            case "buffer assigned":
                self.calls = self.calls + 1
                y = y * self.calls
            case "running mean":
                self.calls.mul_(0.9).add_(y.mean(0), alpha=0.1)
                y = y - self.calls
            case "number":
                self.number += 1
                y = y * self.number
            case "buffer that is not used":
                self.calls += 1
            case "memo":
                self.memo = torch.ones(4) * 3 if self.memo is None else self.memo
                y = y * self.memo
            case "last value":
                self.memo = y
                y = y + self.memo
        return self.second(y.relu())

    model = with_buffers(net(forward, first=linear(), second=linear()), persistent=False, calls=torch.zeros(4))
    model.number, model.memo = 0, None  # type: ignore[assignment]
    return model


@pytest.mark.parametrize("kind", ["buffer that is not used", "memo", "last value"])
def test_state_that_the_output_does_not_follow(kind: str) -> None:
    assert_exact_at_every_cut(counting(kind), rows(4))


COUNTING = ["buffer", "buffer on both sides", "buffer assigned", "running mean", "number"]


@pytest.mark.parametrize("kind", COUNTING)
def test_state_that_the_output_follows_is_refused(kind: str) -> None:
    model = counting(kind)
    before = state_of(model)
    with pytest.raises(qpart.CaptureError):
        qpart.split(model, numbers(CAPTURED, 4))
    assert same(state_of(model), before)
