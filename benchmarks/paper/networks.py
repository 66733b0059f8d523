"""Table IV: real networks in float and planned, whole on the device as in the paper, and cut in the middle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import qpart_fx as qpart
from benchmarks.planning.subjects import batches, part, profiled, shuffled

from .architectures import architecture
from .datasets import Data, DataError, cifar10, cifar100, image_folders, normalised, svhn

DROP = 0.01
"""The accuracy drop that is allowed; the paper's networks lose 0.08 to 0.66 points."""

SAMPLES = 1024
"""To make and to prove plans with, at most; a third of the data at most."""

JUDGED = 1024
"""Samples of one source that judge the networks that are known here, at most."""

DATASETS = {
    "svhn": (svhn, 10),
    "cifar10": (cifar10, 10),
    "cifar100": (cifar100, 100),
    "folders": (lambda directory, _: image_folders(directory, limit=10), 1000),
}
"""How each is read, and how many classes it has. Of folders of photos, some of each class."""


@dataclass(frozen=True)
class Network:
    """A trained network, its profile, and samples that had no part in it, by what they are."""

    name: str
    model: nn.Module
    profile: qpart.Profile
    held: Mapping[str, Data]


@dataclass(frozen=True)
class Cut:
    """A network planned for a cut. ``lost`` and its standard ``error`` (of pairs) on each source of held samples, with
    the float network's ``accuracy`` and how many there are.

    ``summed_bytes``, in float and with the plan's widths: of parameters, activations and input, as the paper adds them
    up; None unless the whole network is on the device.
    """

    name: str
    float_bytes: int
    head_bytes: int
    message_bytes: int
    evidence: Mapping[str, Evidence]
    summed_bytes: tuple[float, float] | None


@dataclass(frozen=True)
class Evidence:
    """What a split loses on samples. ``error``: one standard error, of pairs, as both networks answer the same ones."""

    accuracy: float
    lost: float
    error: float
    samples: int


def known(directory: Path) -> list[Network]:
    """ResNet-20 on CIFAR-10, and MobileNetV1 on photos of ImageNet."""
    if not (directory / "zoo.py").is_file():
        raise DataError(
            f"{directory} lacks zoo.py: put there the folder that `python -m benchmarks.planning --help` describes, or "
            "name data and a network of your own with --dataset, --data and --network"
        )
    found = []
    for name, title in (("resnet20", "ResNet-20, CIFAR-10"), ("mobilenet_v1", "MobileNetV1 0.75, ImageNet")):
        made = profiled(directory, name)
        held = {source: part(data, slice(0, JUDGED)) for source, data in made.subject.held.items()}
        found.append(Network(title, made.subject.model, made.profile, held))
    return found


def own(dataset: str, data: Path, network: str, weights: Path | None) -> Network:
    """A network of torchvision or timm on a data set. Without ``weights`` it is random, and its answers are right."""
    read, classes = DATASETS[dataset]
    images, labels = shuffled(normalised(read(data, "test")))
    model = architecture(network, classes, weights)
    if weights is None:
        with torch.no_grad():
            labels = torch.cat([model(x).argmax(1) for x in images.split(64)])
    count = min(SAMPLES, len(labels) // 3)
    calibration = part((images, labels), slice(0, count))
    profile = qpart.profile(model, batches(calibration), progress=False)
    held = part((images, labels), slice(count, None))
    return Network(f"{network}, {dataset}", model, profile, {"others of the same data": held})


def cuts(network: Network) -> list[Cut]:
    """The whole network on the device, and about half of its multiply-adds."""
    profile = network.profile
    middle = min(profile.closed_cuts, key=lambda cut: abs(cut.device_macs - cut.server_macs))
    return [
        _cut(network, "whole network", "output"),
        _cut(network, f"middle, after {', '.join(middle.crossing)}", middle.crossing),
    ]


def _cut(network: Network, name: str, crossing: str | tuple[str, ...]) -> Cut:
    profile, request = network.profile, qpart.Request.paper(DROP)
    split = profile.compile(request, cut=crossing, progress=False)
    example = next(iter(network.held.values()))[0][:1]
    with torch.no_grad():
        message = split.pack_activation(split.head(example))
    assert split.plan is not None
    whole = crossing == "output"
    return Cut(
        name=name,
        float_bytes=len(qpart.split(profile.graph, (example,), cut=crossing).packed_head()),
        head_bytes=len(split.packed_head()),
        message_bytes=len(message),
        evidence={source: _evidence(network, split, data) for source, data in network.held.items()},
        summed_bytes=summed_bytes(network.model, example, split.plan.weight_bits) if whole else None,
    )


def _evidence(network: Network, split: qpart.SplitModel, data: Data) -> Evidence:
    found = split.verify(batches(data))
    assert found.lost is not None
    assert found.gained is not None
    second_moment = (found.lost + found.gained) / found.samples
    error = ((second_moment - found.drop**2) / found.samples) ** 0.5
    return Evidence(found.reference, found.drop, error, found.samples)


def summed_bytes(model: nn.Module, example: Tensor, widths: Mapping[str, int]) -> tuple[float, float]:
    """Parameters, activations twice (as if for a backward pass) and input, as torchsummary adds them up, in float and
    with every value at the width of the weighted layer before it, the input at the first one's.

    As there, outputs of blocks count beside those of the layers that make them, but for plain sequences.
    """
    bits = next(iter(widths.values()))
    found = [(example.numel(), bits)]

    def count(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, _: object, output: Tensor) -> None:
            nonlocal bits
            bits = widths.get(name.replace(".", "_"), bits)
            found.append((sum(each.numel() for each in module.parameters(recurse=False)) + 2 * output.numel(), bits))

        return hook

    hooks = [
        module.register_forward_hook(count(name))
        for name, module in model.named_modules()
        if name and not isinstance(module, nn.Sequential | nn.ModuleList)
    ]
    with torch.no_grad():
        model(example)
    for each in hooks:
        each.remove()
    return sum(4.0 * size for size, _ in found), sum(size * width / 8 for size, width in found)
