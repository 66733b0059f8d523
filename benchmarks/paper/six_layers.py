"""The paper's network for MNIST: six fully connected layers, which can be cut after each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain, pairwise

import torch
from torch import Tensor, nn

from .datasets import Data

WIDTHS = (784, 512, 256, 128, 64, 32, 10)
"""The paper names six layers and not their widths; these are ours."""


class SixLayers(nn.Module):
    """Input (samples, 1, 28, 28) in [0, 1], output (samples, 10) class scores. ``widths``: of the input, and of what
    comes out of each layer."""

    def __init__(self, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in pairwise(widths))

    @property
    def linear(self) -> list[nn.Linear]:
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        scores: Tensor = self.layers[-1](x)
        return scores


def halves(model: SixLayers, layers: int) -> tuple[nn.Sequential, nn.Sequential]:
    """The first ``layers`` and the others, with the model's own weights."""
    steps: list[list[nn.Module]] = [[layer, nn.ReLU()] for layer in model.layers]
    steps[0].insert(0, nn.Flatten())
    steps[-1].pop()
    head, tail = (nn.Sequential(*chain.from_iterable(part)) for part in (steps[:layers], steps[layers:]))
    return head, tail


def train(data: Data, *, seed: int = 0, epochs: int = 3) -> SixLayers:
    """A trained network; the same seed gives the same network."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return fit(SixLayers(), data, epochs=epochs)


def fit(model: SixLayers, data: Data, *, epochs: int) -> SixLayers:
    """Train ``model`` itself, in an order of samples that torch's own generator gives."""
    images, labels = data
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * math.ceil(len(images) / 128))
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(128):
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            falling.step()
    return model.eval()
