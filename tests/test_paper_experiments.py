"""The paper's experiments on made-up data: loaders, the baselines as they are built, and the order of prices."""

from __future__ import annotations

import gzip
from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import qpart_fx as qpart
from benchmarks.paper import __main__ as command
from benchmarks.paper.architectures import architecture
from benchmarks.paper.autoencoder import KINDS, coded, untrained
from benchmarks.paper.datasets import (
    Data,
    DataError,
    cifar10,
    cifar100,
    image_folders,
    mnist,
    normalised,
    svhn,
)
from benchmarks.paper.mnist import CALIBRATION, SELECTION, Parts
from benchmarks.paper.networks import summed_bytes
from benchmarks.paper.outcome import Outcome, float_split, outcome
from benchmarks.paper.pruning import RULES, head_parameters, importance, kept, outputs, pruned, without
from benchmarks.paper.six_layers import WIDTHS, SixLayers, halves

LAYERS = range(len(WIDTHS))


def digits(count: int, seed: int = 0) -> Data:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, 28, 28, generator=generator), torch.randint(10, (count,), generator=generator)


@pytest.fixture(scope="module")
def model() -> SixLayers:
    torch.manual_seed(0)
    return SixLayers().eval()


def answered(model: SixLayers, count: int = 256) -> Data:
    """Digits with the labels that ``model`` gives."""
    images, _ = digits(count)
    with torch.no_grad():
        return images, model(images).argmax(1)


def write_idx(path: Path, values: NDArray[np.uint8]) -> None:
    """A file of MNIST's format."""
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
    path.write_bytes(gzip.compress(header + values.tobytes(), 1))


class TestLoaders:
    def test_mnist(self, tmp_path: Path) -> None:
        images = np.arange(3 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(3, 28, 28)
        write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", np.array([7, 0, 9], np.uint8))
        found, labels = mnist(tmp_path, "test")
        assert found.shape == (3, 1, 28, 28)
        assert torch.equal((found[:, 0] * 255).round().to(torch.uint8), torch.from_numpy(images))
        assert labels.tolist() == [7, 0, 9]

    def test_mnist_missing_or_broken(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"lacks t10k-images-idx3-ubyte.gz, .*: put MNIST's four gzip files there"):
            mnist(tmp_path, "test")
        write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", np.zeros((2, 28, 28), np.uint8))
        write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", np.zeros(3, np.uint8))
        with pytest.raises(DataError, match="do not belong together"):
            mnist(tmp_path, "test")
        whole = (tmp_path / "t10k-images-idx3-ubyte.gz").read_bytes()
        for broken in (whole[:-9], b"", gzip.compress(b"\0\0\x08\x01\0\0\0\x05abc"), gzip.compress(b"text")):
            (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(broken)
            with pytest.raises(DataError, match="download it again"):
                mnist(tmp_path, "test")

    def test_svhn(self, tmp_path: Path) -> None:
        from scipy.io import savemat

        images = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 4), np.uint8)
        savemat(tmp_path / "test_32x32.mat", {"X": images, "y": np.array([[1], [10], [9], [2]], np.uint8)})
        found, labels = svhn(tmp_path, "test")
        assert found.shape == (4, 3, 32, 32)
        assert float(found[1, 2, 5, 6]) == pytest.approx(images[5, 6, 2, 1] / 255)
        assert labels.tolist() == [1, 0, 9, 2]
        (tmp_path / "test_32x32.mat").write_bytes(b"no matrix at all" * 20)
        with pytest.raises(DataError, match="download it again"):
            svhn(tmp_path, "test")
        with pytest.raises(DataError, match=r"lacks train_32x32.mat"):
            svhn(tmp_path, "train")

    def test_cifar(self, tmp_path: Path) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (2, 3072), np.uint8)
        rows = np.concatenate([np.array([[3], [8]], np.uint8), pixels], axis=1)
        (tmp_path / "test_batch.bin").write_bytes(rows.tobytes())
        found, labels = cifar10(tmp_path, "test")
        assert found.shape == (2, 3, 32, 32)
        assert float(found[1, 1, 0, 0]) == pytest.approx(pixels[1, 1024] / 255)
        assert labels.tolist() == [3, 8]
        fine = np.concatenate([np.array([[1, 99], [2, 42]], np.uint8), pixels], axis=1)
        (tmp_path / "test.bin").write_bytes(fine.tobytes())
        assert cifar100(tmp_path, "test")[1].tolist() == [99, 42]
        for number in range(1, 6):
            (tmp_path / f"data_batch_{number}.bin").write_bytes(rows[number % 2 :].tobytes())
        assert cifar10(tmp_path, "train")[1].tolist() == [8, 3, 8, 8, 3, 8, 8]

    def test_cifar_missing_pickled_or_broken(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"lacks train.bin: put the binary version of CIFAR-100 there"):
            cifar100(tmp_path, "train")
        (tmp_path / "train").write_bytes(b"a pickle")
        with pytest.raises(DataError, match=r"pickles.* never read here.* binary version \(train.bin\)"):
            cifar100(tmp_path, "train")
        (tmp_path / "train.bin").write_bytes(bytes(3073))
        with pytest.raises(DataError, match="whole records of 3074 bytes"):
            cifar100(tmp_path, "train")

    def test_image_folders(self, tmp_path: Path) -> None:
        from PIL import Image

        for name, colour in (("n02", (0, 255, 0)), ("n01", (255, 0, 0))):
            (tmp_path / name).mkdir()
            for number in range(2):
                Image.new("RGB", (40, 24), colour).save(tmp_path / name / f"{number}.png")
        images, labels = image_folders(tmp_path, size=16)
        assert images.shape == (4, 3, 16, 16)
        assert labels.tolist() == [0, 0, 1, 1]
        assert images[0, :, 3, 3].tolist() == [1, 0, 0]
        assert image_folders(tmp_path, size=16, limit=1)[1].tolist() == [0, 1]
        scaled, _ = normalised((images, labels), (0.5, 0.5, 0.5), (0.5, 0.25, 0.5))
        assert scaled[0, :, 0, 0].tolist() == [1, -2, -1]
        for name, label in (("n02", "917"), ("n01", "3")):
            (tmp_path / name).rename(tmp_path / label)
        assert image_folders(tmp_path, size=16)[1].tolist() == [3, 3, 917, 917]
        (tmp_path / "3" / "0.png").write_bytes(b"no photo")
        with pytest.raises(DataError, match=r"0.png is no photo"):
            image_folders(tmp_path)
        with pytest.raises(DataError, match="one folder for each class"):
            image_folders(tmp_path / "nothing")


