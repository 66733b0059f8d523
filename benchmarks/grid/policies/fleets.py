"""Policies that decide for many devices together: the cells of a slot differ in the device and its link only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog

from ..cells import Cells
from ..networks import Network
from ..options import Decision, Floats, Integers, least
from .floats import float_cuts
from .policy import Policy, decision


@dataclass(frozen=True)
class ApproRR(Policy):
    """ApproRR (TPDS 2020): as many requests of a slot as possible are admitted, each whole on its device or on the
    server, in float, under limits on the energy of each device and on the server's time; a linear relaxation, rounded
    at random and repaired.

    A device spends ten times the least that any of its choices takes at most; the server has time for ``capacity`` of
    the slot. Which of its two places a request gets is nothing that it minds: it may take any that the limits allow.
    """

    capacity: float = 0.75
    seed: int = 0

    def decide(self, network: Network, cells: Cells) -> Decision:
        options = float_cuts(network).only([0, len(network.layers) - 1])
        energies, generator = cells.energy_j(options), np.random.default_rng(self.seed)
        allowed = cells.fits(options) & (energies <= 10 * energies.min(axis=1, keepdims=True))
        chosen = np.full(len(allowed), -1)
        for slot in cells.slots():
            chosen[slot] = self._admitted(allowed[slot], energies[slot], generator)
        return decision(options, chosen, cells)

    def _admitted(self, allowed: np.ndarray, energies: Floats, generator: np.random.Generator) -> Integers:
        """The choice of each request of a slot, -1 where it is not admitted."""
        count, room = len(allowed), int(self.capacity * len(allowed))
        # admitting counts for one, and of equal admissions those of least energy are taken
        gain = 1 - 1e-3 * energies / energies.max()
        limits = np.concatenate([np.kron(np.eye(count), [1, 1]), [np.tile([1, 0], count)]])
        ends = np.concatenate([np.ones(count), [room]])
        bounds = [(0, float(each)) for each in allowed.ravel()]
        share = linprog(-gain.ravel(), A_ub=limits, b_ub=ends, bounds=bounds).x.reshape(count, 2).clip(0, 1)
        draw = generator.random(count)
        chosen = np.where(draw < share[:, 0], 0, np.where(draw < share.sum(axis=1) - 1e-9, 1, -1))
        on_server = np.flatnonzero(chosen == 0)
        if len(on_server) > room:  # repair: those that rounding took too many of, where they cost the most energy
            dearest = on_server[np.argsort(energies[on_server, 0])[room:]]
            chosen[dearest] = np.where(allowed[dearest, 1], 1, -1)
        return chosen


class DinaP(Policy):
    """DINA-P (INFOCOM'20): segments of the chain go to fog nodes, and a segment grows as long as that gains.

    With one fog node, the server: beginning with all on the device, or as much of it as fits, layers go to the server
    from the last on, as long as each step lowers the latency; the first that does not is the end.
    """

    def decide(self, network: Network, cells: Cells) -> Decision:
        options = float_cuts(network)
        times, fits = cells.time_s(options), cells.fits(options)
        rows = np.arange(len(times))
        chosen = np.where(fits, np.arange(fits.shape[1]), -1).max(axis=1)
        going = chosen > 0
        while going.any():
            next_one = np.maximum(chosen - 1, 0)
            better = going & (times[rows, next_one] < times[rows, chosen]) & fits[rows, next_one]
            chosen = np.where(better, next_one, chosen)
            going = better & (chosen > 0)
        return decision(options, chosen, cells)


class Cob(Policy):
    """COB (RACS'19): the cuts of a slot's devices are chosen together, as the server is quicker for many at once: n
    together take ``n ** exponent`` as long as one. Greedy: device after device takes the cut that adds least to the
    mean time. In float, on the chain.

    The batch's gain is in what it decides by; the prices it is judged by are those of all.
    """

    exponent = 0.7

    def decide(self, network: Network, cells: Cells) -> Decision:
        options = float_cuts(network)
        fits, chosen = cells.fits(options), np.full(len(cells.requests), -1)
        whole = cells.time_s(options)
        for slot in cells.slots():
            server_s = _server_time(cells, slot, options.server_macs)
            alone = whole[slot] - server_s
            shared, count = 0.0, 0
            for place in np.argsort(alone.min(axis=1)).tolist():
                offloads = server_s[place] > 0
                together = (count + offloads) ** self.exponent
                added = alone[place] + (shared + server_s[place]) * together - shared * count**self.exponent
                best = int(least(added[None], fits[slot[place]][None])[0])
                chosen[slot[place]] = best
                count += int(offloads[best])
                shared = max(shared, float(server_s[place, best]))
        return decision(options, chosen, cells)


def _server_time(cells: Cells, slot: Integers, macs: Floats) -> Floats:
    server = cells.requests[int(slot[0])].server
    return np.tile(macs * (server.cycles_per_mac / server.clock_hz), (len(slot), 1))
