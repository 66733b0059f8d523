"""Small networks split in two, with what they are called with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import qpart_fx as qpart
from tests.networks import Encoder, Recurrent, Residual, Tokens, TwoInputs, UNet, classifier, images

LINK = qpart.Link(uplink_bps=1e6, downlink_bps=1e6)
SERVER = qpart.Server(clock_hz=3e9, cycles_per_mac=1.25)


class FarFromZero(nn.Module):
    """What crosses lies between 1000 and 1001: no code stands for zero."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.out(torch.sigmoid(self.first(x)) + 1000 - 1000.0)
        return scores


class Clashing(nn.Module):
    """An input that is called as a weight is."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.out = nn.Parameter(torch.randn(4, 4)), nn.Linear(4, 3)

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        scores: Tensor = self.out(torch.relu(x @ self.weight * weight))
        return scores


@dataclass(frozen=True)
class Case:
    """A split and inputs of its head, of 40 samples."""

    split: qpart.SplitModel
    inputs: tuple[Tensor, ...]

    def arrays(self, samples: slice = slice(None)) -> list[NDArray[Any]]:
        return [value[samples].numpy() for value in self.inputs]

    def packed(self) -> bytes:
        return packed(self.split)


@cache
def packed(split: qpart.SplitModel) -> bytes:
    return split.packed_head(runtime="onnx")


def network(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    tokens, rows = torch.randint(11, (40, 7)), torch.randn(40, 6, 5)
    made: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {
        "classifier": (classifier(), (images(40),)),
        "residual": (Residual(), (images(40),)),
        "unet": (UNet(), (images(40),)),
        "recurrent": (Recurrent(), (tokens,)),
        "tied tokens": (Tokens(), (tokens,)),
        "encoder": (Encoder(), (rows,)),
        "two inputs": (TwoInputs(), (torch.randn(40, 4), torch.randn(40, 3))),
        "clashing": (Clashing(), (torch.randn(40, 4), torch.randn(40, 4))),
        "far from zero": (FarFromZero(), (torch.randn(40, 5),)),
    }
    return made[name][0].eval(), made[name][1]


@cache
def profile(name: str) -> qpart.Profile:
    model, inputs = network(name)
    return qpart.profile(model, [inputs[0]], progress=False)


@cache
def plain(name: str, cut: str | tuple[str, ...]) -> Case:
    """Nothing is rounded."""
    model, inputs = network(name)
    return Case(qpart.split(model, inputs, cut=cut), inputs)


@cache
def rounded(name: str, cut: str | tuple[str, ...], bits: int, weight_bits: Sequence[int] = (4, 6, 8, 12)) -> Case:
    """What crosses is rounded to ``bits``, weights of the head to some bits."""
    device = qpart.Device(clock_hz=1e9, cycles_per_mac=1, weight_bits=tuple(weight_bits), activation_bits=(bits,))
    request = qpart.Request(0.9, device, SERVER, LINK)
    made = profile(name)
    return Case(made.compile(made.plan(request, cut=cut)), network(name)[1])