@pytest.mark.skipif(find_spec("torchvision") is None, reason="needs the extra coverage")
class TestArchitectures:
    def test_by_name(self, tmp_path: Path) -> None:
        model = architecture("torchvision:resnet18", 10)
        again = architecture("torchvision:resnet18", 10)
        assert torch.equal(model.state_dict()["fc.weight"], again.state_dict()["fc.weight"])
        path = tmp_path / "weights.pt"
        torch.save({"fc.weight": torch.zeros(1)}, path)
        with pytest.raises(DataError, match="does not hold this network's weights"):
            architecture("torchvision:resnet18", 10, path)
        torch.save({key: value + 1 for key, value in model.state_dict().items()}, path)
        loaded = architecture("torchvision:resnet18", 10, path)
        assert torch.equal(loaded.state_dict()["fc.weight"], model.state_dict()["fc.weight"] + 1)
        with pytest.raises(DataError, match="torchvision has no network 'resnet19'"):
            architecture("torchvision:resnet19", 10)

    def test_code_in_files_is_not_run(self, tmp_path: Path) -> None:
        torch.save(nn.Linear(2, 2), tmp_path / "weights.pt")
        with pytest.raises(DataError, match="does not hold this network's weights"):
            architecture("torchvision:resnet18", 10, tmp_path / "weights.pt")

    def test_names_without_a_library(self) -> None:
        with pytest.raises(DataError, match="write torchvision:NAME or timm:NAME"):
            architecture("resnet18", 10)


@pytest.mark.parametrize("layers", LAYERS)
def test_halves_are_the_model(model: SixLayers, layers: int) -> None:
    head, tail = halves(model, layers)
    x, _ = digits(8)
    split = float_split(head, tail, x[:1])
    assert torch.equal(split(x), model(x))
    assert sum(isinstance(each, nn.Linear) for each in head) == layers


class TestPruning:
    @pytest.mark.parametrize("rule", RULES)
    def test_without_neurons_is_the_network_with_them_held_at_their_means(
        self, model: SixLayers, rule: tuple[str, str]
    ) -> None:
        x, _ = digits(64)
        activations = outputs(model, x)
        keep = kept(importance(model, activations, rule[0]), 3, 0.4, rule[1])
        smaller = without(model, keep, activations)
        masked = x.flatten(1)
        for place, layer in enumerate(model.linear[:-1]):
            values = torch.relu(layer(masked))
            masked = activations[place].mean(dim=0).expand_as(values).clone()
            masked[:, keep[place]] = values[:, keep[place]]
        torch.testing.assert_close(smaller(x), model.linear[-1](masked))
        assert [layer.out_features for layer in smaller.linear[3:]] == [64, 32, 10]
        assert sum(len(each) for each in keep[:3]) == pytest.approx(0.4 * (512 + 256 + 128), abs=3)

    def test_budget_is_kept(self, model: SixLayers) -> None:
        data = answered(model)
        assert pruned(model, 0, 0.1, data, data) is model
        smaller = pruned(model, 2, 0.1, data, data)
        assert head_parameters(smaller, 2) < head_parameters(model, 2)
        with torch.no_grad():
            assert (smaller(data[0]).argmax(1) == data[1]).double().mean() >= 0.9


