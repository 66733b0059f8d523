"""What became of a policy's decisions: prices in each cell, and accuracies as measured on samples it has not seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .cells import Cells
from .networks import Network, run
from .options import Decision
from .policies.policy import Policy

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """Arrays of one entry a cell; NaN where the policy refused.

    ``objective``, ``time_s``, ``energy_j``: of an inference. ``head_bits``: of what the device downloads.
    ``device_share``: of the network's MACs. ``known_budget``: the least budget that the policy knows to be kept.
    ``drop``, ``drop_error``: accuracy lost on the judged samples, NaN where that was not measured either.
    """

    objective: Floats
    time_s: Floats
    energy_j: Floats
    head_bits: Floats
    device_share: Floats
    known_budget: Floats
    drop: Floats
    drop_error: Floats

    @property
    def served(self) -> NDArray[np.bool_]:
        return np.isfinite(self.objective)

    @property
    def judged(self) -> NDArray[np.bool_]:
        return np.isfinite(self.drop)

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Whether the cut lies inside the network."""
        return (self.device_share > 0) & (self.device_share < 1)

    def meets(self, budget: Floats) -> NDArray[np.bool_]:
        """Whether the budget is kept on the judged samples, as far as they can tell: within one standard error."""
        return self.judged & (self.drop - self.drop_error <= budget)


def outcomes(network: Network, cells: Cells, policies: tuple[Policy, ...], most: int) -> Iterator[tuple[str, Outcome]]:
    """Those of each policy, of which the ``most`` options that most cells choose are made and judged."""
    for policy in policies:
        yield policy.name, _outcome(network, cells, policy.decide(network, cells), most)


def _outcome(network: Network, cells: Cells, decision: Decision, most: int) -> Outcome:
    options, served = decision.options, ~decision.refused
    drops = np.full((2, len(options.made)), np.nan)
    counts = np.bincount(decision.chosen[served], minlength=len(options.made))
    for place in np.argsort(-counts, kind="stable")[:most].tolist():
        make = options.made[place]
        drops[:, place] = 0.0
        if make is not None:
            found = network.drop(run(make(), network.judged[0]), network.judged)
            drops[:, place] = found.mean, found.error
    drops[:, [place for place, make in enumerate(options.made) if make is None]] = 0.0

    def of_cells(values: Floats) -> Floats:
        """Of the option that each cell has chosen; of a matrix, in its own row."""
        found = np.full(len(served), np.nan)
        rows = np.flatnonzero(served)
        chosen = decision.chosen[rows]
        found[rows] = values[chosen] if values.ndim == 1 else values[rows, chosen]
        return found

    macs = options.device_macs + options.server_macs
    return Outcome(
        objective=np.where(served, decision.objective, np.nan),
        time_s=of_cells(cells.time_s(options)),
        energy_j=of_cells(cells.energy_j(options)),
        head_bits=of_cells(options.download_bits),
        device_share=of_cells(options.device_macs / macs),
        known_budget=of_cells(options.budget),
        drop=of_cells(drops[0]),
        drop_error=of_cells(drops[1]),
    )


def save_outcomes(path: Path, found: dict[str, Outcome]) -> None:
    """Write them as arrays to ``path``, an .npz file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {f"{name}/{item.name}": getattr(each, item.name) for name, each in found.items() for item in fields(each)}
    np.savez_compressed(path, **arrays)


def load_outcomes(path: Path) -> dict[str, Outcome]:
    """What :func:`save_outcomes` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        names = dict.fromkeys(key.rsplit("/", 1)[0] for key in arrays)
        return {name: Outcome(*(arrays[f"{name}/{item.name}"] for item in fields(Outcome))) for name in names}
