"""Policies that change the network itself: a learned codec at the cut, or fewer neurons."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from qpart_fx.calibration import Batch
from qpart_fx.meta import info
from qpart_fx.passes.split_at_cut import split_at_cut
from qpart_fx.replay import Replay

from ..cells import Cells
from ..networks import FLOAT_BITS, Network, budget_of_drop
from ..options import Decision, Integers, Made, Options, least
from .floats import float_cuts
from .policy import Policy, decision

_TOGETHER = 8
"""Samples whose values are kept at a time: all those of a network for photos take a hundred megabytes each."""


@dataclass(frozen=True)
class Codec:
    """The best linear encoder and decoder of a value's channels, found on ``known`` samples: its first ``kept``
    principal components, each in 8 bits between the ends seen there. Channels lie along dimension 1; of sequences,
    along the last."""

    mean: Tensor
    components: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, values: Tensor, kept: int) -> Codec:
        rows = _as_rows(values).double()
        mean = rows.mean(0)
        _, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean))
        components = vectors.flip(1)[:, :kept]
        codes = (rows - mean) @ components
        parts = (mean, components, codes.amin(0), codes.amax(0))
        return cls(*(part.to(values.dtype) for part in parts))

    def __call__(self, values: Tensor) -> Tensor:
        """Encoded and decoded."""
        rows = _as_rows(values)
        step = (self.high - self.low).clamp_min(1e-12) / 255
        codes = (((rows - self.mean) @ self.components - self.low) / step).round().clamp(0, 255) * step + self.low
        decoded = codes @ self.components.T + self.mean
        if values.dim() == 4:
            return decoded.reshape(values.movedim(1, -1).shape).movedim(-1, 1)
        return decoded.reshape(values.shape)


def _as_rows(values: Tensor) -> Tensor:
    return (values.movedim(1, -1) if values.dim() == 4 else values).reshape(-1, channels(values))


def channels(values: Tensor) -> int:
    """How many of them a value has."""
    return values.shape[1] if values.dim() == 4 else values.shape[-1]


class DeepCod(Policy):
    """DeepCOD (SenSys'20): a float head, an encoder on the device and a decoder on the server at each cut of the chain;
    of these the one of least latency that loses 1 % at most.

    Its trained encoder and decoder are replaced by the best linear ones, in closed form, in 8 bits; of ratios from 2 to
    16 each cut has the largest that loses 1 % at most on known samples. A cut that none does has no codec in this
    policy, and its float value is sent.
    """

    changes_network = True
    ratios = (2, 4, 8, 16)
    most_lost = 0.01

    def decide(self, network: Network, cells: Cells) -> Decision:
        options = Options.together([float_cuts(network), *self._coded(network)])
        return decision(options, least(cells.time_s(options), cells.fits(options)), cells)

    def _coded(self, network: Network) -> list[Options]:
        plain, found = float_cuts(network), []
        count = len(network.tried[0])
        for place, cut in enumerate(network.profile.cuts):
            head, tail = split_at_cut(network.profile.graph, cut.cut.crossing, cut.cut.device_nodes)
            with torch.no_grad():
                pieces = [head(inputs) for inputs in network.tried[0].split(_TOGETHER)]
            values = [torch.cat(parts) for parts in zip(*pieces, strict=True)]
            if any(value.dim() < 2 or channels(value) < 2 or not value.is_floating_point() for value in values):
                continue
            best = self._narrowest(network, values, tail)
            if best is None:
                continue
            kept, codecs, lost = best
            positions = [value.numel() / count / channels(value) for value in values]
            each = list(zip(positions, map(channels, values), kept, strict=True))
            macs = sum(at * wide * narrow for at, wide, narrow in each)
            weights = FLOAT_BITS * sum(wide * (narrow + 1) for _, wide, narrow in each)
            found.append(
                Options(
                    [partial(_with_codecs, head, codecs, tail)],
                    plain.device_macs[place, None] + macs,
                    plain.server_macs[place, None] + macs,
                    plain.download_bits[place, None] + weights,
                    np.array([8 * sum(at * narrow for at, _, narrow in each)]),
                    plain.memory_bytes[place, None] + weights / 8,
                    np.array([budget_of_drop(lost)]),
                )
            )
        return found

    def _narrowest(
        self, network: Network, values: Sequence[Tensor], tail: GraphModule
    ) -> tuple[list[int], list[Codec], float] | None:
        """Of what crosses: the channels kept at the largest ratio that loses no more than it may, the codecs, and what
        they lose; None where even the least ratio loses more."""
        best = None
        for ratio in self.ratios:
            kept = [max(1, channels(value) // ratio) for value in values]
            codecs = [Codec.of(value, channels_left) for value, channels_left in zip(values, kept, strict=True)]
            decoded = [codec(value) for codec, value in zip(codecs, values, strict=True)]
            with torch.no_grad():
                output = [tail(*parts) for parts in zip(*(value.split(_TOGETHER) for value in decoded), strict=True)]
            lost = network.drop(torch.cat(output), network.tried).mean
            if lost > self.most_lost:
                break
            best = kept, codecs, lost
        return best


class Pruning(Policy):
    """Model pruning (2-step pruning; Ren et al.): a float head with fewer neurons, at each cut of the chain; of those
    that keep the budget the one of least objective.

    Neurons, or filters, of the least L1 norm go, the same share of every layer of the head but the network's last, and
    none is trained again. Shares of 5 to 50 % are tried on known samples. All that a neuron was in is taken to be gone,
    its input to the next layer too, be it depthwise or beside a short cut, which is kind to it; the network's own
    inputs and outputs stay.
    """

    changes_network = True
    shares = (0.05, 0.1, 0.2, 0.3, 0.5)

    def decide(self, network: Network, cells: Cells) -> Decision:
        options = Options.together([float_cuts(network), *self._pruned(network)])
        allowed = cells.fits(options) & cells.keeps(options)
        return decision(options, least(cells.objective(options), allowed), cells)

    def _pruned(self, network: Network) -> list[Options]:
        plain, data = float_cuts(network), network.tried
        inner = np.flatnonzero((network.layers > 0) & (network.layers < network.layers[-1]))
        crossing = [network.profile.cuts[place].cut.crossing for place in inner.tolist()]
        graphs = [without_neurons(network, share) for share in self.shares]
        outputs: list[list[list[Tensor]]] = [[[] for _ in inner] for _ in graphs]
        for inputs in data[0].split(_TOGETHER):  # one after the other: a replay keeps every value of the network
            clean = _replay(network.profile.graph, inputs)
            for of_graph, graph in zip(outputs, graphs, strict=True):
                changed = _replay(graph, inputs)
                for found, names in zip(of_graph, crossing, strict=True):
                    found.append(clean.with_values({name: changed.value(name) for name in names}))
        several = []
        macs = np.array([layer.macs for layer in network.profile.layers], dtype=np.float64)
        others = plain.device_macs - network.of_heads(macs)
        for share, graph, of_graph in zip(self.shares, graphs, outputs, strict=True):
            left = 1 - share
            of_layers = left ** prunable_sides(network)
            head = (FLOAT_BITS * network.of_heads(network.weights * of_layers) + network.bits_beside)[inner]
            several.append(
                Options(
                    [partial(_with_head, network.profile.graph, graph, names) for names in crossing],
                    (network.of_heads(macs * of_layers) + others * left)[inner],
                    plain.server_macs[inner],
                    head,
                    plain.upload_bits[inner] * left,
                    head / 8 + network.peak_bytes[inner] * left,
                    np.array([budget_of_drop(network.drop(torch.cat(found), data).mean) for found in of_graph]),
                )
            )
        return several


def prunable_sides(network: Network) -> Integers:
    """Of each layer, how many of its inputs and its outputs other layers made or take: 2, or 1 at the ends."""
    layers = [layer.name for layer in network.profile.layers]
    behind: set[str] = set()  # nodes that a layer comes before
    found = {}
    for node in network.profile.graph.graph.nodes:
        after = any(source.name in behind or source.name in found for source in node.all_input_nodes)
        if after:
            behind.add(node.name)
        if node.name in layers:
            found[node.name] = after + (node.name != layers[-1])
    return np.array([found[name] for name in layers])


def without_neurons(network: Network, share: float) -> GraphModule:
    """The graph with a share of the neurons of each layer but the last at zero, those of the least L1 norm."""
    graph = copy.deepcopy(network.profile.graph)
    last = network.profile.layers[-1].name
    for node in graph.graph.nodes:
        for name in info(node).weights if node.name != last else ():
            weight = graph.get_parameter(name)
            if weight.dim() < 2:
                continue
            norms = weight.detach().flatten(1).abs().sum(1)
            gone = norms.argsort()[: int(share * len(norms))]
            with torch.no_grad():
                weight[gone] = 0
    return graph


def _replay(graph: GraphModule, inputs: Tensor) -> Replay:
    return Replay(graph, Batch((inputs,), {}, None, len(inputs)))


def _with_codecs(head: GraphModule, codecs: Sequence[Codec], tail: GraphModule) -> Made:
    def run(inputs: Tensor) -> Tensor:
        output: Tensor = tail(*(codec(value) for codec, value in zip(codecs, head(inputs), strict=True)))
        return output

    return run


def _with_head(graph: GraphModule, head: GraphModule, crossing: tuple[str, ...]) -> Made:
    def run(inputs: Tensor) -> Tensor:
        before, after = _replay(graph, inputs), _replay(head, inputs)
        output: Tensor = before.with_values({name: after.value(name) for name in crossing})
        return output

    return run
