"""Options under several limits at once: the multiple-choice knapsack where every limit has uses of its own.

Where all limits are on the same two sums, as bits of weights and bits that cross, ``allocate_pairs`` is faster. Here an
option may use any amount of each limit. Relaxed, one limit leaves one item between two options, and several leave
several; lists of states, as for one limit, get too long to be kept. So the search is HiGHS's (Huangfu and Hall 2018,
"Parallelizing the dual revised simplex method"). Its answers are checked: its tolerance is coarser than ``SLACK``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .allocate import SLACK

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

MAX_NODES = 10_000
"""Subproblems that are solved at most. Networks' tables mostly need one, seldom a hundred."""

_TOLERANCE = 2e-6
"""Relative: HiGHS takes a limit that is overstepped by less for met."""

_INFEASIBLE = 2  # scipy's status

_LARGEST = 1e6
"""The largest cost that HiGHS is given: its own tolerances are absolute."""


@dataclass(frozen=True)
class Limited:
    """One option for each item, of least summed ``cost``, such that what all of them use of each limit is within it.

    ``cost``: shape (items, options), of one item or more; inf where there is no such option, and each item has one.
    ``uses``: shape (limits, items, options), not negative. ``limits``: shape (limits,); met within ``SLACK``.

    >>> cost, uses = np.array([[4.0, 1], [4, 1]]), np.array([[[0.0, 1], [0, 1]], [[1, 2], [1, 3]]])
    >>> Limited(cost, uses, np.array([1.0, 4])).best()
    (array([1, 0]), 5.0)
    """

    cost: Floats
    uses: Floats
    limits: Floats

    def worth(self) -> Floats | None:
        """What it saves to raise each limit by one, by the relaxed problem; None where even that has no answer.

        Whatever prices w the limits are given, no choice costs less than the sum over the items of the least of
        ``cost + w * uses``, minus the sum of ``w * limits``. With these, that is the most.
        """
        from scipy.optimize import linprog

        program = _Program(self, self._exists)
        each = np.ones(len(self.cost))
        found = linprog(program.cost, A_ub=program.shares, b_ub=self._shares, A_eq=program.one_each, b_eq=each)
        return None if found.status == _INFEASIBLE else self._prices(found) / program.scale

    def conflict(self) -> Floats:
        """Prices w of the limits that prove where no choice is within them: the sum over the items of the least of
        ``w * uses`` is then more than that of ``w * limits``.

        They are those of the relaxed problem to overstep the limits by as small a share as possible.
        """
        from scipy.optimize import linprog
        from scipy.sparse import csr_array, hstack

        program = _Program(self, self._exists)
        each = np.ones(len(self.cost))
        found = linprog(
            np.append(0 * program.cost, 1.0),
            A_ub=np.column_stack([program.shares, -np.ones(len(self.limits))]),
            b_ub=self._shares,
            A_eq=hstack([program.one_each, csr_array((len(each), 1))]),
            b_eq=each,
        )
        return self._prices(found)

    def best(self) -> tuple[Integers | None, float]:
        """The options of least cost, None where none are within the limits or where none were found; and what no
        options within cost less than, as far as that was proven."""
        allowed = self._allowed
        if not allowed.any(axis=1).all():
            return None, np.inf
        program = _Program(self, allowed)
        options, bound = self._search(program, 1.0)
        if options is not None and not self._within(options):
            options, _ = self._search(program, 1 - _TOLERANCE)  # what it takes for met is
        if options is None or not self._within(options):
            return None, bound
        return options, min(bound, float(self.cost[np.arange(len(self.cost)), options].sum()))

    def _search(self, program: _Program, share: float) -> tuple[Integers | None, float]:
        """As ``best``, as HiGHS sees it, within a share of the limits."""
        from scipy.optimize import Bounds, LinearConstraint, milp

        found = milp(
            program.cost,
            constraints=[
                LinearConstraint(program.one_each, 1, 1),
                LinearConstraint(program.shares, ub=share * self._shares),
            ],
            integrality=1,
            bounds=Bounds(0, 1),
            # Without presolving, fewer answers have to be mended: when HiGHS does so, some releases print a line.
            options={"mip_rel_gap": 0, "node_limit": MAX_NODES, "presolve": False},
        )
        if found.status == _INFEASIBLE:
            return None, np.inf
        bound = program.least + max(found.mip_dual_bound or 0.0, 0.0) / program.scale
        if found.x is None:
            return None, bound
        taken = np.zeros(self.cost.shape)
        taken.ravel()[program.places] = found.x
        return taken.argmax(axis=1), bound

    def _within(self, options: Integers) -> bool:
        used = self.uses[:, np.arange(len(self.cost)), options].sum(axis=1)
        return bool((used <= self._most).all())

    def _prices(self, found: Any) -> Floats:
        """Those of the limits, in the solution of a linear program."""
        marginals = np.zeros(len(self.limits)) if found.x is None else -found.ineqlin.marginals
        return np.asarray(np.maximum(marginals, 0) / self._unit)

    @cached_property
    def _exists(self) -> Booleans:
        return np.isfinite(self.cost)

    @cached_property
    def _allowed(self) -> Booleans:
        """Options that are within each limit, whatever the other items choose."""
        least = np.where(self._exists, self.uses, np.inf).min(axis=2)
        others = least.sum(axis=1, keepdims=True) - least
        return np.asarray(self._exists & (self.uses + others[:, :, None] <= self._most[:, None, None]).all(axis=0))

    @cached_property
    def _most(self) -> Floats:
        """What counts as within each limit."""
        return self.limits + SLACK * np.abs(self.limits)

    @cached_property
    def _unit(self) -> Floats:
        """What HiGHS counts the use of each limit in."""
        return np.where(self.limits > 0, self.limits, 1.0)

    @cached_property
    def _shares(self) -> Floats:
        """The limits in units."""
        return self.limits / self._unit


class _Program:
    """A problem as HiGHS takes it: one variable for each option that is allowed, whether it is chosen.

    ``places``: of the variables in the flat tables. ``cost``: of each, above the least of its item, times ``scale``;
    ``least``: the sum of those. ``shares``: the units that each uses of each limit. ``one_each``: a matrix that adds up
    the variables of each item.
    """

    def __init__(self, problem: Limited, allowed: Booleans) -> None:
        from scipy.sparse import csr_array

        least = np.where(allowed, problem.cost, np.inf).min(axis=1)
        above = (problem.cost - least[:, None])[allowed]
        most = float(above.max())
        self.places = np.flatnonzero(allowed)
        self.least = float(least.sum())
        self.scale = _LARGEST / most if most > 0 else 1.0
        self.cost = above * self.scale
        self.shares = problem.uses[:, allowed] / problem._unit[:, None]
        entries = np.ones(len(above)), (np.nonzero(allowed)[0], np.arange(len(above)))
        self.one_each = csr_array(entries, shape=(len(least), len(above)))
