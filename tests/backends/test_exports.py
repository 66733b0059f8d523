"""What runtimes make of the files of every backend: what the halves make, for other batch sizes too."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

import qpart_fx as qpart
from qpart_fx import SplitModel
from qpart_fx.backends import get_backend
from qpart_fx.passes.count_parameters import CountParameters
from qpart_fx.passes.quantize_payload import QuantizePayload
from qpart_fx.passes.quantize_weights import QuantizeWeights
from qpart_fx.quantized import crossing_nodes, payload_quantizers, weight_quantizers
from qpart_fx.quantizer import UniformQuantizer
from qpart_fx.rounding import NEAREST, CompensatedRounding, Curvature, Rounding
from tests.backends.test_packed import Attention, Convolutions, Recurrent, Tied
from tests.networks import Residual, TwoInputs, classifier


class Together(nn.Module):
    """Two inputs, the second of which crosses too, and a dictionary as output."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.out = nn.Linear(4, 6), nn.Linear(3, 6), nn.Linear(9, 4)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        joined = torch.relu(self.left(left)) + torch.tanh(self.right(right))
        return {"logits": self.out(torch.cat([joined, right], dim=1)), "hidden": joined}


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1, stride=2)
        self.up, self.out = nn.ConvTranspose2d(8, 4, 2, stride=2), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = torch.relu(self.down(x))
        deep = self.up(torch.relu(self.middle(skip)))
        made: Tensor = self.out(torch.cat([skip, deep], dim=1))
        return made


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], tuple[Tensor, ...]]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(40, 32), nn.Tanh(), nn.Linear(32, 3)), lambda n: (torch.randn(n, 40),)),
    "convolutions": (Convolutions, lambda n: (torch.randn(n, 3, 8, 8),)),
    "classifier": (classifier, lambda n: (torch.randn(n, 3, 8, 8),)),
    "residual": (Residual, lambda n: (torch.randn(n, 3, 8, 8),)),
    "tied": (Tied, lambda n: (torch.randint(11, (n, 7)),)),
    "lstm": (lambda: Recurrent(nn.LSTM), lambda n: (torch.randn(n, 6, 5),)),
    "attention": (Attention, lambda n: (torch.randn(n, 6, 8),)),
    "transformer": (
        lambda: nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 3)),
        lambda n: (torch.randn(n, 6, 8),),
    ),
    "unet": (UNet, lambda n: (torch.randn(n, 3, 8, 8),)),
    "together": (Together, lambda n: (torch.randn(n, 4), torch.randn(n, 3))),
}


CUTS = {"tied": "out"}
"""The middle of its MACs is its input, or its output."""

FAST_PATHS = ("attention", "transformer")
"""Networks that PyTorch runs by kernels which torch.export does not take: equal, but not to the last bit."""


def compensated(head: GraphModule) -> Rounding:
    """The rounding of a network whose output answers to all weights alike."""
    weights = {name: weight for name, weight in head.named_parameters() if weight.dim() > 1}
    alike = {name: Curvature(torch.ones(len(w)), (torch.eye(w[0].numel())[None],)) for name, w in weights.items()}
    return CompensatedRounding.of(weights, alike)


def halves(name: str, bits: int | None = None, rounding: str = "nearest") -> SplitModel:
    """A network cut in its middle, its head at ``bits`` and so what crosses."""
    torch.manual_seed(0)
    build, inputs = NETWORKS[name]
    model = build().eval()
    for parameter in model.parameters():  # biases of norms and convolutions are not zero
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, 0.2, 1.0)
    split = qpart.split(model, inputs(2), cut=CUTS.get(name))
    if bits is not None:
        head = split.head
        CountParameters().run(head)
        chosen = compensated(head) if rounding == "compensated" else NEAREST
        QuantizeWeights({node.name: float(bits) for node in head.graph.nodes}, chosen).run(head)
        with torch.no_grad():
            payload = head(*inputs(16))
        ranges = {
            node.name: UniformQuantizer.of_tensor(value, bits)
            for node, value in zip(crossing_nodes(head), payload, strict=True)
            if value.is_floating_point()
        }
        QuantizePayload(ranges).run(head)
    return split


