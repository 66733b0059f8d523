"""The model pruning of the paper's comparison (after 2-step pruning): neurons of the head are really taken out.

What is sent is a smaller head in float and a smaller activation. A neuron that goes leaves its mean in the biases of
the layer behind it, which costs nothing. No training follows, as the paper claims that its own method needs none;
:func:`pruned_and_trained` is the variant with training.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

from .datasets import Data
from .outcome import accuracy
from .six_layers import SixLayers, fit

RULES = tuple(product(("weights", "activations"), ("even", "joint")))
"""How neurons are ranked, by the norm of their own weights or by what the next layer loses with them, and how they
compete: within each layer for the same share of it, or all layers' together."""

_HALVINGS = 9
_SHARES = (0.5, 0.35, 0.25, 0.18, 0.125, 0.09, 0.06)


def pruned(model: SixLayers, layers: int, budget: float, training: Data, selection: Data) -> SixLayers:
    """The smallest that loses no more than ``budget`` on ``selection`` without neurons of its first ``layers``."""
    activations = outputs(model, training[0][:4096])
    least = accuracy(model, selection) - budget
    found = [model]
    for scores, competition in RULES if layers else ():
        ranks = importance(model, activations, scores)
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            share = (low + high) / 2
            smaller = without(model, kept(ranks, layers, share, competition), activations)
            if accuracy(smaller, selection) >= least:
                high = share
                found.append(smaller)
            else:
                low = share
    return min(found, key=lambda each: head_parameters(each, layers))


def pruned_and_trained(model: SixLayers, budget: float, training: Data, selection: Data, *, seed: int) -> SixLayers:
    """The network pruned step by step, all layers alike, and trained for an epoch after each step: the smallest that
    loses no more than ``budget`` on ``selection``."""
    least = accuracy(model, selection) - budget
    found = smaller = model
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for share in _SHARES:
            activations = outputs(smaller, training[0][:4096])
            of_this = share * _hidden(model) / _hidden(smaller)
            keep = kept(importance(smaller, activations, "activations"), len(model.layers), of_this, "even")
            smaller = fit(without(smaller, keep, activations), training, epochs=1)
            if accuracy(smaller, selection) < least:
                break
            found = smaller
    return found


def outputs(model: SixLayers, images: Tensor) -> list[Tensor]:
    """What comes out of each hidden layer, shape (samples, neurons) each."""
    x, found = images.flatten(1), []
    with torch.no_grad():
        for layer in model.layers[:-1]:
            x = torch.relu(layer(x))
            found.append(x)
    return found


def importance(model: SixLayers, activations: Sequence[Tensor], scores: str) -> list[Tensor]:
    """How much each neuron of each hidden layer matters, as a share of its layer's."""
    found = []
    for place, values in enumerate(activations):
        own, behind = _weights(model, place), _weights(model, place + 1)
        each = own.norm(dim=1) if scores == "weights" else values.var(dim=0) * behind.square().sum(dim=0)
        found.append(each / each.sum())
    return found


def kept(ranks: Sequence[Tensor], layers: int, share: float, competition: str) -> list[Tensor]:
    """Which neurons of each hidden layer stay: ``share`` of those in the first ``layers``, one of each at least."""
    touched = ranks[:layers]
    sizes = [max(1, round(share * len(each))) for each in touched]
    if competition == "joint":
        count = max(1, round(share * sum(map(len, touched))))
        threshold = torch.cat(list(touched)).sort(descending=True).values[count - 1]
        sizes = [max(1, int((each >= threshold).sum())) for each in touched]
    chosen = [each.topk(size).indices.sort().values for each, size in zip(touched, sizes, strict=True)]
    return [*chosen, *(torch.arange(len(each)) for each in ranks[layers:])]


def without(model: SixLayers, keep: Sequence[Tensor], activations: Sequence[Tensor]) -> SixLayers:
    """A new network with those neurons alone; the others' mean ``activations`` go into the biases behind them."""
    columns = [torch.arange(model.linear[0].in_features), *keep]
    rows = [*keep, torch.arange(model.linear[-1].out_features)]
    smaller = SixLayers([len(columns[0]), *map(len, rows)])
    with torch.no_grad():
        for place, (new, old) in enumerate(zip(smaller.linear, model.linear, strict=True)):
            bias: Tensor = old.bias
            if place:
                mean = activations[place - 1].mean(dim=0)
                mean[columns[place]] = 0
                bias = bias + old.weight @ mean
            new.weight.copy_(old.weight[rows[place]][:, columns[place]])
            new.bias.copy_(bias[rows[place]])
    return smaller.eval()


def head_parameters(model: SixLayers, layers: int) -> int:
    return sum(each.numel() for layer in model.layers[:layers] for each in layer.parameters())


def _hidden(model: SixLayers) -> int:
    return model.linear[0].out_features


def _weights(model: SixLayers, place: int) -> Tensor:
    return model.linear[place].weight.detach()
