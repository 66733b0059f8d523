"""Plans for many requests: chosen all together, and each made when it is read."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray

from .errors import InfeasibleError, RequestError
from .exact_planner import ExactPlanner, Machine, machine_of
from .pattern_table import PatternTable
from .plan import Plan
from .request import Request
from .request_columns import columns_of, stacked
from .solver.choice import limits_overstepped

_TOGETHER = 1 << 16
"""Requests times patterns that are priced at once: so that the numbers stay in the processor's cache."""


@dataclass(frozen=True, eq=False, repr=False)
class Plans(Sequence[Plan]):
    """The plans for ``requests``, in their order. A slice is one too.

    Arrays of one entry a request: ``feasible``, whether there is a plan; ``objective``, that of the plan, inf where
    there is none; ``cut``, its place in ``profile.closed_cuts``, -1 where there is none. Reading a plan that there is
    not raises the InfeasibleError of :meth:`Profile.plan`.
    """

    requests: tuple[Request, ...]
    feasible: NDArray[np.bool_]
    objective: NDArray[np.float64]
    cut: NDArray[np.int64]
    _answers: NDArray[np.object_]  # the table of patterns that the best is in, or the plan, or None where there is none
    _row: NDArray[np.int64]  # in that table
    _planner: ExactPlanner
    _plan: Callable[[Request], Plan]

    @overload
    def __getitem__(self, place: SupportsIndex) -> Plan: ...
    @overload
    def __getitem__(self, place: slice) -> Plans: ...
    def __getitem__(self, place: SupportsIndex | slice) -> Plan | Plans:
        if isinstance(place, slice):
            parts = ("requests", "feasible", "objective", "cut", "_answers", "_row")
            return replace(self, **{name: getattr(self, name)[place] for name in parts})
        request, answer = self.requests[place], self._answers[place]
        if isinstance(answer, PatternTable):
            return self._planner.stored(request, answer, int(self._row[place]))
        return answer if isinstance(answer, Plan) else self._plan(request)

    def __len__(self) -> int:
        return len(self.requests)

    def __eq__(self, other: object) -> bool:
        """Whether ``other`` holds equal plans; where there is no plan, nothing is equal to it."""
        if not isinstance(other, Sequence):
            return NotImplemented
        try:
            return len(self) == len(other) and all(map(operator.eq, self, other))
        except InfeasibleError:
            return False

    __hash__ = None  # type: ignore[assignment]  # as of a list

    def __repr__(self) -> str:
        return f"<plans for {len(self):,} requests, {np.count_nonzero(~self.feasible):,} of them without one>"


def plan_all(planner: ExactPlanner, plan: Callable[[Request], Plan], requests: Iterable[Request]) -> Plans:
    """The plan of ``planner`` for each of ``requests``: those that ``plan`` makes, or the errors it raises.

    All without limits are answered together, and those whose limits the cheapest pattern meets; the others one by one,
    and so are those of devices that name cycles by width, or hold another head.
    """
    asked = tuple(requests)
    groups: defaultdict[tuple[Machine, float], list[int]] = defaultdict(list)
    alone: list[int] = []
    for index, request in enumerate(asked):
        if not isinstance(request, Request):
            raise RequestError(f"requests[{index}] = {request!r:.200}: not a Request; give plan_many only those")
        device = request.device
        if isinstance(device.cycles_per_mac, float) and request.device_holds is None:
            groups[machine_of(request), planner.first_drop(request)].append(index)
        else:
            alone.append(index)
    count = len(asked)
    objective, row = np.full(count, np.inf), np.zeros(count, dtype=np.int64)
    cut, answers = np.full(count, -1, dtype=np.int64), np.full(count, None, dtype=np.object_)
    for (widths, drop), members in groups.items():
        table = planner.table(widths, drop)
        if not table.rows.size:
            alone += members
            continue
        places, columns = np.array(members), columns_of([asked[index] for index in members])
        size = max(1, _TOGETHER // len(table.within))
        for start in range(0, len(places), size):
            part = places[start : start + size]
            best, costs, settled = _cheapest(table, stacked(columns[:, start : start + size]))
            known = part[settled]
            answers[known], row[known], objective[known] = table, best[settled], costs[settled]
            cut[known] = table.patterns.cut[best[settled]]
            alone += part[~settled].tolist()
    for index in alone:
        made, choice = planner.best(asked[index], None, planner.first_drop(asked[index]))
        if choice.limit is None:
            answers[index], objective[index], cut[index] = made, made.objective, choice.cut
    feasible = cut >= 0
    for column in (feasible, objective, cut):
        column.flags.writeable = False
    return Plans(asked, feasible, objective, cut, answers, row, planner, plan)


def _cheapest(
    table: PatternTable, requests: Request
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
    """The cheapest row for each of the stacked ``requests``, its objective, and whether it is the answer whatever the
    limits."""
    row = table.cheapest(requests)
    prices = table.work.at(row).prices(requests)
    overstep = np.array([*limits_overstepped(requests, prices, table.memory_bytes[row]).values()])
    # where bits are not proven the least, a pattern between those stored may be better under a limit that is met
    in_the_way = overstep > 1 if table.proven else ~np.isnan(overstep)
    return row, prices.objective(requests), np.asarray(~in_the_way.any(axis=0))
