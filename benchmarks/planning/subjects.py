"""The networks that are measured on, their data in parts that do not overlap, and their profiles."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import process_time
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import qpart_fx as qpart
from benchmarks.branching import CAMERAS, NETWORKS
from benchmarks.paper.datasets import Data, mnist
from benchmarks.paper.six_layers import train
from qpart_fx import profiling
from qpart_fx.calibration import alternate, read_batches

BRANCHING = {
    "GoogLeNet-like": NETWORKS["inception"],
    "DenseNet-like": NETWORKS["dense"],
    "U-Net-like": NETWORKS["u-net"],
    "four cameras": CAMERAS,
}
"""Small networks whose graphs are no chains, and inputs for them."""

LADDER = (0.001, 0.003, 0.005, 0.01, 0.02, 0.03, 0.05)
"""The accuracy drops that plans are made for."""

TIMED = ("noise_tables", "measure_drop")
"""The passes of ``profile`` that run the network again and again."""

SERVER = qpart.Server(clock_hz=3e9, cycles_per_mac=1.25, price_per_s=1.0)
"""The paper's."""


@dataclass(frozen=True)
class Subject:
    """A trained network. ``pool``: samples that may be drawn from at random, none of them in ``others``.

    ``calibration``: how many of the pool, from its first on, profiles are made with; the next ``judged`` of it, and
    ``others``, judge the plans. Where the network was trained on the pool, its margins there are wider than elsewhere.
    """

    name: str
    model: nn.Module
    pool: Data
    calibration: int
    judged: int
    others: Mapping[str, Data]

    @property
    def calibration_data(self) -> Data:
        return part(self.pool, slice(0, self.calibration))

    @property
    def crossed(self) -> Data:
        """Samples of one source for profiles and for what judges them, in turn: such as the network was not trained on,
        where there are any. At most as many as a profile is made with by default, and a third of them to judge."""
        source = next(iter(self.others.values()), self.pool)
        return part(source, slice(0, 1360))

    @property
    def held(self) -> dict[str, Data]:
        """Samples that served neither to fit nor to prove a plan, by what they are."""
        return {"same source": part(self.pool, slice(self.calibration, self.calibration + self.judged)), **self.others}


@dataclass(frozen=True)
class Profiled:
    """A profile, and the seconds of processor time that its passes and ``"forward"`` took.

    The latter is one plain run of the network over the samples that the passes were given, in the same pieces.
    """

    subject: Subject
    profile: qpart.Profile
    seconds: Mapping[str, float]


@cache
def subject(directory: Path, name: str) -> Subject:
    """The network ``name``: ``"resnet20"``, ``"mobilenet_v1"`` or ``"mnist"``."""
    if name == "mnist":
        images, labels = mnist(directory / "mnist", "train")
        model = train((images[:-6144], labels[:-6144]))
        pool = shuffled((images[-6144:], labels[-6144:]))
        return Subject(name, model, pool, 1024, 5120, {"test digits": mnist(directory / "mnist", "test")})
    zoo = _module(directory / "zoo.py")
    if name == "resnet20":
        pool = shuffled(zoo.cifar10("train"))
        return Subject(name, zoo.model(name), pool, 1024, 3072, {"test images": zoo.cifar10("test")})
    return Subject(name, zoo.model(name), shuffled(zoo.photos()), 256, 244, {})


@cache
def profiled(directory: Path, name: str) -> Profiled:
    """The profile of a network, made once for all topics."""
    chosen = subject(directory, name)
    data = batches(chosen.calibration_data)
    fit, _ = alternate(read_batches(data, max_samples=1024))

    def forward() -> float:
        start = process_time()
        with torch.no_grad():
            for batch in fit:
                chosen.model(*batch.args)
        return process_time() - start

    forward()
    runs = [forward() for _ in range(2)]
    with stopwatch(profiling, *TIMED) as seconds:
        start = process_time()
        profile = qpart.profile(chosen.model, data, levels=LADDER, progress=False)
        seconds["profile"] = process_time() - start
    runs += [forward() for _ in range(2)]
    return Profiled(chosen, profile, {**seconds, "forward": sum(runs) / len(runs)})


@cache
def branching_profile(name: str) -> qpart.Profile:
    """That of one of ``BRANCHING``, untrained, on random inputs; what it answers itself is right."""
    make, inputs = BRANCHING[name]
    torch.manual_seed(0)
    model, x = make(), inputs(256)
    with torch.no_grad():
        answers = torch.cat([model(chunk) for chunk in x.split(32)])
    if answers.dim() == 2:
        return qpart.profile(model, batches((x, answers.argmax(1))), progress=False)
    return qpart.profile(model, batches((x, answers)), metric=_explained, progress=False)


def _explained(outputs: Tensor, targets: Tensor) -> float:
    """The part of the variance of pictures that other pictures explain."""
    return 1 - float((outputs - targets).square().mean() / targets.var())


@contextmanager
def stopwatch(owner: Any, *names: str) -> Iterator[dict[str, float]]:
    """The processor time that the functions ``names`` of ``owner`` take while this lasts."""
    spent = dict.fromkeys(names, 0.0)

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = process_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent[name] += process_time() - start

        return run

    with ExitStack() as stack:
        for name in names:
            stack.enter_context(mock.patch.object(owner, name, timed(name, getattr(owner, name))))
        yield spent


def request(drop: float, speed: float, rate: float, inferences: int, **others: Any) -> qpart.Request:
    """A device of ``speed`` MACs a second, at 1 nJ a cycle of 1 GHz, and ``rate`` bits a second both ways at 1 W."""
    others = {"server": SERVER, **others}
    return qpart.Request(
        max_accuracy_drop=drop,
        device=qpart.Device(clock_hz=1e9, cycles_per_mac=1e9 / speed, **others.pop("device", {})),
        link=qpart.Link(uplink_bps=rate, downlink_bps=rate, receive_power_w=1.0),
        inferences_per_download=inferences,
        **others,
    )


def part(data: Data, which: slice | Tensor) -> Data:
    return data[0][which], data[1][which]


def shuffled(data: Data, seed: int = 0) -> Data:
    return part(data, torch.randperm(len(data[1]), generator=torch.Generator().manual_seed(seed)))


def batches(data: Data, size: int = 64) -> list[Data]:
    return list(zip(data[0].split(size), data[1].split(size), strict=True))


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
