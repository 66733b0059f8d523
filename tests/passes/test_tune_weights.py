"""Tuned weights: nearer to the float model on other samples, on their grids, in files that read back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qpart_fx as qpart
from qpart_fx.head_file import read_head
from qpart_fx.quantized import weight_quantizers
from qpart_fx.stored_tensor import ChannelTensor


def samples(count: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 16, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 5),
    ).eval()  # fmt: skip


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(11, 12)
        self.cell = nn.LSTM(12, 16, batch_first=True)
        self.out = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.out(self.cell(self.embed(x))[0][:, -1])
        return scores


REQUEST = qpart.Request.paper(0.05)


@pytest.fixture(scope="module")
def profile() -> qpart.Profile:
    return qpart.profile(convolutions(), [samples(640, 3, 10, 10)], progress=False)


def noise(split: qpart.SplitModel, model: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((split(x) - model(x)).square().sum(dim=1).mean())


@pytest.mark.parametrize("cut", ["output", None])
def test_there_is_less_noise_on_other_samples(profile: qpart.Profile, cut: str | None) -> None:
    places = [each.crossing for each in profile.closed_cuts if each.device_macs and each.server_macs]
    plan = profile.plan(REQUEST, cut=cut or places[len(places) // 2])
    plain, tuned = profile.compile(plan), profile.compile(plan, tune=True, progress=False)
    model, x = convolutions(), samples(200, 3, 10, 10, seed=1)
    assert noise(tuned, model, x) <= noise(plain, model, x)
    if cut == "output":  # elsewhere rounding what crosses makes most of it, and nothing may have been won
        assert noise(tuned, model, x) < noise(plain, model, x)
    assert tuned.plan is not None
    assert tuned.plan.tuned
    assert tuned.plan.weight_bits == plan.weight_bits
    assert (tuned.plan.predicted_drop or 0) <= (plan.predicted_drop or 0)
    assert all(torch.equal(a, b) for a, b in zip(plain.tail.parameters(), tuned.tail.parameters(), strict=True))


def test_weights_stay_on_their_grids_and_the_file_reads_back(profile: qpart.Profile) -> None:
    plan = profile.plan(REQUEST, cut="output")
    plain, tuned = profile.compile(plan), profile.compile(plan, tune=True, progress=False)
    assert weight_quantizers(plain.head) == weight_quantizers(tuned.head)
    moved = 0
    for name, quantizer in weight_quantizers(tuned.head).items():
        weight = tuned.head.get_parameter(name).detach()
        assert torch.equal(quantizer(weight), weight)
        moved += int((weight != plain.head.get_parameter(name)).sum())
    assert moved
    content = tuned.packed_head()
    assert tuned.plan is not None
    assert abs(len(content) - tuned.plan.download_bytes) < 0.01 * len(content) + 16
    for name, tensor in read_head(content).tensors.items():
        if isinstance(tensor, ChannelTensor):
            assert torch.equal(torch.from_numpy(tensor.values), tuned.head.get_parameter(name).detach())


def test_the_same_samples_give_the_same_bytes_and_the_profile_stays(profile: qpart.Profile) -> None:
    before = {name: value.clone() for name, value in profile.graph.state_dict().items()}
    flags = [value.requires_grad for value in profile.graph.parameters()]
    first, again = (profile.compile(REQUEST, tune=True, progress=False, cut="output") for _ in range(2))
    assert first.packed_head() == again.packed_head()
    assert all(torch.equal(before[name], value) for name, value in profile.graph.state_dict().items())
    assert [value.requires_grad for value in profile.graph.parameters()] == flags
    assert all(value.grad is None for split in (first, profile) for value in _graph(split).parameters())


def _graph(of: Any) -> nn.Module:
    module: nn.Module = of.graph if isinstance(of, qpart.Profile) else of.head
    return module


def test_a_request_is_planned_with_what_tuning_leaves_in_mind(profile: qpart.Profile) -> None:
    plain = profile.compile(REQUEST, cut="output")
    tuned = profile.compile(REQUEST, cut="output", tune=True, progress=False)
    assert tuned.plan is not None
    assert plain.plan is not None
    assert tuned.plan.measured_drop is not None
    assert tuned.plan.measured_drop <= REQUEST.max_accuracy_drop
    assert tuned.plan.download_bytes <= plain.plan.download_bytes
    assert tuned.plan.table_drop_upper_bound is None


def test_tokens_and_recurrent_layers_are_tuned() -> None:
    x = torch.randint(11, (640, 7), generator=torch.Generator().manual_seed(0))
    profile = qpart.profile(Tokens().eval(), [x], progress=False)
    plan = profile.plan(REQUEST, cut="output")
    other = torch.randint(11, (200, 7), generator=torch.Generator().manual_seed(1))
    plain, tuned = profile.compile(plan), profile.compile(plan, tune=True, progress=False)
    assert noise(tuned, Tokens().eval(), other) < noise(plain, Tokens().eval(), other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_are_kept(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4)).to(dtype).eval()
    profile = qpart.profile(model, [samples(200, 16).to(dtype)], progress=False)
    split = profile.compile(profile.plan(REQUEST, cut="output"), tune=True, progress=False)
    assert {value.dtype for value in split.head.parameters()} == {dtype}
    assert split.packed_head()


class RunsForwardOnly(nn.Module):
    """No gradient reaches its layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = (50 * self.second(torch.relu(self.first(x)))).round().int().float()
        return scores


def test_a_model_that_runs_forward_only_stays_as_it_was() -> None:
    profile = qpart.profile(RunsForwardOnly().eval(), [samples(80, 6)], progress=False)
    plan = profile.plan(qpart.Request.paper(0.2), cut="output")
    plain, tuned = profile.compile(plan), profile.compile(plan, tune=True, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(plain.head.parameters(), tuned.head.parameters(), strict=True))


def test_samples_may_be_given_and_a_profile_from_a_file_needs_them(profile: qpart.Profile, tmp_path: Any) -> None:
    profile.save(tmp_path / "a.profile")
    loaded = qpart.load(tmp_path / "a.profile")
    assert isinstance(loaded, qpart.Profile)
    plan = loaded.plan(REQUEST, cut="output")
    with pytest.raises(qpart.RequestError, match="tune=loader"):
        loaded.compile(plan, tune=True)
    split = loaded.compile(plan, tune=[samples(640, 3, 10, 10)], progress=False)
    model, x = convolutions(), samples(200, 3, 10, 10, seed=1)
    assert noise(split, model, x) <= noise(loaded.compile(plan), model, x)
    assert split.plan is not None
    assert split.plan.tuned


def test_the_paper_s_rounding_is_not_tuned() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    profile = qpart.profile(model, [samples(80, 6)], rounding="nearest", progress=False)
    with pytest.raises(qpart.RequestError, match="nearest"):
        profile.compile(REQUEST, tune=True)


def test_compile_tunes_a_model_in_one_go() -> None:
    split = qpart.compile(convolutions(), REQUEST, calibration=[samples(120, 3, 10, 10)], tune=True)
    assert split.plan is not None
    assert split.plan.tuned or not split.plan.weight_bits
