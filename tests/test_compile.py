"""Compiling, from the model to the split: what comes out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import qpart_fx as qpart
from qpart_fx.backends.packed import pack_head
from qpart_fx.passes.capture import capture, capture_report
from qpart_fx.quantized import weight_quantizers
from qpart_fx.quantizer import FakeQuantize, UniformQuantizer
from tests.networks import Tokens, TwoInputs, classifier, images

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
        weight = split.head.get_parameter(name)
        assert torch.equal(quantizer(weight), weight)
        codes = quantizer.encode(weight)
        assert codes.max() - codes.min() < 2**quantizer.bits
        assert (weight - originals[name]).norm() < originals[name].norm()
    assert torch.equal(split.head.get_parameter("0.bias"), originals["0.bias"].half().float())
    (rounded,) = [module for module in split.head.modules() if isinstance(module, FakeQuantize)]
    assert {plan.cut[0]: rounded.bits} == plan.activation_bits


def test_head_of_the_paper_s_rounding_is_the_paper_s(trained: nn.Module) -> None:
    profile = qpart.profile(
        trained, [(part, labels(part)) for part in images(600, seed=2).split(50)], rounding="nearest", progress=False
    )
    split = profile.compile(REQUEST, cut="output")
    originals = dict(trained.named_parameters())
    for name, quantizer in weight_quantizers(split.head).items():
        expected = UniformQuantizer.of_tensor(originals[name], quantizer.bits)
        assert quantizer == expected
        assert torch.equal(split.head.get_parameter(name), expected(originals[name]))
    assert torch.equal(split.head.get_parameter("0.bias"), originals["0.bias"])  # biases stay as they are


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
        scores = self.net(images).reshape(images.shape[0], 4) @ self.raw.t()
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
    profile = replace(profile, check=())  # or what the file predicts would be set right by them
    profile.save(tmp_path / "profile.qpart")
    again = qpart.load(tmp_path / "profile.qpart")
    assert isinstance(again, qpart.Profile)
    assert again == profile
    for request in (REQUEST, replace(REQUEST, device_holds_head=True)):
        assert again.plan(request) == profile.plan(request)
        split = again.compile(request)
        assert split.plan is not None
        assert split.plan.measured_drop is None  # a profile from a file has no samples, and proves nothing
        assert pack_head(split.head) == pack_head(profile.compile(request).head)


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
    with pytest.raises(qpart.RequestError, match=r"no backend 'onyx': choose one of eager, .*onnx"):
        split.export("onyx", tmp_path)


def test_a_plan_for_one_cut_is_never_better_than_the_plan(profile: qpart.Profile) -> None:
    best = profile.plan(REQUEST)
    plans = [profile.plan(REQUEST, cut=place.cut.crossing) for place in profile.cuts]
    assert min(plan.objective for plan in plans) == best.objective
    assert profile.plan_many([REQUEST, REQUEST]) == [best, best]
