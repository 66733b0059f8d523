"""Devices that are calibrated: what their heads take is the sum of what their operators take, and plans go by it."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import qpart_fx as qpart
from qpart_fx.cli import main
from qpart_fx.compiler import analyse
from qpart_fx.count_work import work_of
from qpart_fx.node_work import KINDS, NodeWork, OperatorCycles, Operators
from qpart_fx.passes.capture import capture
from tests.networks import Residual, UNet, images

CYCLES = {
    "convolution": OperatorCycles(per_mac=0.5, per_moved_byte=0.1, per_weight_byte=0.2, per_call=1000.0),
    "linear": OperatorCycles(per_mac=2.0, per_call=300.0),
    "elementwise": OperatorCycles(per_moved_byte=3.0),
    "packing": OperatorCycles(per_moved_byte=1.0, per_call=500.0),
    "call": OperatorCycles(per_call=7000.0),
}
DEVICE = qpart.Device(clock_hz=1e8, cycles_per_mac=4.0, operators=CYCLES)
REQUEST = qpart.Request(
    max_accuracy_drop=0.05, device=DEVICE, server=qpart.Server(clock_hz=1e9, cycles_per_mac=1, price_per_s=1),
    link=qpart.Link(uplink_bps=1e6, downlink_bps=1e6), inferences_per_download=100,
)  # fmt: skip


def kinds(model: nn.Module, *args: Tensor) -> dict[str, str]:
    graph = capture(model.eval(), args)
    analyse(graph, args, {})
    return {name: work.kind for name, work in work_of(graph).items()}


def test_kinds_of_convolutions() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 16, 1), nn.Conv2d(16, 16, 3, groups=4),
        nn.Conv2d(16, 4, 3),
    )  # fmt: skip
    assert [*kinds(model, torch.randn(1, 3, 16, 16)).values()] == [
        "image_convolution", "depthwise_convolution", "pointwise_convolution", "convolution", "convolution",
    ]  # fmt: skip
    assert [*kinds(nn.Conv2d(1, 8, 3), torch.randn(1, 1, 8, 8)).values()] == ["image_convolution"]


def test_what_runtimes_fuse_is_free_and_what_they_cannot_is_not() -> None:
    found = kinds(Residual(), images(1))
    assert set(found.values()) <= {*KINDS}
    assert "relu" not in found  # behind a convolution and its norm
    assert not [name for name in found if name.startswith("bn")]
    assert {found["add"], found["relu_1"]} == {"elementwise"}


def test_other_layers() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.lstm, self.out = nn.LayerNorm(8), nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(x)
            y, _ = self.lstm(x @ x.transpose(1, 2) @ x)
            scores: Tensor = self.out(y[:, -1])
            return scores

    found = kinds(Mixed(), torch.randn(1, 8, 8))
    assert [found[name] for name in ("norm", "matmul", "matmul_1", "lstm", "out")] == [
        "elementwise", "matrix_product", "matrix_product", "recurrence", "linear"
    ]  # fmt: skip


@pytest.fixture(scope="module", params=["residual", "unet"])
def profile(request: pytest.FixtureRequest) -> qpart.Profile:
    torch.manual_seed(0)
    if request.param == "residual":
        return qpart.profile(Residual().eval(), [images(64)], progress=False)
    model, x = UNet().eval(), images(64)
    return qpart.profile(model, [(x, model(x).detach())], metric=explained, progress=False)


def explained(outputs: Tensor, targets: Tensor) -> float:
    return 1 - float((outputs - targets).square().mean() / targets.var())


def cycles_by_hand(profile: qpart.Profile, plan: qpart.Plan) -> float:
    operators = Operators(CYCLES)
    on_device = [profile.work[name] for name in plan.device_nodes if name in profile.work]
    elements = next(cut.elements for cut in profile.closed_cuts if cut.crossing == plan.cut)
    total = sum(operators.of(work) for work in on_device)
    return total + operators.of(NodeWork("packing", 0, 4 * elements, 0)) + (7000.0 if total else 0.0)


def test_a_head_takes_what_its_operators_take(profile: qpart.Profile) -> None:
    for cut in profile.closed_cuts:
        plan = profile.plan(REQUEST, cut=cut.crossing)
        assert plan.prices["device_time_s"] == pytest.approx(cycles_by_hand(profile, plan) / 1e8)
        assert plan.prices["server_time_s"] == pytest.approx(cut.server_macs / 1e9)


@pytest.mark.parametrize("others", [{}, {"device_holds": True}, {"memory_bytes": 3000}])
def test_the_plan_is_the_best_of_those_at_each_cut(profile: qpart.Profile, others: dict[str, Any]) -> None:
    request = REQUEST
    if "memory_bytes" in others:
        request = replace(request, device=replace(DEVICE, memory_bytes=60_000))
    if "device_holds" in others:
        request = replace(request, device_holds=profile.plan(replace(request, max_accuracy_drop=0.01), cut="output"))
    best = profile.plan(request)
    each = []
    for cut in profile.closed_cuts:
        try:
            each.append(profile.plan(request, cut=cut.crossing).objective)
        except qpart.InfeasibleError:
            continue
    assert best.objective == pytest.approx(min(each))
    assert best.lower_bound is not None
    assert best.lower_bound <= best.objective * (1 + 1e-9)


def test_many_requests_are_planned_as_each_alone(profile: qpart.Profile) -> None:
    dear = OperatorCycles(per_mac=900.0)
    slow = replace(DEVICE, operators={"convolution": dear, "linear": dear})
    requests = [
        replace(REQUEST, device=device, link=qpart.Link(uplink_bps=rate, downlink_bps=1e6))
        for device, rate in itertools.product((DEVICE, slow, replace(DEVICE, operators=None)), (1e4, 1e6, 1e8))
    ]
    plans = profile.plan_many(requests)
    assert [plan.objective for plan in plans] == [profile.plan(request).objective for request in requests]
    assert len({plan.cut for plan in plans}) > 1


def test_a_profile_from_a_file_knows_its_work(profile: qpart.Profile, tmp_path: Path) -> None:
    profile.save(tmp_path / "profile.qpart")
    again = qpart.load(tmp_path / "profile.qpart")
    assert isinstance(again, qpart.Profile)
    assert again.plan(REQUEST) == profile.plan(REQUEST)
    old = replace(again, work={})
    with pytest.raises(qpart.RequestError, match="profile again"):
        old.plan(REQUEST)


def test_the_papers_method_refuses(profile: qpart.Profile) -> None:
    with pytest.raises(qpart.RequestError, match="one speed for all MACs"):
        profile.plan(REQUEST, method="paper")


@pytest.mark.parametrize(
    "device",
    [
        DEVICE,
        replace(DEVICE, operators=None),
        qpart.Device(clock_hz=1e9, cycles_per_mac={4: 0.5, 8: 1.0}, memory_bytes=1000, activation_bits=(8,)),
        replace(DEVICE, activation_bits_inside=8, runtime="onnx"),
    ],
)
def test_a_device_is_itself_from_its_json(device: qpart.Device) -> None:
    again = qpart.Device.from_json(device.to_json())
    assert again == device
    assert hash(again) == hash(device)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no JSON"),
        ("[1]", "no object"),
        ('{"clock_hz": 1}', "cycles_per_mac"),
        ('{"clock_hz": 1, "cycles_per_mac": 1, "speed": 3}', "speed"),
        ('{"clock_hz": -1, "cycles_per_mac": 1}', "Device.clock_hz"),
        ('{"clock_hz": 1, "cycles_per_mac": 1, "operators": {"thinking": {}}}', "no kind 'thinking'"),
        ('{"clock_hz": 1, "cycles_per_mac": 1, "operators": {"linear": {"per_dream": 1}}}', "per_mac"),
        (
            '{"clock_hz": 1, "cycles_per_mac": 1, "operators": {"linear": {"per_mac": -1}}}',
            "greater than or equal to 0",
        ),
        ('{"clock_hz": 1, "cycles_per_mac": 1, "operators": {"linear": {"per_mac": "x"}}}', "valid number"),
        ('{"clock_hz": 1, "cycles_per_mac": 1, "operators": [1]}', "calibrate-device"),
        ('{"clock_hz": 1, "cycles_per_mac": {"4": 1, "8": 2}, "operators": {}}', "one number for cycles_per_mac"),
    ],
)
def test_bad_devices(text: str, words: str) -> None:
    with pytest.raises(qpart.RequestError) as caught:
        qpart.Device.from_json(text)
    assert words in str(caught.value)


@pytest.fixture(scope="module")
def quick() -> Any:
    """A calibration of few blocks, measured a moment each."""
    calibration = pytest.importorskip("qpart_fx.device.calibration")
    suite = pytest.importorskip("qpart_fx.device.suite")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "_SECONDS", 0.0)
        some = [case for case in suite.cases() if case.name.split()[-1] in ("8", "7", "64", "1")]
        patch.setattr(calibration, "cases", lambda: iter(some))
        yield patch


@pytest.mark.parametrize("integers", [False, True])
def test_the_work_of_blocks_is_what_the_same_network_in_torch_is_made_of(quick: Any, integers: bool) -> None:
    from qpart_fx.device.suite import cases, total

    case = next(case for case in cases() if case.name == "residual 64 x 8")
    _, work = case.net(2, integers)
    model = nn.Sequential(*(_Block(64) for _ in range(2))).eval()
    x = torch.randn(1, 64, 8, 8)
    graph = capture(model, (x,))
    analyse(graph, (x,), {})
    expected = total([*work_of(graph).values()])
    found = total(work)
    assert found.keys() == expected.keys()
    for kind, row in expected.items():
        np.testing.assert_allclose(found[kind], row, rtol=1e-2)  # biases


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + x)


@pytest.mark.parametrize("arguments", [[], ["--integers", "--clock-hz", "2e9", "--power-w", "4"]])
def test_a_machine_is_measured_and_read_back(
    quick: Any, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "device.json"
    assert main(["calibrate-device", "-o", str(path), "--threads", "1", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "convolution" in printed
    assert str(path) in printed
    device = qpart.Device.from_json(path.read_text())
    assert device.operators is not None
    assert set(device.operators) == {*KINDS}
    assert device.operators["convolution"].of(NodeWork("convolution", 10**7, 10**5, 10**5)) > 0
    assert device.activation_bits_inside == (8 if arguments else None)
    if arguments:
        assert device.kappa * device.clock_hz**3 == pytest.approx(4.0)


@pytest.mark.parametrize("arguments", [["--threads", "0"], ["--clock-hz", "0"], ["--memory-bytes", "-3"]])
def test_impossible_numbers_are_refused_before_anything_is_measured(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "device.json"
    assert main(["calibrate-device", "-o", str(path), *arguments]) == 1
    assert "qpart: " in capsys.readouterr().err
    assert not path.exists()


def test_all_that_is_missing_is_named_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("qpart_fx.errors.find_spec", lambda name: None)
    assert main(["calibrate-device"]) == 1
    assert 'pip install "qpart-fx[calibrate]"' in capsys.readouterr().err


def test_rates_are_found_in_spite_of_blocks_that_something_else_slowed_down() -> None:
    calibration = pytest.importorskip("qpart_fx.device.calibration")
    random = np.random.default_rng(0)
    table = 10.0 ** random.uniform(3, 7, (60, 5))
    rates = np.array([1e-9, 0.0, 2e-9, 5e-10, 0.0])
    seconds = table @ rates * random.lognormal(0, 0.02, 60)
    seconds[::10] *= 5
    found = calibration._fit(table, seconds)
    assert (found >= 0).all()
    np.testing.assert_allclose((table @ found)[1:10], (table @ rates)[1:10], rtol=0.1)
    assert json.dumps(found.tolist())
