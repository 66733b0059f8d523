"""The six-layer network on MNIST under four methods, at every cut: the data of Figs. 3 and 5 to 10 and of Table III."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

import qpart_fx as qpart

from .autoencoder import auto_encoder
from .datasets import Data, mnist
from .outcome import Outcome, accuracy, float_split, outcome
from .pruning import pruned, pruned_and_trained
from .six_layers import WIDTHS, SixLayers, halves, train

CALIBRATION, SELECTION = 2048, 5120
"""Digits of the 60,000 that do not train: the first make QPART's plans and prove them, the others choose the baselines'
settings."""

NONE, AUTO_ENCODER, PRUNING = "no optimisation", "auto-encoder", "model pruning"
PAPER, OURS = "QPART, the paper's", "QPART, ours"
METHODS = (NONE, AUTO_ENCODER, PRUNING, PAPER, OURS)

STRIDED, AT_THE_PAPERS_DROP, TRAINED = "strided auto-encoder", "pruning, 1.16 points", "pruning, trained"
VARIANTS = (STRIDED, AT_THE_PAPERS_DROP, TRAINED)
"""What the baselines could be instead."""

PAPERS_PRUNING_DROP = 0.0116
"""What pruning loses in the paper's Table III."""

DROPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
"""The thresholds of Fig. 6."""

Row = dict[str, Outcome]
"""By method."""


@dataclass(frozen=True)
class Parts:
    """MNIST in four parts, of which none shares a digit with another."""

    training: Data
    calibration: Data
    selection: Data
    test: Data

    @classmethod
    def of(cls, directory: Path) -> Parts:
        images, labels = mnist(directory, "train")
        sizes = [len(labels) - CALIBRATION - SELECTION, CALIBRATION, SELECTION]
        training, calibration, selection = zip(images.split(sizes), labels.split(sizes), strict=True)
        return cls(training, calibration, selection, mnist(directory, "test"))


@dataclass(frozen=True)
class Threshold:
    """The whole network at one accuracy drop that is allowed: bytes of its file, and what it loses on test digits."""

    allowed: float
    bytes: int
    lost: float
    error: float


@dataclass(frozen=True)
class Experiment:
    """The network and all that is asked of it. ``budget``: the accuracy drop that QPART and pruning may take."""

    parts: Parts
    budget: float
    seed: int
    epochs: int = 8

    @cached_property
    def model(self) -> SixLayers:
        return train(self.parts.training, seed=self.seed, epochs=self.epochs)

    @cached_property
    def request(self) -> qpart.Request:
        return qpart.Request.paper(self.budget)

    def rows(self) -> list[Row]:
        """All methods at each cut; the variants with them."""
        methods: dict[str, Callable[[int], qpart.SplitModel]] = {
            NONE: lambda layers: self._float(*halves(self.model, layers)),
            AUTO_ENCODER: lambda layers: self._auto_encoder(layers, "dense"),
            PRUNING: lambda layers: self._pruned(layers, self.budget),
            PAPER: lambda layers: self.quantized(PAPER, layers, self.budget),
            OURS: lambda layers: self.quantized(OURS, layers, self.budget),
            STRIDED: lambda layers: self._auto_encoder(layers, "strided"),
            AT_THE_PAPERS_DROP: lambda layers: self._pruned(layers, PAPERS_PRUNING_DROP),
            TRAINED: lambda layers: self._float(*halves(self._trained, layers)),
        }
        return [
            {name: outcome(make(layers), layers, self.request, self.parts.test) for name, make in methods.items()}
            for layers in range(len(WIDTHS))
        ]

    def thresholds(self, method: str) -> list[Threshold]:
        """The whole network at each of ``DROPS``."""
        whole = len(self.model.layers)
        before = outcome(self._float(*halves(self.model, whole)), whole, self.request, self.parts.test)
        found = []
        for drop in DROPS:
            after = outcome(self.quantized(method, whole, drop), whole, self.request, self.parts.test)
            found.append(Threshold(drop, after.download_bytes, *after.lost_to(before)))
        return found

    def quantized(self, method: str, layers: int, drop: float) -> qpart.SplitModel:
        """By the paper's plan as it is, or by ours, which is made stricter where held-out samples ask for it."""
        profile = self._paper if method == PAPER else self._ours
        request, cut = qpart.Request.paper(drop), profile.cuts[layers].cut.crossing
        if method == PAPER:
            return profile.compile(profile.plan(request, cut=cut, method="paper"))
        return profile.compile(request, cut=cut)

    @property
    def accuracy(self) -> float:
        """The float network's, on test digits."""
        return accuracy(self.model, self.parts.test)

    @cached_property
    def _paper(self) -> qpart.Profile:
        return self._profile("nearest")

    @cached_property
    def _ours(self) -> qpart.Profile:
        return self._profile("compensated")

    def _profile(self, rounding: str) -> qpart.Profile:
        images, labels = self.parts.calibration
        batches = list(zip(images.split(128), labels.split(128), strict=True))
        levels = sorted({self.budget, *DROPS})
        return qpart.profile(
            self.model, batches, rounding=rounding, levels=levels, max_samples=CALIBRATION, seed=self.seed,
            progress=False,
        )  # fmt: skip

    @cached_property
    def _trained(self) -> SixLayers:
        return pruned_and_trained(self.model, self.budget, self.parts.training, self.parts.selection, seed=self.seed)

    def _pruned(self, layers: int, budget: float) -> qpart.SplitModel:
        smaller = pruned(self.model, layers, budget, self.parts.training, self.parts.selection)
        return self._float(*halves(smaller, layers))

    def _auto_encoder(self, layers: int, kind: str) -> qpart.SplitModel:
        parts = self.parts
        return self._float(*auto_encoder(self.model, layers, kind, parts.training, parts.selection, seed=self.seed))

    def _float(self, head: nn.Sequential, tail: nn.Sequential) -> qpart.SplitModel:
        return float_split(head, tail, torch.zeros(1, 1, 28, 28))
