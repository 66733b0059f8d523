"""The paper's method: Algorithm 1 makes patterns offline, Algorithm 2 chooses among them online.

Kept as the reference that later methods are compared with. One thing is added to the paper: a width is checked against
the noise measured at it, where noise was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qpart_fx.noise import WIDTHS
from qpart_fx.prices import Prices, price
from qpart_fx.request import Request

from .choice import Choice, choose_among, limits_overstepped
from .closed_form import narrowest, round_up, shares

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Chain:
    """The paper's problem in numbers: L layers in a row, and C cuts, each after some first layers.

    Per layer: ``sizes`` z_w, shape (L,), and ``degradation`` psi_w at each of ``WIDTHS``, shape (L, W). Per cut:
    ``layers`` on the device (p), ``crossing_sizes`` z_x, shape (C,), and ``crossing_degradation`` psi_x, shape (C, W).
    ``device_macs``, ``server_macs``, ``exact_bits`` (of what crosses unquantized) and ``peak_bytes`` (of activations on
    the device), shape (C,).
    """

    sizes: Floats
    degradation: Floats
    layers: Integers
    crossing_sizes: Floats
    crossing_degradation: Floats
    device_macs: Floats
    server_macs: Floats
    exact_bits: Floats
    peak_bytes: Floats

    def variables(self, cut: int) -> tuple[Floats, Floats]:
        """Sizes and degradation of the widths to choose for ``cut``: one a layer on the device, the last one's shared
        with what crosses (z[p] = z_w[p] + z_x[p], both degradations added); for p = 0 that of the input alone."""
        p = int(self.layers[cut])
        if p == 0:
            return self.crossing_sizes[cut : cut + 1], self.crossing_degradation[cut : cut + 1]
        sizes, table = self.sizes[:p].copy(), self.degradation[:p].copy()
        sizes[-1] += self.crossing_sizes[cut]
        table[-1] += self.crossing_degradation[cut]
        return sizes, table


@dataclass(frozen=True, slots=True)
class Patterns:
    """The width that each layer needs, for every cut and accuracy level; 17 where 16 bits are not enough.

    ``weights``: shape (cuts, levels, layers), 0 for layers on the server. ``crossing``: shape (cuts, levels), 0 where
    nothing that is quantized crosses. ``budgets``: Delta(a) of each level.
    """

    weights: Integers
    crossing: Integers
    budgets: Floats


@dataclass(frozen=True, slots=True)
class Candidates:
    """Every stored pattern at a device's widths, priced for one request; arrays of shape (cuts, levels).

    ``overstep``: for each limit of the request, by the name of its field, the pattern's value over the limit's (at most
    1 when met).
    """

    weights: Integers
    crossing: Integers
    download_bits: Floats
    upload_bits: Floats
    degradation: Floats
    prices: Prices[Floats]
    objective: Floats
    overstep: dict[str, Floats]


def offline_patterns(chain: Chain, budgets: Sequence[float]) -> Patterns:
    """Algorithm 1: for every cut and every budget Delta(a), the closed form's widths, rounded up."""
    weights = np.zeros((len(chain.layers), len(budgets), len(chain.sizes)), dtype=np.int64)
    crossing = np.zeros((len(chain.layers), len(budgets)), dtype=np.int64)
    for cut, p in enumerate(chain.layers):
        sizes, table = chain.variables(cut)
        if not sizes.all():  # nothing is on the device and nothing that crosses is quantized
            continue
        for level, budget in enumerate(budgets):
            bits = narrowest(table, shares(sizes, budget), WIDTHS)
            weights[cut, level, :p] = bits[:p]
            crossing[cut, level] = bits[-1] if chain.crossing_sizes[cut] else 0
    return Patterns(weights, crossing, np.asarray(budgets, dtype=np.float64))


def price_patterns(request: Request, chain: Chain, patterns: Patterns) -> Candidates:
    """Round the patterns up to the device's widths and price them (eqs. 3-8, 14-17).

    A pattern has one width for the last layer and what crosses (b_x = b[p]); each is rounded up to what the device has
    for it.
    """
    weights = np.where(patterns.weights > 0, round_up(patterns.weights, request.device.storable_bits), 0)
    crossing = np.where(patterns.crossing > 0, round_up(patterns.crossing, request.device.crossing_bits), 0)
    download = (weights * chain.sizes).sum(axis=2)
    upload = crossing * chain.crossing_sizes[:, None] + chain.exact_bits[:, None]
    cuts, layers = np.arange(len(chain.layers))[:, None], np.arange(len(chain.sizes))
    lost = np.where(weights > 0, chain.degradation[layers, weights - WIDTHS[0]], 0.0).sum(axis=2)
    lost += np.where(crossing > 0, chain.crossing_degradation[cuts, crossing - WIDTHS[0]], 0.0)
    prices = price(
        request,
        device_macs=np.broadcast_to(chain.device_macs[:, None], download.shape),
        server_macs=np.broadcast_to(chain.server_macs[:, None], download.shape),
        download_bits=download,
        upload_bits=upload,
    )
    overstep = {"max_accuracy_drop": lost / patterns.budgets * (1 - 1e-9)}
    overstep |= limits_overstepped(request, prices, download / 8 + chain.peak_bytes[:, None])
    return Candidates(weights, crossing, download, upload, lost, prices, prices.objective(request), overstep)


def choose(candidates: Candidates, eligible: NDArray[np.bool_]) -> Choice:
    """Algorithm 2: of the ``eligible`` patterns that overstep no limit, that of least objective."""
    return choose_among(candidates.objective, candidates.overstep, eligible)
