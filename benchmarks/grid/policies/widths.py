"""Policies that choose bits, and most of them a cut too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor

from qpart_fx.exact_planner import ExactPlanner
from qpart_fx.meta import info
from qpart_fx.noise import WIDTHS
from qpart_fx.quantizer import UniformQuantizer
from qpart_fx.replay import Replay
from qpart_fx.solver.closed_form import narrowest, round_up, shares

from ..cells import Cells
from ..networks import FLOAT_BITS, Floats, Network, budget_of_drop, run
from ..options import Decision, Integers, Options, least
from ..quantized import ANYTHING, chain_split, crossing, layer_noise, with_widths
from .policy import Policy, decision, where_it_fits

_STEPS = 200
"""Budgets, or multipliers, that a policy tries at each cut."""


def chain_options(network: Network, choices: list[tuple[int, Integers, Integers]]) -> Options:
    """Options at cuts of the chain: of each its place, the widths of its layers and of the values that cross.

    A head takes width times weights, as eq. 14 counts it, and what its file holds beside them. A width of 32 is float
    and makes no noise.
    """
    sizes, noise = network.weights, layer_noise(network)
    rows, made = [], []
    for place, widths, sent in choices:
        _, value_sizes, value_noise = crossing(network, place)
        p = len(widths)
        head = float(sizes[:p] @ widths + network.bits_beside[place])
        up = float(value_sizes @ sent + network.exact_bits[place])
        tables, all_widths = [*noise[:p], *value_noise], [*widths.tolist(), *sent.tolist()]
        total = sum(row[bits - WIDTHS[0]] for row, bits in zip(tables, all_widths, strict=True) if bits <= WIDTHS[-1])
        memory = head / 8 + network.peak_bytes[place]
        rows.append([network.device_macs[place], network.server_macs[place], head, up, memory, total])
        exact = not any(bits <= WIDTHS[-1] for bits in all_widths)
        made.append(None if exact else chain_split(network, place, widths, sent))
    columns = np.array(rows, dtype=np.float64).T
    columns[-1] = np.where(columns[-1] > 0, network.budget_of_noise(columns[-1]), 0.0)
    return Options(made, *columns)


def every_cut(network: Network) -> range:
    return range(len(network.layers))


class ThePaper(Policy):
    """QPART as the paper solves it: at each cut of the chain the closed form (eqs. 27, 39, 40), rounded up, with one
    width for layer p and what crosses after it; of these the one of least objective.

    Delta is not the paper's, which may break the budget, but any that keeps it.
    """

    def decide(self, network: Network, cells: Cells) -> Decision:
        found: dict[tuple[int, bytes, int], tuple[int, Integers, Integers]] = {}
        sizes, noise = network.weights, layer_noise(network)
        robustness = np.array([layer.robustness for layer in network.profile.layers])
        for place in every_cut(network):
            p = int(network.layers[place])
            _, value_sizes, value_noise = crossing(network, place)
            z, table = sizes[:p].copy(), noise[:p] / robustness[:p, None]
            if p:
                z[-1] += value_sizes.sum()
                table[-1] += value_noise.sum(axis=0) / network.profile.cuts[place].robustness
            else:
                z, table = value_sizes.sum(keepdims=True), value_noise.sum(axis=0, keepdims=True)
            for delta in np.geomspace(max(table.sum(axis=0).min(), 1e-30) / 10, 10 * table.sum(axis=0).max(), _STEPS):
                bits = round_up(narrowest(table, shares(z, float(delta)), WIDTHS), WIDTHS)
                sent = np.full(len(value_sizes), int(bits[-1]))
                found[place, bits[:p].tobytes(), int(bits[-1])] = place, bits[:p], sent
        options = chain_options(network, [*found.values()])
        return decision(options, least(cells.objective(options), cells.fits(options) & cells.keeps(options)), cells)


@dataclass(frozen=True)
class AutoSplit(Policy):
    """Auto-Split (KDD'21): 2, 4, 6 or 8 bits for weights and what crosses, of least error for their size by Lagrange's
    multiplier, at each cut of the chain; all on the server in float where none keeps the accuracy.

    Its error is the sum of mean squared errors; the sum of squared errors is tried as well, and any multiplier. Which
    of its answers keep the accuracy, which it would measure, our noise tables tell it.
    """

    widths: tuple[int, ...] = (2, 4, 6, 8)

    def decide(self, network: Network, cells: Cells) -> Decision:
        bits = np.array(self.widths)
        weight_errors, value_errors = self._squared_errors(network)
        sizes = network.weights
        none, float_sent = np.zeros(0, dtype=np.int64), np.full(len(crossing(network, 0)[0]), FLOAT_BITS)
        found: dict[tuple[int, bytes], tuple[int, Integers, Integers]] = {(-1, b""): (0, none, float_sent)}
        for place in every_cut(network):
            p = int(network.layers[place])
            names, value_sizes, _ = crossing(network, place)
            z = np.concatenate([sizes[:p], value_sizes])
            errors = np.array([value_errors[name] for name in names]).reshape(-1, len(bits))
            squared = np.concatenate([weight_errors[:p], errors])
            for error in (squared, squared / z[:, None]):
                slopes = error / z[:, None]
                low, high = slopes[slopes > 0].min() / 100, slopes.max() * 100
                for multiplier in np.geomspace(low, high, _STEPS):
                    widths = bits[(error + multiplier * z[:, None] * bits).argmin(axis=1)]
                    found[place, widths.tobytes()] = place, widths[:p], widths[p:]
        options = chain_options(network, [*found.values()])
        return decision(options, least(cells.objective(options), cells.fits(options) & cells.keeps(options)), cells)

    def _squared_errors(self, network: Network) -> tuple[Floats, dict[str, list[float]]]:
        """Summed squared errors at each of the widths: of each layer's weights, and of a sample of each value."""
        profile = network.profile
        batch = profile.check[0]
        replay = Replay(profile.graph, batch)
        owned = {node.name: [*info(node).weights] for node in profile.graph.graph.nodes}

        def of_weights(name: str, bits: int) -> float:
            weights = (profile.graph.get_parameter(each) for each in owned[name])
            return sum(_squared_error(weight, UniformQuantizer.of_tensor, bits) for weight in weights)

        def of_value(name: str, bits: int) -> float:
            in_range = partial(_from_range, profile.ranges[name])
            return _squared_error(replay.value(name), in_range, bits) / batch.size

        weights = np.array([[of_weights(layer.name, bits) for bits in self.widths] for layer in profile.layers])
        return weights, {value.name: [of_value(value.name, bits) for bits in self.widths] for value in profile.values}


@dataclass(frozen=True)
class Uniform(Policy):
    """One width for all weights and for what crosses, at the cut of the graph of least objective.

    It knows no accuracy: whether the budget is kept is measured afterwards. ``coded``: its weights are entropy-coded by
    our coder; otherwise they take width times their number.
    """

    bits: int = 8
    coded: bool = False
    cuts: tuple[str, ...] = ()
    """``"input"`` or ``"output"``: only all on the server, or on the device."""

    def decide(self, network: Network, cells: Cells) -> Decision:
        table = ExactPlanner(network.profile).network
        width, place = self.bits - WIDTHS[0], table.resolutions.index(self.bits)
        last = len(table.layers) - 1
        cuts = [{"input": 0, "output": last}[cut] for cut in self.cuts] or [*range(last + 1)]
        sizes, heads = network.weights, network.profile.head_bits
        rows, made = [], []
        for cut in cuts:
            layers, values = table.layers[cut], list(table.values[cut])
            weights = table.weight_bits[layers, place].sum() if self.coded else self.bits * sizes[layers].sum()
            head = weights + heads[cut]
            up = self.bits * table.value_sizes[values].sum() + table.exact_bits[cut]
            noise = table.noise[layers, place].sum() + table.value_noise[values, width].sum()
            memory = head / 8 + table.peak_bytes[cut]
            rows.append([table.device_macs[cut], table.server_macs[cut], head, up, memory, noise])
            made.append(partial(self._split, network, network.profile.closed_cuts[cut].crossing))
        columns = np.array(rows, dtype=np.float64).T
        columns[-1] = network.budget_of_noise(columns[-1])
        options = Options(made, *columns)
        return decision(options, least(cells.objective(options), cells.fits(options)), cells)

    def _split(self, network: Network, cut: tuple[str, ...]) -> Callable[[Tensor], Tensor]:
        plan = network.profile.plan(ANYTHING, cut=cut)
        weights = dict.fromkeys(plan.weight_bits, self.bits)
        return with_widths(network, plan, weights, dict.fromkeys(plan.activation_bits, self.bits))


class FannOnMcu(Policy):
    """FANN-on-MCU (IoT Journal 2020): all on the device, in fixed point of 16 bits, or 8 where the memory asks for it.

    Its memories of several speeds are one here; where the network does not fit, it refuses.
    """

    def decide(self, network: Network, cells: Cells) -> Decision:
        last, count = len(network.layers) - 1, int(network.layers[-1])
        sent = len(crossing(network, last)[0])
        choices = [(last, np.full(count, bits), np.full(sent, bits)) for bits in (16, 8)]
        options = chain_options(network, choices)
        order = np.broadcast_to([0.0, 1.0], (len(cells.requests), 2))
        return decision(options, least(order, cells.fits(options)), cells)


class HybridNet(Policy):
    """PCA-driven Hybrid-Net (Nature Machine Intelligence 2020): all on the device; a layer has more bits where the
    number of principal components that hold 99 % of its output's variance rises, fewer elsewhere.

    Its binary layers have 2 bits at least, as nothing is trained again. Of some pairs of widths it takes the one of
    fewest bytes that it finds to keep the budget, else the widest.
    """

    pairs = ((2, 4), (2, 8), (3, 6), (4, 8), (6, 8), (8, 16))

    def decide(self, network: Network, cells: Cells) -> Decision:
        rises, last = self._rises(network), len(network.layers) - 1
        sent = np.full(len(crossing(network, last)[0]), 16)
        choices = [(last, np.where(rises, high, low), sent) for low, high in self.pairs]
        options = chain_options(network, choices)
        data = network.tried
        for place, made in enumerate(options.made):
            assert made is not None
            options.budget[place] = budget_of_drop(network.drop(run(made(), data[0]), data).mean)
        chosen = least(np.tile(options.download_bits, (len(cells.requests), 1)), cells.keeps(options))
        widest = len(self.pairs) - 1
        return decision(options, where_it_fits(options, np.where(chosen < 0, widest, chosen), cells), cells)

    def _rises(self, network: Network) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Whether each layer's output has more significant components than the one before it; the first and last do."""
        replay = Replay(network.profile.graph, network.profile.check[0])
        counts = []
        for layer in network.profile.layers:
            value = replay.value(layer.name)
            channels = value.transpose(1, -1) if value.dim() == 4 else value
            rows = channels.reshape(-1, channels.shape[-1]).double()
            parts = np.linalg.eigvalsh(np.cov(rows.numpy().T, ddof=0))[::-1]
            counts.append(int(np.searchsorted(np.cumsum(parts), 0.99 * parts.sum())) + 1)
        rises = np.diff(counts, prepend=0) > 0
        rises[-1] = True
        return rises


def _squared_error(values: Tensor, quantizer: Callable[[Tensor, int], UniformQuantizer], bits: int) -> float:
    values = values.detach()
    return float((quantizer(values, bits)(values) - values).double().square().sum())


def _from_range(ends: tuple[float, float], _: Tensor, bits: int) -> UniformQuantizer:
    return UniformQuantizer.from_range(*ends, bits)
