"""Compiling, from the model to the split: what comes out, and what the user is told when something is wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qpart_fx as qpart
from qpart_fx.passes.capture import capture, capture_report
from qpart_fx.quantized import weight_quantizers
from qpart_fx.quantizer import FakeQuantize, UniformQuantizer
from tests.networks import Residual, Tokens, TwoInputs, classifier, images

REQUEST = qpart.Request.paper(0.05)


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A classifier that has learnt which of four blocks of the image is brightest."""
    model = classifier().train()
    x = images(2000, seed=1)
    y = labels(x)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(8):
            for batch in torch.randperm(len(x)).split(100):
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model.eval()


def labels(x: Tensor) -> Tensor:
    return nn.functional.avg_pool2d(x.mean(1, keepdim=True), 4).flatten(1).argmax(1)


@pytest.fixture(scope="module")
def profile(trained: nn.Module) -> qpart.Profile:
    x = images(600, seed=2)
    return qpart.profile(trained, [(part, labels(part)) for part in x.split(50)], progress=False)


@pytest.mark.parametrize("budget", [0.005, 0.01, 0.05])
def test_every_cut_keeps_its_budget_on_data_not_seen_before(
    profile: qpart.Profile, trained: nn.Module, budget: float
) -> None:
    x = images(4000, seed=3)
    for place in profile.cuts:
        split = profile.compile(qpart.Request.paper(budget), cut=place.cut.crossing)
        assert split.plan is not None
        assert split.plan.measured_drop is not None
        assert split.plan.measured_drop <= budget
        # 4,000 samples: one standard error of a drop of a percent is 0.0016
        assert split.verify([(x, labels(x))], reference=trained).drop <= budget + 0.005


def test_head_is_what_the_plan_says(profile: qpart.Profile, trained: nn.Module) -> None:
    split = profile.compile(REQUEST, cut="output")
    plan = split.plan
    assert plan is not None
    assert list(plan.weight_bits) == ["_0", "_3", "_6"]
    originals = dict(trained.named_parameters())
    for name, quantizer in weight_quantizers(split.head).items():
        assert quantizer.bits == plan.weight_bits[f"_{name.split('.')[0]}"]
        assert torch.equal(
            split.head.get_parameter(name), UniformQuantizer.of_tensor(originals[name], quantizer.bits)(originals[name])
        )
        assert split.head.get_parameter(name).unique().numel() <= 2**quantizer.bits
    assert torch.equal(split.head.get_parameter("0.bias"), originals["0.bias"])  # biases stay as they are
    (rounded,) = [module for module in split.head.modules() if isinstance(module, FakeQuantize)]
    assert {plan.cut[0]: rounded.bits} == plan.activation_bits


def test_tail_is_in_float(profile: qpart.Profile, trained: nn.Module) -> None:
    split = profile.compile(REQUEST, cut="_2")
    for name, parameter in split.tail.named_parameters():
        assert torch.equal(parameter, trained.get_parameter(name))


def test_split_is_head_then_wire_then_tail(profile: qpart.Profile) -> None:
    split = profile.compile(REQUEST, cut="_2")
    x = images(5)
    payload = split.head(x)
    received = split.unpack_activation(split.pack_activation(payload))
    assert all(torch.equal(sent, got) for sent, got in zip(payload, received, strict=True))
    assert torch.equal(split.tail(*received), split(x))


def test_same_inputs_give_the_same_plan_and_the_same_bytes(trained: nn.Module) -> None:
    def once() -> tuple[str, bytes]:
        split = qpart.compile(trained, replace(REQUEST, device_holds_head=True), calibration=[images(64)])
        assert split.plan is not None
        return split.plan.to_json(), split.packed_head()

    assert once() == once()


def test_calibration_may_stand_in_the_request(trained: nn.Module) -> None:
    given = qpart.compile(trained, REQUEST, calibration=[images(40)])
    inside = qpart.compile(trained, replace(REQUEST, calibration=[images(40)]))
    assert given.plan == inside.plan


def test_a_data_loader_works(trained: nn.Module) -> None:
    x = images(60)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, labels(x)), batch_size=25)
    split = qpart.compile(trained, REQUEST, calibration=loader)
    assert split.plan is not None
    assert (split.plan.samples, split.plan.labelled) == (30, True)


def test_two_inputs_by_name_and_unlabelled() -> None:
    batch = {"left": torch.randn(16, 4), "right": torch.randn(16, 3)}
    split = qpart.compile(TwoInputs(), qpart.Request.paper(0.5), calibration=[batch])
    assert split.plan is not None
    assert split.plan.labelled is False
    assert split(**batch)["logits"].shape == (16, 4)


def test_integer_inputs_cross_as_they_are() -> None:
    tokens = torch.randint(11, (32, 7), generator=torch.Generator().manual_seed(0))
    profile = qpart.profile(Tokens(), [tokens], progress=False)
    split = profile.compile(qpart.Request.paper(0.5), cut="input")
    assert split.plan is not None
    assert split.plan.activation_bits == {}
    assert split.plan.upload_bytes == 7 * 8
    assert split.plan.measured_drop == 0.0


def test_a_metric_stands_for_accuracy() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 1))
    x = torch.randn(300, 6)
    with torch.no_grad():
        y = model(x)

    def explained(output: Tensor, target: Tensor) -> float:
        return float(1 - (output - target).square().mean() / target.var())

    profile = qpart.profile(model, [(x, y)], metric=explained, progress=False)
    for budget in (0.01, 0.05):
        split = profile.compile(qpart.Request.paper(budget), cut="output")
        assert split.plan is not None
        assert split.plan.measured_drop is not None
        assert 0 <= split.plan.measured_drop <= budget
    with pytest.raises(qpart.CalibrationError, match="pass metric="):
        qpart.profile(model, [(x, y)], progress=False)