Half = Callable[..., list[np.ndarray[Any, Any]]]


def run_torch_export(path: Path) -> Half:
    module = torch.export.load(path).module()

    def run(*inputs: Tensor) -> list[np.ndarray[Any, Any]]:
        with torch.no_grad():
            return [value.numpy() for value in pytree.tree_leaves(module(*inputs))]

    return run


def run_onnx(path: Path) -> Half:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(path, options)
    names = [each.name for each in session.get_inputs()]
    return lambda *inputs: session.run(None, dict(zip(names, (value.numpy() for value in inputs), strict=True)))


def run_openvino(path: Path) -> Half:
    import openvino

    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(*inputs: Tensor) -> list[np.ndarray[Any, Any]]:
        results = model([value.numpy() for value in inputs])
        return [results[place] for place in range(len(results))]

    return run


def run_executorch(path: Path) -> Half:
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(path.read_bytes())
    return lambda *inputs: [
        value.numpy().copy()
        for value in program.load_method("forward").execute([value.contiguous() for value in inputs])
    ]


BACKENDS: Mapping[str, tuple[str, Callable[[Path], Half]]] = {
    "torch_export": ("pt2", run_torch_export),
    "onnx": ("onnx", run_onnx),
    "openvino": ("xml", run_openvino),
    "executorch": ("pte", run_executorch),
}
MOST = {"executorch": 4}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name in ("openvino", "executorch"):
        pytest.importorskip(name)
    return name


def require_equal(split: SplitModel, backend: str, network: str, directory: Path) -> None:
    """Both halves, one after the other and each by itself, at several batch sizes."""
    ending, load = BACKENDS[backend]
    exact = backend == "torch_export" and network not in FAST_PATHS
    written = split.export(backend, directory)
    assert {path.name for path in written} == {path.name for path in directory.iterdir()}
    head, tail = load(directory / f"head.{ending}"), load(directory / f"tail.{ending}")
    for samples in (2, 1, MOST.get(backend, 5)):
        torch.manual_seed(samples)
        inputs = NETWORKS[network][1](samples)
        with torch.no_grad():
            payload = split.head(*inputs)
            expected = pytree.tree_leaves(split.tail(*payload))
        for value, made, quantizer in zip(payload, head(*inputs), payload_quantizers(split.head), strict=True):
            require_close(made, value, quantizer, exact=exact)
        for value, made in zip(expected, tail(*payload), strict=True):
            require_close(made, value, None, exact=exact)


def require_close(
    made: np.ndarray[Any, Any], expected: Tensor, quantizer: UniformQuantizer | None, *, exact: bool
) -> None:
    """Within 1e-5 of the largest; what is rounded may be a step away, rarely, where it lay between two."""
    assert made.shape == tuple(expected.shape)
    off = np.abs(made - expected.numpy())
    if exact:
        assert not off.any()
        return
    within = off <= 1e-5 * float(expected.abs().max())
    if quantizer is not None:
        assert (off <= quantizer.step * 1.001).all()
        codes = made / np.float32(quantizer.step)
        assert np.abs(codes - np.round(codes)).max() <= 1e-3 * 2 ** max(0, quantizer.bits - 12)
        assert within.mean() >= 0.98 - 2**quantizer.bits / 2**18
    else:
        assert within.all()


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_halves_in_float_are_equal(backend: str, network: str, tmp_path: Path) -> None:
    require_equal(halves(network), backend, network, tmp_path / "out")


