"""The networks of the grid: trained, profiled, and with samples to choose on and others to judge by."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import qpart_fx as qpart
from benchmarks.heads.subjects import Subject, subjects
from benchmarks.paper.datasets import Data
from benchmarks.planning.subjects import batches, part
from benchmarks.planning.subjects import subject as real_subject
from qpart_fx.demo import load_digits
from qpart_fx.head_size import head_bits
from qpart_fx.held_out import curve_held_out
from qpart_fx.meta import info

from .cells import BUDGETS

Floats = NDArray[np.float64]

FLOAT_BITS = 32
REAL = ("six layers", "resnet20", "mobilenet_v1")
SMALL = ("GoogLeNet-like", "U-Net-like", "transformer")
NAMES = (*SMALL, *REAL)

_TRIED = 128
"""Samples, at most, that policies try things on which they have no prediction for."""


@dataclass(frozen=True)
class Drop:
    """An accuracy lost, and the standard error of it."""

    mean: float
    error: float


@dataclass(frozen=True)
class Network:
    """``known``: what every policy may choose by. ``judged``: what no policy sees. ``right``: of outputs and targets,
    the share of each sample's answers that is right, shape (samples,)."""

    name: str
    profile: qpart.Profile
    known: Data
    judged: Data
    right: Callable[[Tensor, Tensor], Tensor]

    @cached_property
    def device_macs(self) -> Floats:
        """At each cut of the chain, shape (cuts,); so are the next ones."""
        return self._of_chain("device_macs")

    @cached_property
    def server_macs(self) -> Floats:
        return self._of_chain("server_macs")

    @cached_property
    def elements(self) -> Floats:
        return self._of_chain("elements")

    @cached_property
    def exact_bits(self) -> Floats:
        return self._of_chain("exact_bits")

    @cached_property
    def peak_bytes(self) -> Floats:
        return self._of_chain("peak_bytes")

    @cached_property
    def layers(self) -> NDArray[np.int64]:
        """How many layers are on the device, p of the paper."""
        return np.array([place.layers for place in self.profile.cuts])

    @cached_property
    def float_bits(self) -> Floats:
        """Of the head, its weights in float."""
        return FLOAT_BITS * self.of_heads(self.weights) + self.bits_beside

    def of_heads(self, of_layers: Floats) -> Floats:
        """What is known of each layer, summed over those on the device at each cut of the chain."""
        return np.concatenate([[0.0], np.cumsum(of_layers)])[self.layers]

    @cached_property
    def bits_beside(self) -> Floats:
        """Of what a head's file holds beside its layers' weights, and every policy's has to: graph, biases, norms."""
        return np.array(head_bits(self.profile.graph, [place.cut for place in self.profile.cuts]))

    @cached_property
    def weights(self) -> Floats:
        """How many each layer has, without biases; shape (layers,)."""
        graph = self.profile.graph
        owned = {node.name: info(node).weights for node in graph.graph.nodes}
        counts = [sum(graph.get_parameter(name).numel() for name in owned[layer.name]) for layer in self.profile.layers]
        return np.array(counts, dtype=np.float64)

    def parameters_of(self, nodes: tuple[str, ...]) -> float:
        """Norms and biases too."""
        return float(sum(self._parameters[name] for name in nodes))

    @cached_property
    def tried(self) -> Data:
        """A quarter of those known, spread over all: trying takes a run of the network for each cut."""
        count = len(self.known[0])
        return part(self.known, torch.arange(0, count, max(4, math.ceil(count / _TRIED))))

    def drop(self, output: Tensor, data: Data) -> Drop:
        """What is lost where the network gives ``output`` for ``data``: of ``known``, ``tried`` or ``judged``."""
        before = self.right(self.float_output(data), data[1])
        lost = (before - self.right(output, data[1])).double()
        return Drop(float(lost.mean()), float(lost.std() / len(lost) ** 0.5))

    def float_output(self, data: Data) -> Tensor:
        """The network's own for one of these parts; run once."""
        key = id(data[0])
        if key not in self._outputs:
            self._outputs[key] = run(self.profile.graph, data[0])
        return self._outputs[key]

    def budget_of_noise(self, noise: Floats) -> Floats:
        """The least of the budgets within which so much noise is predicted to be, inf if none is."""
        within = np.array([self.profile.noise_curve.noise_at(budget) for budget in BUDGETS])
        return np.array([*BUDGETS, np.inf])[np.searchsorted(within * (1 + 1e-9), noise)]

    @cached_property
    def _outputs(self) -> dict[int, Tensor]:
        return {}

    @cached_property
    def _parameters(self) -> dict[str, int]:
        return {node.name: info(node).parameters for node in self.profile.graph.graph.nodes}

    def _of_chain(self, field: str) -> Floats:
        return np.array([getattr(place.cut, field) for place in self.profile.cuts], dtype=np.float64)


