"""The networks that tools count and split, with an input for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.branching import NETWORKS
from benchmarks.planning.subjects import subject


@dataclass(frozen=True)
class Example:
    """``inputs``: one sample."""

    name: str
    model: nn.Module
    inputs: Tensor


def examples(directory: Path | None) -> Iterator[Example]:
    """Small networks of random weights, and those of ``directory``."""
    torch.manual_seed(0)
    for name in ("residual", "inception", "u-net", "encoder"):
        make, inputs = NETWORKS[name]
        yield Example(f"small {name}", make(), inputs(1))
    layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
    yield Example("nn.TransformerEncoder", nn.TransformerEncoder(layer, 2).eval(), torch.randn(1, 16, 64))
    for name in ("resnet20", "mobilenet_v1") if directory is not None else ():
        assert directory is not None
        known = subject(directory, name)
        yield Example(name, known.model, known.pool[0][:1])
