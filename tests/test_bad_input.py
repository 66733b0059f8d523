"""Compiling with something wrong: what the user is told, and that nothing is left half done."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qpart_fx as qpart
from qpart_fx.quantizer import UniformQuantizer
from tests.networks import Residual, classifier, images

REQUEST = qpart.Request.paper(0.05)


@pytest.fixture(scope="module")
def profile() -> qpart.Profile:
    return qpart.profile(classifier(), [images(300, seed=2)], progress=False)


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        (None, "no calibration data"),
        ([], "hold no sample"),
        ([torch.empty(0, 3, 8, 8)], "hold no sample"),
        ([images(4), torch.full((2, 3, 8, 8), float("nan"))], "batch 1 holds 384 NaN"),
        ([images(4).index_fill(0, torch.tensor([2]), float("inf"))], "batch 0 holds 192 NaN or infinite"),
        (images(4), "put a single batch in a list"),
        (7, "calibration is a int"),
        ([images(4).numpy()], "use torch.as_tensor"),
        (["text"], "holds no tensor"),
        ([(images(4), torch.zeros(3, dtype=torch.int64))], r"4 samples and targets of shape \[3\]"),
        ([(images(4), torch.zeros(4))], "not class indices"),
        ([(images(4), torch.full((4,), 9))], "targets run from 9 to 9, but the model scores 4"),
        ([(images(4), torch.zeros(4, dtype=torch.int64)), images(4)], "targets to all or to none"),
        ([torch.randn(4, 5, 8, 8)], r"in '0', .*does not accept float32\[2, 5, 8, 8\]"),
        ([torch.randn(4, 3, 6, 6)], "in '6', .*does not accept"),
        ([images(4), torch.randn(4, 3, 6, 6)], "'_6'.*does not accept"),
        ([{"input": images(4), "mask": images(4)}], "does not accept input=.*unexpected keyword argument 'mask'"),
        ([(images(4), images(4), images(4))], "does not accept .*takes 2 positional arguments but 4 were given"),
        ([{}], "holds no tensor"),
    ],
)
def test_bad_calibration(calibration: Any, message: str) -> None:
    model = classifier()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(qpart.CalibrationError, match=message) as caught:
        qpart.compile(model, REQUEST, calibration=calibration)
    assert isinstance(caught.value, ValueError)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_output_that_is_not_finite() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Hardtanh())
    model.append(nn.Threshold(0.5, float("nan")))
    with pytest.raises(qpart.CalibrationError, match="output is NaN or infinite"):
        qpart.compile(model, REQUEST, calibration=[torch.randn(8, 3)])


def test_model_without_weights() -> None:
    with pytest.raises(qpart.ModelError, match="no weighted layer"):
        qpart.compile(nn.Sequential(nn.Flatten(), nn.ReLU()), REQUEST, calibration=[images(4)])


@pytest.mark.parametrize("request_", [None, {"max_accuracy_drop": 0.1}, 0.01])
def test_request_of_another_kind(request_: Any) -> None:
    with pytest.raises(qpart.RequestError, match=r"expected a qpart_fx\.Request"):
        qpart.compile(classifier(), request_, calibration=[images(4)])


def test_unknown_method_and_cut(profile: qpart.Profile) -> None:
    with pytest.raises(qpart.RequestError, match="method 'guess' is unknown: choose one of exact, paper"):
        profile.plan(REQUEST, method="guess")
    with pytest.raises(qpart.RequestError, match="_9 is none of the 5 profiled cuts, such as: input_1; _1; _2"):
        profile.plan(REQUEST, cut="_9")


@pytest.mark.parametrize("levels", [(), (0.0,), (0.01, 1.5), (float("nan"),)])
def test_bad_levels(levels: tuple[float, ...]) -> None:
    with pytest.raises(qpart.RequestError, match="give accuracy drops between 0 and 1"):
        qpart.profile(classifier(), [images(4)], levels=levels)


IMPOSSIBLE: list[tuple[str, Callable[[qpart.Request], qpart.Request]]] = [
    ("device.memory_bytes", lambda r: replace(r, device=replace(r.device, memory_bytes=100))),
    ("deadline_s", lambda r: replace(r, deadline_s=1e-9)),
    ("energy_budget_j", lambda r: replace(r, energy_budget_j=1e-12)),
    ("max_accuracy_drop", lambda r: replace(r, device=replace(r.device, weight_bits=(2,)), max_accuracy_drop=0.001)),
]


@pytest.mark.parametrize(("limit", "change"), IMPOSSIBLE)
def test_request_that_nothing_meets(
    profile: qpart.Profile, limit: str, change: Callable[[qpart.Request], qpart.Request]
) -> None:
    request = change(REQUEST)
    for attempt in (profile.plan, profile.compile):
        with pytest.raises(qpart.InfeasibleError, match=f"no plan (meets|keeps) {limit}") as caught:
            attempt(request)
        assert caught.value.limit == limit
        assert isinstance(caught.value.nearest, qpart.Plan)


def test_plan_of_another_model(profile: qpart.Profile) -> None:
    other = qpart.profile(Residual().eval(), [images(20)], progress=False).plan(qpart.Request.paper(0.5))
    with pytest.raises(qpart.RequestError):
        profile.compile(other)


def test_the_caller_s_data_are_not_written_to() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.fc(x.mul_(0.5))
            return scores

    x = torch.randn(60, 6)
    before = x.clone()
    split = qpart.compile(Halves(), qpart.Request.paper(0.5), calibration=[x])
    split.verify([x])
    assert torch.equal(x, before)


def test_a_profile_is_not_measured_on_the_data_it_was_made_with() -> None:
    data = [images(40)]
    profile = qpart.profile(classifier(), data, progress=False)
    request = qpart.Request.paper(0.5, calibration=data)
    plan = qpart.compile(profile, request).plan
    assert plan is not None
    assert plan.samples == 20
    again = qpart.compile(profile, request, calibration=[images(30, seed=5)]).plan
    assert again is not None
    assert again.samples == 30


def test_sequence_first_data_are_refused() -> None:
    class SequenceFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.fc(x[-1])
            return scores

    with pytest.raises(qpart.CalibrationError, match="samples must lie along the first dimension"):
        qpart.compile(SequenceFirst(), REQUEST, calibration=[torch.randn(7, 20, 6)])


@pytest.mark.parametrize("size", [0, -1, 2.5, None])
def test_bad_number_of_samples(size: Any) -> None:
    with pytest.raises(qpart.RequestError, match=r"max_samples = .*whole number from 1"):
        qpart.profile(classifier(), [images(4)], max_samples=size)


def test_interrupted_profiling_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = classifier()
    before = copy.deepcopy(model.state_dict())

    def interrupt(*_: Any) -> Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(UniformQuantizer, "__call__", interrupt)
    with pytest.raises(KeyboardInterrupt):
        qpart.compile(model, REQUEST, calibration=[images(8)])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_samples_prove_next_to_nothing_and_say_so(count: int) -> None:
    plan = qpart.compile(classifier(), REQUEST, calibration=[images(count)]).plan
    assert plan is not None
    assert plan.drop_upper_bound is not None
    assert plan.samples_needed is not None
    assert plan.drop_upper_bound > plan.max_accuracy_drop
    assert plan.samples_needed > count


def test_a_metric_that_does_not_repeat_itself_is_refused() -> None:
    calls = iter(range(1000))
    with pytest.raises(qpart.CalibrationError, match=r"gave 0 and then 0\.1 for the same outputs"):
        qpart.profile(classifier(), [images(20)], metric=lambda outputs, targets: next(calls) / 10, progress=False)


@pytest.mark.parametrize("value", [0.0, 1.0, float("nan")])
def test_a_metric_that_says_nothing_is_refused(value: float) -> None:
    with pytest.raises(qpart.CalibrationError, match=r"lost between 0\.01 and 0\.5 at none|must be finite"):
        qpart.profile(classifier(), [images(20)], metric=lambda outputs, targets: value, progress=False)
