"""What comes of a method at a cut: what is computed where, what crosses the link, and what is answered."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpart_fx as qpart
from qpart_fx.meta import info
from qpart_fx.prices import Prices, price

from .datasets import Data


@dataclass(frozen=True)
class Outcome:
    """One inference. ``download_bytes``: of the head's file; ``upload_bytes``: of the message that crosses. ``right``:
    of each test sample, whether it is answered rightly."""

    request: qpart.Request
    layers: int
    device_macs: int
    server_macs: int
    download_bytes: int
    upload_bytes: int
    right: Tensor

    @property
    def accuracy(self) -> float:
        return float(self.right.double().mean())

    @property
    def payload_bytes(self) -> int:
        return self.download_bytes + self.upload_bytes

    @property
    def objective(self) -> float:
        return self.prices.objective(self.request)

    @cached_property
    def prices(self) -> Prices[float]:
        return price(
            self.request,
            device_macs=float(self.device_macs),
            server_macs=float(self.server_macs),
            download_bits=8.0 * self.download_bytes,
            upload_bits=8.0 * self.upload_bytes,
        )

    def lost_to(self, other: Outcome) -> tuple[float, float]:
        """The accuracy that is lost to ``other``, and its standard error: of pairs, as both answer the same samples."""
        lost = other.right.double() - self.right.double()
        return float(lost.mean()), float(lost.std() / len(lost) ** 0.5)


def outcome(split: qpart.SplitModel, layers: int, request: qpart.Request, test: Data) -> Outcome:
    """That of a split after so many ``layers`` of the network, measured on its files and on ``test``."""
    example = test[0][:1]
    with torch.no_grad():
        message = split.pack_activation(split.head(example))
    return Outcome(
        request=request,
        layers=layers,
        device_macs=_macs(split.head),
        server_macs=_macs(split.tail),
        download_bytes=len(split.packed_head()),
        upload_bytes=len(message),
        right=right(split, test),
    )


def _macs(half: GraphModule) -> int:
    return sum(info(node).macs or 0 for node in half.graph.nodes)


def float_split(head: nn.Sequential, tail: nn.Sequential, example: Tensor) -> qpart.SplitModel:
    """Both as they are, in float. ``example``: one sample, whose MACs are counted."""
    model = nn.Sequential(OrderedDict(head=head, tail=tail)).eval()
    return qpart.split(model, (example,), cut=f"head_{len(head) - 1}" if len(head) else "input")


def right(model: nn.Module, data: Data) -> Tensor:
    """Whether ``model`` finds the label of each sample."""
    with torch.no_grad():
        return torch.cat([model(x).argmax(1) == y for x, y in zip(data[0].split(512), data[1].split(512), strict=True)])


def accuracy(model: nn.Module, data: Data) -> float:
    return float(right(model, data).double().mean())
