"""The auto-encoder of the paper's comparison (after DeepCOD): what crosses the cut is encoded on the device and decoded
on the server.

Encoder and decoder are trained at each cut, the network around them stays as it is. Two kinds of encoder:

- ``"dense"``: one layer from all that crosses to its code, the plain auto-encoder;
- ``"strided"``: one value from each few neighbours, by the same weights everywhere, as DeepCOD's convolutions are: it
  costs a device next to nothing, the decoder has to make up for it.

The code crosses in float: to round what crosses is what QPART adds. The head, the encoder's weights included, is float.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .datasets import Data
from .outcome import accuracy
from .six_layers import SixLayers, halves

KINDS = ("dense", "strided")

RATIOS = (16, 8, 4, 2)
"""How many values become one of the code; the largest that a cut's budget allows is taken."""

BUDGET = 0.01
"""The accuracy that DeepCOD's own choice may lose."""

_SAMPLES, _EPOCHS = 20_000, 3
_RATES = {"dense": 1e-3, "strided": 4e-3}


def auto_encoder(
    model: SixLayers, layers: int, kind: str, training: Data, selection: Data, *, seed: int
) -> tuple[nn.Sequential, nn.Sequential]:
    """Head with encoder and decoder with tail: the smallest code that loses no more than ``BUDGET`` on ``selection``;
    or, where all lose more, that which loses least.

    Both price and size of a cut fall with its code, whatever the request.
    """
    before = accuracy(model, selection)
    best, least = None, math.inf
    for ratio in RATIOS:
        if _width(model, layers) % ratio:
            continue
        head, tail = coded(model, layers, kind, ratio, training, seed=seed)
        lost = before - accuracy(nn.Sequential(head, tail), selection)
        if lost < least:
            best, least = (head, tail), lost
        if lost <= BUDGET:
            break
    assert best is not None
    return best


def coded(
    model: SixLayers, layers: int, kind: str, ratio: int, training: Data, *, seed: int
) -> tuple[nn.Sequential, nn.Sequential]:
    """Head with encoder and decoder with tail, trained for a code of a ``ratio``-th of what crosses."""
    head, tail = halves(model, layers)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        with torch.no_grad():
            crossing = torch.cat([head(x).flatten(1) for x in training[0][:_SAMPLES].split(1024)])
            scores = torch.cat([tail(x) for x in crossing.split(1024)])
        encoder, decoder = untrained(crossing.shape[1], kind, ratio)
        if kind == "dense":
            _start_at_principal_components(encoder[1], decoder[0], crossing)
        _train(encoder, decoder, tail, crossing, scores, _RATES[kind])
    return nn.Sequential(*head, *encoder), nn.Sequential(*decoder, *tail)


def untrained(width: int, kind: str, ratio: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder and decoder for ``width`` values."""
    encoder = (
        nn.Sequential(nn.Flatten(), nn.Linear(width, width // ratio))
        if kind == "dense"
        else nn.Sequential(nn.Flatten(), nn.Unflatten(1, (-1, ratio)), nn.Linear(ratio, 1), nn.Flatten())
    )
    return encoder, nn.Sequential(nn.Linear(width // ratio, width))


def _start_at_principal_components(encode: nn.Module, decode: nn.Module, crossing: Tensor) -> None:
    """The best that two layers do for the squared error, from where they learn what matters for the answers."""
    assert isinstance(encode, nn.Linear)
    assert isinstance(decode, nn.Linear)
    mean = crossing.mean(dim=0)
    directions = torch.linalg.eigh(torch.cov(crossing.T)).eigenvectors[:, -encode.out_features :]
    with torch.no_grad():
        encode.weight.copy_(directions.T)
        encode.bias.copy_(-directions.T @ mean)
        decode.weight.copy_(directions)
        decode.bias.copy_(mean)


def _width(model: SixLayers, layers: int) -> int:
    """How many values cross after so many layers."""
    widths = [layer.in_features for layer in model.linear] + [model.linear[-1].out_features]
    return widths[layers]


def _train(
    encoder: nn.Module, decoder: nn.Module, tail: nn.Module, crossing: Tensor, scores: Tensor, rate: float
) -> None:
    """Fit what crosses, and the answers that the tail makes of it: no labels are needed."""
    variance = crossing.var()
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], rate)
    steps = _EPOCHS * math.ceil(len(crossing) / 128)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(_EPOCHS):
        for batch in torch.randperm(len(crossing)).split(128):
            decoded = decoder(encoder(crossing[batch]))
            answers = F.kl_div(
                F.log_softmax(tail(decoded), 1), F.log_softmax(scores[batch], 1), reduction="batchmean", log_target=True
            )
            loss = answers + F.mse_loss(decoded, crossing[batch]) / variance
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            falling.step()
