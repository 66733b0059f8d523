"""Policies that choose between whole variants of a network, or between one of them and the server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor

from ..cells import Cells
from ..networks import Floats, Network, budget_of_drop, run
from ..options import Decision, Integers, Made, Options, least
from ..quantized import crossing
from .policy import Policy, decision, where_it_fits
from .widths import chain_options

FLOAT = 32


def whole_variants(network: Network, widths: tuple[int, ...]) -> Options:
    """The whole network on the device, at each of some uniform widths; what it answers is sent in 16 bits."""
    last, count = len(network.layers) - 1, int(network.layers[-1])
    sent = np.full(len(crossing(network, last)[0]), 16)
    return chain_options(network, [(last, np.full(count, bits), sent) for bits in widths])


def on_server(network: Network, widths: tuple[int, ...] = (8, FLOAT)) -> Options:
    """All on the server, with the input in each of some widths."""
    none, count = np.zeros(0, dtype=np.int64), len(crossing(network, 0)[0])
    return chain_options(network, [(0, none, np.full(count, bits)) for bits in widths])


class InFaas(Policy):
    """INFaaS (ATC'21): of whole variants stored on the server the one that meets the accuracy and answers soonest.

    Variants differ in the width of the input that is sent: on the server of this price model narrower weights are not
    quicker. All are loaded, and none is overloaded, as requests of the grid come alone.
    """

    def decide(self, network: Network, cells: Cells) -> Decision:
        options = on_server(network)
        return decision(options, least(cells.time_s(options), cells.fits(options) & cells.keeps(options)), cells)


class Masito(Policy):
    """MASITO (Electronics 2024): each of the devices of a slot takes a local variant or the server, so that accuracy is
    most within limits on time and energy.

    An exact multiple-choice knapsack stands for its agents. The limits are a fifth above the time and the energy of the
    slot's cheapest assignment. Accuracies are those predicted, by budgets of the grid.
    """

    widths = (2, 4, 8, 16)
    slack = 1.2

    def decide(self, network: Network, cells: Cells) -> Decision:
        options = Options.together([on_server(network), whole_variants(network, self.widths)])
        fits = cells.fits(options)
        costs, times, energies = cells.objective(options), cells.time_s(options), cells.energy_j(options)
        lost = np.minimum(options.budget, 1.0)
        chosen = np.full(len(fits), -1)
        for slot in cells.slots():
            able = slot[fits[slot].any(axis=1)]  # others are refused
            if not len(able):
                continue
            cheapest = least(costs[able], fits[able])
            limits = [self.slack * each[able, cheapest].sum() for each in (times, energies)]
            chosen[able] = _knapsack(np.tile(lost, (len(able), 1)), [times[able], energies[able]], limits, fits[able])
        return decision(options, chosen, cells)


def _knapsack(values: Floats, weights: list[Floats], limits: list[float], allowed: np.ndarray) -> Integers:
    """One option a row, of least total value within the limits on total weights."""
    rows, columns = values.shape
    one = np.kron(np.eye(rows), np.ones(columns))
    constraints = [LinearConstraint(one, 1, 1)]
    constraints += [
        LinearConstraint(weight.ravel()[None] / limit, -np.inf, 1)
        for weight, limit in zip(weights, limits, strict=True)
    ]
    # among assignments that lose alike, the quickest
    price = values + 1e-6 * weights[0] / limits[0]
    bounds = Bounds(0, allowed.ravel().astype(np.float64))
    found = milp(price.ravel(), integrality=np.ones(rows * columns), bounds=bounds, constraints=constraints)
    return np.asarray(found.x.reshape(rows, columns).argmax(axis=1), dtype=np.int64)


@dataclass(frozen=True)
class LyExp4(Policy):
    """Ly-EXP4 (INFOCOM'24): a small model on the device answers where it is sure, the server elsewhere; how sure is
    enough, EXP4 learns over some thresholds, with a virtual queue on the channel.

    The small model is the network at ``bits`` bits, its confidence the largest probability. Learned for each request
    over ``rounds`` inferences of known samples, with a price of ``wrong`` mean times of the server for a wrong answer;
    the threshold of the largest weight is then kept. The channel is to carry half of the inferences.
    """

    bits: int = 4
    rounds: int = 2000
    wrong: float = 10.0
    seed: int = 0
    thresholds = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.01)

    def decide(self, network: Network, cells: Cells) -> Decision:
        options = self._options(network)
        chosen = self._learned(network, cells, options)
        fits = cells.fits(options)
        fallback = len(self.thresholds) - 1  # everything goes to the server: no local model is needed
        chosen = np.where(fits[np.arange(len(chosen)), chosen], chosen, fallback)
        return decision(options, where_it_fits(options, chosen, cells), cells)

    def _options(self, network: Network) -> Options:
        local, server = whole_variants(network, (self.bits,)), on_server(network, (8,))
        make_local, make_server = local.made[0], server.made[0]
        assert make_local is not None
        assert make_server is not None
        data = network.tried
        near, far = run(make_local(), data[0]), run(make_server(), data[0])
        sure = confidence(near)
        found = []
        for threshold in self.thresholds[:-1]:
            offloaded = sure < threshold
            share = float(offloaded.float().mean())
            output = torch.where(_like(offloaded, near), far, near)
            found.append(
                Options(
                    [partial(_cascade, make_local, make_server, threshold)],
                    local.device_macs,
                    share * server.server_macs,
                    local.download_bits,
                    share * server.upload_bits + (1 - share) * local.upload_bits,
                    local.memory_bytes,
                    np.array([budget_of_drop(network.drop(output, data).mean)]),
                )
            )
        return Options.together([*found, server])

    def _learned(self, network: Network, cells: Cells, options: Options) -> Integers:
        data = network.tried
        local, server = whole_variants(network, (self.bits,)), on_server(network, (8,))
        assert local.made[0] is not None
        near = run(local.made[0](), data[0])
        missed = network.right(network.float_output(data), data[1]) - network.right(near, data[1])
        missed_by_sample = missed.clamp_min(0).double().numpy()
        sure = confidence(near).numpy()
        offloads = sure[None, :] < np.array(self.thresholds)[:, None]
        times = np.stack([cells.time_s(local)[:, 0], cells.time_s(server)[:, 0]])
        scale = times.sum(axis=0)
        generator = np.random.default_rng(self.seed)
        rate = np.sqrt(np.log(len(self.thresholds)) / self.rounds)
        weights = np.zeros((len(cells.requests), len(self.thresholds)))
        queue = np.zeros(len(cells.requests))
        for _ in range(self.rounds):
            sample = int(generator.integers(len(sure)))
            experts = offloads[:, sample]
            chance = np.exp(weights - weights.max(axis=1, keepdims=True))
            chance /= chance.sum(axis=1, keepdims=True)
            offload = (chance @ experts).clip(0.02, 0.98)
            sent = generator.random(len(queue)) < offload
            loss = np.where(
                sent,
                (times[1] / scale + queue / self.rounds) / offload,
                (times[0] / scale + self.wrong * missed_by_sample[sample] * times[1] / scale) / (1 - offload),
            )
            weights -= rate * loss[:, None] * (experts[None, :] == sent[:, None])
            queue = np.maximum(queue + sent - 0.5, 0)
        return np.asarray(weights.argmax(axis=1), dtype=np.int64)


def confidence(output: Tensor) -> Tensor:
    """The largest probability of each sample; of pictures, its mean over pixels."""
    best = output.softmax(1).amax(1)
    return best.flatten(1).mean(1) if best.dim() > 1 else best


def _like(flags: Tensor, output: Tensor) -> Tensor:
    return flags.reshape(-1, *[1] * (output.dim() - 1))


def _cascade(local: Callable[[], Made], server: Callable[[], Made], threshold: float) -> Made:
    near, far = local(), server()

    def answer(inputs: Tensor) -> Tensor:
        output = near(inputs)
        return torch.where(_like(confidence(output) < threshold, output), far(inputs), output)

    return answer