def test_uncounted_operations_are_listed() -> None:
    class Spectrum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.fc(torch.fft.rfft(x).abs())
            return scores

    profile = qpart.profile(Spectrum(), [torch.randn(20, 8)], progress=False)
    assert profile.uncounted == {"fft_rfft": "torch.fft.rfft"}


def test_saved_and_loaded_split_is_the_same(profile: qpart.Profile, tmp_path: Path) -> None:
    split = profile.compile(REQUEST, cut="_5")
    split.save(tmp_path / "split.qpart")
    again = qpart.load(tmp_path / "split.qpart")
    assert isinstance(again, qpart.SplitModel)
    assert again.plan == split.plan
    x = images(7)
    assert torch.equal(again(x), split(x))
    assert torch.equal(again.head(x)[0], split.head(x)[0])
    assert again.packed_head() == split.packed_head()
    with pytest.raises(qpart.RequestError, match="pass it as reference="):
        again.verify([x])


class Branching(nn.Module):
    """Captured by torch.export only: its control flow reads a value that symbolic tracing does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.raw = classifier(), nn.Parameter(torch.randn(4, 4))

    def forward(self, images: Tensor, *, scale: Tensor | None = None) -> dict[str, Tensor]:
        scores = self.net(images) @ self.raw.t()
        if isinstance(scores, Tensor) and len(list(scores.split(1, dim=1))) == 4:
            scores = scores + 1
        return {"scores": scores if scale is None else scores * scale}


def test_a_model_that_only_torch_export_captures_compiles_and_saves(tmp_path: Path) -> None:
    model, x = Branching(), images(60)
    split = qpart.compile(model, qpart.Request.paper(0.5, device_holds_head=True), calibration=[{"images": x}])
    assert capture_report(model_graph := capture(model, (), {"images": x[:2]})).way.startswith("torch.export")
    assert torch.equal(model_graph(images=x)["scores"], model(x)["scores"])
    split.save(tmp_path / "split.qpart")
    again = qpart.load(tmp_path / "split.qpart")
    assert isinstance(again, qpart.SplitModel)
    for size in (1, 7, 60):  # other batch sizes than the captured one
        assert torch.equal(again(images=x[:size])["scores"], split(images=x[:size])["scores"])


class Encoder(nn.Module):
    """A stack of Transformer layers: each is a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu", layer_norm_eps=1e-6)
        self.embed, self.encoder, self.fc = nn.Linear(5, 16), nn.TransformerEncoder(layer, 3), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.fc(self.encoder(self.embed(x)).mean(1))
        return scores


def test_transformer_layers_have_widths_of_their_own_and_can_be_saved(tmp_path: Path) -> None:
    x = torch.randn(40, 7, 5)
    profile = qpart.profile(Encoder(), [x], progress=False)
    assert [layer.operation for layer in profile.layers] == ["Linear", *["TransformerEncoderLayer"] * 3, "Linear"]
    split = profile.compile(qpart.Request.paper(0.5), cut=profile.cuts[2].cut.crossing)
    split.save(tmp_path / "split.qpart")
    again = qpart.load(tmp_path / "split.qpart")
    assert isinstance(again, qpart.SplitModel)
    with torch.no_grad():
        assert torch.equal(again(x), split(x))


def test_parametrized_weights_are_baked(tmp_path: Path) -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 4)).eval()
    x = torch.randn(30, 6)
    assert torch.equal(qpart.split(model, x)(x), model(x))
    split = qpart.compile(model, qpart.Request.paper(0.5), calibration=[x])
    split.save(tmp_path / "split.qpart")
    assert nn.utils.parametrize.is_parametrized(model[0])


def test_saved_and_loaded_profile_gives_the_same_plans_and_heads(profile: qpart.Profile, tmp_path: Path) -> None:
    profile.save(tmp_path / "profile.qpart")
    again = qpart.load(tmp_path / "profile.qpart")
    assert isinstance(again, qpart.Profile)
    assert again == profile
    for request in (REQUEST, replace(REQUEST, device_holds_head=True)):
        assert again.plan(request) == profile.plan(request)
        assert again.compile(request).packed_head() == profile.compile(request).packed_head()


def test_export_writes_files(profile: qpart.Profile, tmp_path: Path) -> None:
    split = profile.compile(REQUEST, cut="_2")
    paths = split.export("eager", tmp_path / "out")
    assert sorted(path.name for path in paths) == [
        "head.py.txt",
        "head.qpart",
        "plan.json",
        "tail.py.txt",
        "tail.qpart",
    ]
    assert (tmp_path / "out" / "head.qpart").read_bytes() == split.packed_head()
    with pytest.raises(qpart.RequestError, match="no backend 'onyx': choose one of eager"):
        split.export("onyx", tmp_path)


def test_a_plan_for_one_cut_is_never_better_than_the_plan(profile: qpart.Profile) -> None:
    best = profile.plan(REQUEST)
    plans = [profile.plan(REQUEST, cut=place.cut.crossing) for place in profile.cuts]
    assert min(plan.objective for plan in plans) == best.objective
    assert profile.plan_many([REQUEST, REQUEST]) == [best, best]


# Bad input


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
        ([torch.randn(4, 5, 8, 8)], r"in '0', .*does not accept float32\[1, 5, 8, 8\]"),
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
    with pytest.raises(qpart.RequestError, match="method 'guess' is unknown: choose one of paper"):
        profile.plan(REQUEST, method="guess")
    with pytest.raises(qpart.RequestError, match="_9 is none of the profiled cuts: input_1; _2"):
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