@pytest.mark.parametrize("rounding", ["nearest", "compensated"])
@pytest.mark.parametrize("network", NETWORKS)
def test_quantized_halves_are_equal(backend: str, network: str, rounding: str, tmp_path: Path) -> None:
    bits = 8 if rounding == "nearest" else 4
    split = halves(network, bits, rounding)
    assert weight_quantizers(split.head)
    require_equal(split, backend, network, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("bits", [2, 3, 5, 6, 9, 12, 16])
@pytest.mark.parametrize("rounding", ["nearest", "compensated"])
def test_at_every_width(backend: str, rounding: str, bits: int, tmp_path: Path) -> None:
    require_equal(halves("mlp", bits, rounding), backend, "mlp", tmp_path / "out")


# Files are smaller


@pytest.mark.parametrize(("bits", "share"), [(8, 0.25), (4, 0.125)])
def test_integers_take_less_room_than_floats(backend: str, bits: int, share: float, tmp_path: Path) -> None:
    if bits not in (*get_backend(backend).carries.weight_bits,) or (backend == "torch_export" and bits < 8):
        pytest.skip(f"{backend} has no integers of {bits} bits")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 64))
    split = qpart.split(model, (torch.zeros(2, 256),), cut="output")

    def size(directory: Path) -> int:
        return sum(path.stat().st_size for path in split.export(backend, directory) if "head" in path.name)

    floats = 4 * (256 * 512 + 512 * 64)
    assert size(tmp_path / "float") > floats
    CountParameters().run(split.head)
    resolutions = {node.name: float(bits) for node in split.head.graph.nodes}
    QuantizeWeights(resolutions, compensated(split.head)).run(split.head)
    assert size(tmp_path / "integers") < share * floats + 40_000


# What cannot be exported


class Special(nn.Module):
    """Calls what few runtimes know, between layers."""

    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.call = nn.Linear(4, 4), nn.Linear(4, 4), call

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        special = self.call(y)
        made: Tensor = self.second(torch.relu(special))
        return made


@pytest.mark.parametrize(("call", "name"), [(torch.special.bessel_j0, "special_bessel_j0")])
@pytest.mark.parametrize("target", ["onnx", "openvino", "executorch"])
def test_the_node_that_cannot_be_held_is_named(
    target: str, call: Callable[[Tensor], Tensor], name: str, tmp_path: Path
) -> None:
    if target != "onnx":
        pytest.importorskip(target)
    split = qpart.split(Special(call), (torch.rand(2, 4),), cut="second")
    with pytest.raises(qpart.ModelError, match=rf"node '{name}' .*calls .*, which .* cannot hold") as caught:
        split.export(target, tmp_path / "out")
    assert f"{Path(__file__).name}:" in str(caught.value)
    assert not (tmp_path / "out").exists()


class Deciding(nn.Module):
    """Decides by what is in a tensor, as detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.choose(torch.relu(self.body(x)))

    def choose(self, x: Tensor) -> Tensor:
        made: Tensor = self.out(x) if bool(x.sum() > 0) else self.out(-x)
        return made


@pytest.mark.parametrize("target", ["torch_export", "onnx", "openvino", "executorch"])
def test_code_of_the_model_s_own_is_named(target: str, tmp_path: Path) -> None:
    if target in ("openvino", "executorch"):
        pytest.importorskip(target)
    split = qpart.split(Deciding(), (torch.rand(2, 4),), cut="relu")
    with pytest.raises(qpart.ModelError, match=r"node '.*choose' .* calls Deciding.choose, the model's own code"):
        split.export(target, tmp_path / "out")


def test_an_input_that_is_no_tensor_is_named(tmp_path: Path) -> None:
    inputs = torch.rand(2, 4), torch.rand(2, 3), 1.0
    split = qpart.split(TwoInputs(), inputs)
    with pytest.raises(qpart.RequestError, match="passes tensors, and 'scale' is of type float"):
        split.export("torch_export", tmp_path / "out", example_inputs=inputs)
    assert split.export("onnx", tmp_path / "out", example_inputs=inputs)  # a number becomes a constant of it


@pytest.mark.parametrize("target", ["openvino", "executorch"])
def test_a_missing_package_is_named_with_its_extra(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == target]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, target, None)
    with pytest.raises(qpart.MissingDependencyError, match=rf'pip install "qpart-fx\[{target}\]"'):
        halves("mlp").export(target, tmp_path)
