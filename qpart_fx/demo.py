"""The demo: a small network trained on handwritten digits, compiled for three devices that need three different
answers.

Everything it shows is measured in the run: accuracies on test digits that served neither for training nor for planning,
bytes of the files that a device would really download and send.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .compiler import profile
from .container import make_directory
from .errors import MissingDependencyError
from .plan_table import percent, si
from .request import Device, Link, Request, Server
from .split_model import SplitModel


class ResidualBlock(nn.Module):
    """Two convolutions around a short cut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm1(self.conv1(x)))
        return self.relu(self.norm2(self.conv2(y)) + self.shortcut(x))  # type: ignore[no-any-return]


class DigitsNet(nn.Module):
    """A residual network for 8 x 8 grey images: input (samples, 1, 8, 8), output (samples, 10) class scores."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.block1 = ResidualBlock(16, 16, 1)
        self.block2 = ResidualBlock(16, 32, 2)
        self.block3 = ResidualBlock(32, 64, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        x = self.block3(self.block2(self.block1(x)))
        return self.classifier(torch.flatten(self.pool(x), 1))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Digits:
    """Images and labels of three parts that do not overlap: to train on, to plan with, to judge by."""

    train: tuple[Tensor, Tensor]
    calibration: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def load_digits(seed: int) -> Digits:
    """scikit-learn's 1,797 bundled digits: 897 to train on, 400 to plan with, 500 to judge by.

    Raises:
        MissingDependencyError: scikit-learn is not installed (the extra ``demo``).
    """
    try:
        from sklearn.datasets import load_digits as bundled
    except ModuleNotFoundError as error:
        raise MissingDependencyError("the demo", extra="demo") from error
    data = bundled()
    order = torch.randperm(len(data.images), generator=torch.Generator().manual_seed(seed))
    images = torch.tensor(data.images, dtype=torch.float32)[order, None] / 16
    labels = torch.tensor(data.target, dtype=torch.int64)[order]
    parts = [slice(0, 897), slice(897, 1297), slice(1297, None)]
    return Digits(*((images[part], labels[part]) for part in parts))


def train(data: tuple[Tensor, Tensor], *, seed: int, epochs: int = 20) -> DigitsNet:
    """A trained network; the same seed gives the same network."""
    images, labels = data
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a network is slower on several, and far slower on a busy machine
    try:
        return _train(images, labels, seed, epochs)
    finally:
        torch.set_num_threads(threads)


def _train(images: Tensor, labels: Tensor, seed: int, epochs: int) -> DigitsNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = DigitsNet()
        steps = epochs * (len(images) // 64 + 1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
        for _ in tqdm(range(epochs), desc="training", unit="epoch", leave=False, disable=None):
            for batch in torch.randperm(len(images)).split(64):
                loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return model.eval()


def requests() -> Iterator[tuple[str, str, Request]]:
    """A file name, a description and a request for each device."""
    server = Server(clock_hz=3e9, cycles_per_mac=1.25, price_per_s=1.0)
    yield (
        "weak_device_fast_link",
        "a weak device on a fast link: computing is dear, sending is cheap",
        Request(
            max_accuracy_drop=0.01,
            device=Device(clock_hz=50e6, cycles_per_mac=8, kappa=1e-27),
            server=server,
            link=Link(uplink_bps=100e6, downlink_bps=100e6, transmit_power_w=0.5),
            inferences_per_download=100,
        ),
    )
    yield (
        "strong_device_slow_link",
        "a strong device on a slow link, which holds its head already: sending is dear, computing is cheap",
        Request(
            max_accuracy_drop=0.02,
            device=Device(clock_hz=1.5e9, cycles_per_mac=0.5, kappa=1e-29),
            server=server,
            link=Link(uplink_bps=250e3, downlink_bps=1e6, transmit_power_w=1.0),
            device_holds_head=True,
        ),
    )
    yield (
        "strict_accuracy",
        "a small device that may lose one answer in a thousand, has 32 kB of memory, and pays a dear server",
        Request(
            max_accuracy_drop=0.001,
            device=Device(clock_hz=400e6, cycles_per_mac=1, kappa=1e-28, memory_bytes=32_000),
            server=Server(clock_hz=3e9, cycles_per_mac=1.25, price_per_s=200.0),
            link=Link(uplink_bps=1e6, downlink_bps=5e6, round_trip_s=0.005, transmit_power_w=0.8),
            inferences_per_download=10_000,
        ),
    )


def run(directory: Path, *, seed: int = 0, plots: bool = True) -> None:
    """Train, profile once, compile for every request, print what was measured, and leave the files in ``directory``."""
    make_directory(directory)
    data = load_digits(seed)
    start = time.perf_counter()
    model = train(data.train, seed=seed)
    print(
        f"Trained a residual network on {len(data.train[0])} handwritten digits in {time.perf_counter() - start:.1f} s."
    )
    start = time.perf_counter()
    known = profile(model, [data.calibration])
    known.save(directory / "profile.qpart")
    print(f"Profiled it once with {len(data.calibration[0])} others in {time.perf_counter() - start:.1f} s.")
    for name, words, request in requests():
        print(f"\n{'=' * 100}\n{words[0].upper()}{words[1:]}\n")
        start = time.perf_counter()
        split = known.compile(request)
        seconds = time.perf_counter() - start
        print(split.plan)
        _report(split, data.test, seconds)
        _leave(split, directory / name, plots)
    print(f"\nThe plans, split models and plots are in {directory}/")


def _report(split: SplitModel, test: tuple[Tensor, Tensor], seconds: float) -> None:
    evidence = split.verify([test])
    images = test[0]
    with torch.no_grad():
        payload = split.head(images[:1])
    assert split.plan is not None
    in_float = 4 * sum(layer.parameters for layer in split.plan.layers)
    print(
        f"\nmeasured in this run (compiled in {seconds:.2f} s)\n"
        f"  accuracy of the model   {percent(evidence.reference)} of {evidence.samples} test digits\n"
        f"  accuracy of the split   {percent(evidence.accuracy)}, a drop of {percent(evidence.drop)}\n"
        f"  head's file             {si(len(split.packed_head()), 'B')}; all weights in float are {si(in_float, 'B')}\n"
        f"  activation's message    {si(len(split.pack_activation(payload)), 'B')}; the image in float is "
        f"{si(4 * images[0].numel(), 'B')}"
    )


def _leave(split: SplitModel, directory: Path, plots: bool) -> None:
    make_directory(directory)
    split.save(directory / "split.qpart")
    split.export("eager", directory)
    assert split.plan is not None
    if plots:
        split.plan.plot(directory / "plan.png")