class TestAutoEncoder:
    @pytest.mark.parametrize("kind", KINDS)
    def test_shapes_and_prices(self, model: SixLayers, kind: str) -> None:
        data = answered(model, 128)
        request = qpart.Request.paper()
        plain = outcome(float_split(*halves(model, 2), data[0][:1]), 2, request, data)
        split = float_split(*coded(model, 2, kind, 8, data, seed=0), data[0][:1])
        found = outcome(split, 2, request, data)
        (code,) = split.head(data[0])
        assert code.shape == (128, 256 // 8)
        assert split(data[0]).shape == (128, 10)
        assert found.upload_bytes < plain.upload_bytes
        multiply_adds = 256 * (256 // 8) if kind == "dense" else 256
        assert found.device_macs == plain.device_macs + multiply_adds
        assert found.server_macs == plain.server_macs + 256 * (256 // 8)
        assert found.download_bytes > plain.download_bytes  # its encoder has to come too

    def test_the_network_stays_as_it_is(self, model: SixLayers) -> None:
        before = [parameter.clone() for parameter in model.parameters()]
        coded(model, 3, "dense", 4, answered(model, 128), seed=0)
        assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))

    def test_an_encoder_of_shared_weights_is_small(self) -> None:
        sizes = [sum(each.numel() for each in untrained(512, kind, 4)[0].parameters()) for kind in KINDS]
        assert sizes == [513 * 128, 5]


def test_quantized_heads_are_cheapest_and_what_is_sent_grows_with_the_cut(model: SixLayers) -> None:
    data = answered(model)
    request = qpart.Request.paper(0.05)
    profile = qpart.profile(model, [data], rounding="nearest", progress=False)
    before: Outcome | None = None
    for layers in (1, 3, 6):
        plain = outcome(float_split(*halves(model, layers), data[0][:1]), layers, request, data)
        cut = profile.cuts[layers].cut.crossing
        split = profile.compile(profile.plan(request, cut=cut, method="paper"))
        found = outcome(split, layers, request, data)
        assert (found.device_macs, found.server_macs) == (plain.device_macs, plain.server_macs)
        assert found.payload_bytes < 0.6 * plain.payload_bytes
        assert found.objective < plain.objective
        assert found.prices.energy_j < plain.prices.energy_j
        assert before is None or found.prices.server_cost < before.prices.server_cost
        before = found
    assert plain.lost_to(plain) == (0, 0)


def test_the_papers_sum_has_parameters_activations_twice_and_the_input() -> None:
    net = nn.Sequential(OrderedDict(first=nn.Linear(4, 3), relu=nn.ReLU(), last=nn.Linear(3, 2))).eval()
    plain, planned = summed_bytes(net, torch.randn(1, 4), {"first": 5, "last": 7})
    assert plain == 4 * (4 + (15 + 6) + 6 + (8 + 4))
    assert planned == (5 * (4 + (15 + 6) + 6) + 7 * (8 + 4)) / 8


@pytest.mark.skipif(find_spec("torchvision") is None, reason="needs the extra coverage")
def test_the_papers_sum_of_resnet18_is_that_of_table_4() -> None:
    network = architecture("torchvision:resnet18", 1000)
    plain, _ = summed_bytes(network, torch.zeros(1, 3, 224, 224), {"conv1": 8})
    assert plain / 2**20 == pytest.approx(107.96, abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "MNIST's four gzip files"),
        (["nowhere"], "nowhere lacks train-images-idx3-ubyte.gz"),
        (["nowhere", "--only", "networks"], "nowhere lacks zoo.py"),
        (["--dataset", "cifar100"], "--data FOLDER"),
        (["--dataset", "cifar100", "--data", "nowhere"], "nowhere lacks test.bin"),
    ],
)
def test_what_is_missing_is_said(arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["paper", *arguments])
    with pytest.raises(SystemExit, match=said):
        command.main()


def test_parts_of_the_data_do_not_overlap(tmp_path: Path) -> None:
    names = {"train": CALIBRATION + SELECTION + 100, "t10k": 50}
    first = 0
    for stem, count in names.items():
        images = np.zeros((count, 28, 28), np.uint8)
        numbers = np.arange(first, first + count)
        images[:, 0, 0], images[:, 0, 1] = numbers // 256, numbers % 256
        first += count
        write_idx(tmp_path / f"{stem}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"{stem}-labels-idx1-ubyte.gz", np.zeros(count, np.uint8))
    parts = Parts.of(tmp_path)
    all_parts = [images for images, _ in (parts.training, parts.calibration, parts.selection, parts.test)]
    assert [len(images) for images in all_parts] == [100, CALIBRATION, SELECTION, 50]
    assert len(torch.cat(all_parts)[:, 0, 0, :2].unique(dim=0)) == sum(names.values())