def run(model: Callable[[Tensor], Any], inputs: Tensor) -> Tensor:
    """The output for all of ``inputs``, some at a time."""
    with torch.no_grad():
        return torch.cat([model(chunk) for chunk in inputs.split(32)])


def network(name: str, directory: Path | None) -> Network:
    """One of ``NAMES``.

    Raises:
        SystemExit: it needs the directory of the real networks and data.
    """
    if name in REAL:
        if directory is None:
            raise SystemExit(f"{name} needs the directory that holds zoo.py and the data")
        real = real_subject(directory, "mnist" if name == "six layers" else name)
        return _profiled(name, real.model, real.calibration_data, next(reversed(real.held.values())))
    if name == "GoogLeNet-like":
        return _profiled(name, *_googlenet())
    made: Subject = subjects(None, ["u_net" if name == "U-Net-like" else "transformer"])[0]
    return _profiled(name, made.model, made.calibration, made.judged, metric=made.metric)


def budget_of_drop(drop: float) -> float:
    """The least of the budgets that so much is within, inf if none is."""
    return next((budget for budget in BUDGETS if drop <= budget), np.inf)


def right_classes(output: Tensor, targets: Tensor) -> Tensor:
    """The share of right answers of each sample; of pictures, of its pixels."""
    return (
        (output.argmax(1) == targets).float().flatten(1 if targets.dim() > 1 else 0).reshape(len(targets), -1).mean(1)
    )


def _profiled(name: str, model: nn.Module, known: Data, judged: Data, metric: Any = None) -> Network:
    others = {} if metric is None else {"metric": metric}
    profile = qpart.profile(model, batches(known), levels=BUDGETS, progress=False, **others)
    # as a server has it, which plans without samples: what is predicted is set right by what was held out
    profile = replace(profile, noise_curve=curve_held_out(profile))
    return Network(name, profile, known, judged, right_classes)


def _googlenet() -> tuple[nn.Module, Data, Data]:
    digits = load_digits(seed=0)

    def pictures(data: Data) -> Data:
        return nn.functional.interpolate(data[0], size=(32, 32), mode="bilinear"), data[1]

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GoogLeNetLike()
        _fit(model, pictures(digits.train))
    return model.eval(), pictures(digits.calibration), pictures(digits.test)


def _fit(model: nn.Module, data: Data, epochs: int = 8) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(data[0])).split(64):
            loss = nn.functional.cross_entropy(model(data[0][batch]), data[1][batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


class GoogLeNetLike(nn.Module):
    """GoogLeNet in small: a stem that halves the picture twice, then three modules of four branches with pools between.

    Input (samples, 1, 32, 32), output (samples, 10) class scores.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_convolution(1, 16, 7, 2), nn.MaxPool2d(3, 2, 1), _convolution(16, 32, 3))
        self.body = nn.Sequential(
            _Inception(32, 64), nn.MaxPool2d(3, 2, 1), _Inception(64, 128), nn.MaxPool2d(3, 2, 1), _Inception(128, 192),
        )  # fmt: skip
        self.out = nn.Linear(192, 10)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.out(self.body(self.stem(x)).mean((2, 3)))
        return scores


class _Inception(nn.Module):
    """Branches of a quarter, a half, an eighth and an eighth of the channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        eighth = outputs // 8
        self.direct = _convolution(inputs, 2 * eighth, 1)
        self.small = nn.Sequential(_convolution(inputs, 2 * eighth, 1), _convolution(2 * eighth, 4 * eighth, 3))
        self.large = nn.Sequential(_convolution(inputs, eighth, 1), _convolution(eighth, eighth, 5))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), _convolution(inputs, eighth, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.direct(x), self.small(x), self.large(x), self.pooled(x)], dim=1)


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )
