"""Bits for layers and crossing values, exactly: the multiple-choice knapsack.

Of every item (the weights of a layer, a value that crosses) one option (a width, a step) is chosen, such that the cost
adds up to the least while the noise stays within a budget. Tables may have any shape: noise measured at low widths is
neither convex nor falling.

1. The continuous relaxation takes every item's lower convex hull and walks down the steps of all hulls, steepest first
   (Dyer 1984, "An O(n) algorithm for the multiple-choice knapsack linear program"; Zemel 1984, "An O(n) algorithm for
   the linear multiple choice knapsack problem and related problems"; both for one budget, sorting does it for all). It
   gives a lower bound and, stopped before the step that no longer fits, a first answer.
2. Options whose reduced cost exceeds the gap between the two are in no better answer. Few are left.
3. Dynamic programming over the items that still have a choice (the core of Pisinger 1995, "A minimal algorithm for the
   multiple-choice knapsack problem"), over lists of (noise, cost), shortened by dominance and by the relaxation of the
   items to come; each state is also completed by rounding that relaxation, which keeps improving the answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

MAX_STATES = 50_000
"""States kept at a time, those of the least bound. Tables of networks need a hundred or so; where sums of equal or of
unrelated large numbers would need more (subset sums), the answer is the best that was seen, with a bound and not
``exact``. That bounds memory and time: 100 MB and some seconds for 60 items of 15 options, at worst."""

SLACK = 1e-12
"""Relative: a budget or limit counts as met when it is overstepped by no more, so that 0.1 + 0.2 is within 0.3."""

TIE = 1e-13
"""Relative to the cost: an answer that is better by less is not looked for. Well above rounding, well below anything
that matters; without it, ties would fill the lists."""

EPS = float(np.finfo(np.float64).eps)
HUGE = float(np.finfo(np.float64).max)
TINY = float(np.finfo(np.float64).smallest_subnormal)
SEARCHES = 3  # when there is no room for all states, the search is repeated: from a better answer, fewer are needed
CHUNK = 1 << 20  # states times options in one array at most: bounds the memory
TOGETHER = 1 << 10  # items are decided together up to so many states times options: numpy's calls cost more than these


@dataclass(frozen=True, slots=True)
class Allocation:
    """The option chosen for each item, shape (items,), with the ``cost`` and ``noise`` they add up to.

    ``lower_bound``: no choice within the budget costs less; that of the continuous relaxation, or more where the search
    was cut short and proved more. ``exact``: whether nothing costs less than ``cost`` (by 1e-12 of it or more).
    """

    options: Integers
    cost: float
    noise: float
    lower_bound: float
    exact: bool = True


def allocate(cost: ArrayLike, noise: ArrayLike, budget: float, *, max_states: int = MAX_STATES) -> Allocation | None:
    """One option per item, of least summed cost with the summed noise within ``budget``; None when nothing is within.

    Args:
        cost: Not negative, any unit (bits, or their price); shape (items, options). +inf: not allowed.
        noise: Not negative, in the unit of ``budget`` (squared logit noise, or degradation); same shape. +inf as above.
        budget: Met exactly is met, see ``SLACK``. May be infinite.
        max_states: More of them, more memory and time for a proof; see ``MAX_STATES``.

    >>> answer = allocate([[8, 4, 2], [80, 40, 20]], [[0, 1, 5], [0, 1, 5]], 6)
    >>> answer.options, answer.cost, answer.noise, answer.exact
    (array([1, 2]), 24.0, 6.0, True)
    """
    return Relaxation.of(cost, noise).allocate(budget, max_states=max_states)


@dataclass(frozen=True, slots=True)
class _Points:
    """Options that no other option of their item beats in both numbers, in flat arrays: by item, then by rising noise
    (hence falling cost, both strictly)."""

    item: Integers
    option: Integers
    noise: Floats
    cost: Floats
    items: int

    @staticmethod
    def of(cost: Floats, noise: Floats) -> _Points:
        items, options = cost.shape
        allowed = np.isfinite(cost) & np.isfinite(noise)
        if not allowed.all():
            cost, noise = np.where(allowed, cost, np.inf), np.where(allowed, noise, np.inf)
        order = np.argsort(noise, axis=1, kind="stable")
        flat = order + np.arange(items)[:, None] * options
        by_noise = cost.ravel()[flat]
        cheaper = by_noise < np.inf
        cheaper[:, 1:] &= by_noise[:, 1:] < np.minimum.accumulate(by_noise, axis=1)[:, :-1]
        chosen = flat[cheaper]
        item, noise = chosen // max(options, 1), noise.ravel()[chosen]
        last = np.ones(chosen.size, dtype=np.bool_)  # of equal noise, the last costs least
        last[:-1] = (noise[1:] != noise[:-1]) | (item[1:] != item[:-1])
        chosen, item, noise = chosen[last], item[last], noise[last]
        return _Points(item, chosen - item * options, noise, cost.ravel()[chosen], items)

    def only(self, keep: Booleans) -> _Points:
        return _Points(self.item[keep], self.option[keep], self.noise[keep], self.cost[keep], self.items)


@dataclass(frozen=True, slots=True)
class _Curve:
    """The least relaxed cost over the budget: at ``noise[k]`` it is ``cost[k]``, and linear in between.

    Both are sums of positive numbers, noise from its low end and cost from its own, so that neither loses digits when
    it ranges over many decades. The last place of every array but ``noise`` answers for a budget that is too small.
    """

    noise: Floats
    cost: Floats
    next_noise: Floats
    next_cost: Floats
    slope: Floats

    @staticmethod
    def of(least_noise: float, least_cost: float, rises: Floats, falls: Floats) -> _Curve:
        """From the noise that is added and the cost that is saved by every step, steepest first."""
        size = rises.size
        noise = np.empty(size + 1)
        noise[0] = 0.0
        np.cumsum(rises, out=noise[1:])
        noise += least_noise
        cost = np.empty(size + 2)
        cost[-1], cost[-2] = np.inf, 0.0
        np.cumsum(falls[::-1], out=cost[-3::-1])
        cost += least_cost
        next_noise, next_cost, slope = np.zeros(size + 2), np.empty(size + 2), np.zeros(size + 2)
        next_noise[:size], next_noise[size] = noise[1:], noise[size]
        next_cost[:size], next_cost[size:] = cost[1 : size + 1], cost[size:]
        # steps lost in rounding are never looked up
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            np.divide(cost[:size] - cost[1 : size + 1], noise[1:] - noise[:-1], out=slope[:size])
        np.minimum(slope, HUGE, out=slope)  # too flat is still a bound
        return _Curve(noise, cost, next_noise, next_cost, slope)

    def at(self, budgets: Floats) -> tuple[Floats, Integers]:
        """The least relaxed cost within each of ``budgets`` (finite), and the number of whole steps; inf and -1 if
        even the least noise is not within."""
        steps = np.searchsorted(self.noise, budgets, side="right") - 1
        spare = self.next_noise[steps]
        spare -= budgets
        spare = np.maximum(spare, 0.0)  # beyond the last step nothing is saved
        spare *= self.slope[steps]
        spare += self.next_cost[steps]
        return spare, steps


@dataclass(frozen=True, slots=True)
class Relaxation:
    """The relaxed problem for every budget at once: the lower convex hulls of all items, merged.

    ``first`` and ``last``: for each item, the places in ``points`` of its least noise and of its least cost.
    ``steps``: the places that the steps of the hulls lead to, steepest step first, with the noise that each adds
    (``rises``) and the cost that it saves (``falls``). ``curve``: their sums.
    """

    points: _Points
    first: Integers
    last: Integers
    steps: Integers
    rises: Floats
    falls: Floats
    curve: _Curve

    @staticmethod
    def of(cost: ArrayLike, noise: ArrayLike) -> Relaxation:
        """From tables as ``allocate`` takes them."""
        cost, noise = np.asarray(cost, dtype=np.float64), np.asarray(noise, dtype=np.float64)
        if cost.ndim != 2 or cost.shape != noise.shape:
            raise ValueError(f"cost and noise need one shape (items, options), not {cost.shape} and {noise.shape}")
        if not ((cost >= 0).all() and (noise >= 0).all()):
            raise ValueError("cost and noise must be numbers, and not negative")
        return Relaxation._of(_Points.of(cost, noise))

    @staticmethod
    def _of(points: _Points) -> Relaxation:
        """Merge the hulls of ``points``."""
        item, noise, cost = points.item, points.noise, points.cost
        bounds = np.searchsorted(item, np.arange(points.items + 1))
        first, last = bounds[:-1], bounds[1:] - 1
        if (last < first).any():  # an item without any option
            empty = np.empty(0)
            return Relaxation(points, first, last, first[:0], empty, empty, _Curve.of(np.inf, np.inf, empty, empty))
        hull = np.arange(item.size)
        while True:
            places, rises, falls = hull[1:], np.diff(noise[hull]), -np.diff(cost[hull])
            inner = item[places] == item[hull[:-1]]
            with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
                slopes = np.where(inner, falls / rises, np.nan)
            # a point above the line between its neighbours is no vertex, whichever points are dropped next
            above = (slopes[:-1] <= slopes[1:]) & (slopes[1:] < np.inf)
            if not above.any():
                break
            hull = hull[np.concatenate([[True], ~above, [True]])]
        places, rises, falls, slopes = places[inner], rises[inner], falls[inner], slopes[inner]
        order = np.argsort(-slopes, kind="stable")
        rises, falls = rises[order], falls[order]
        curve = _Curve.of(float(noise[first].sum()), float(cost[last].sum()), rises, falls)
        return Relaxation(points, first, last, places[order], rises, falls, curve)

    def least_cost(self, budgets: ArrayLike) -> Floats:
        """A lower bound of the cost for each of ``budgets``, of any shape; inf where nothing is within.

        >>> Relaxation.of([[8, 0]], [[1, 4]]).least_cost([0, 1, 2.5, 4, 5])
        array([inf,  8.,  4.,  0.,  0.])
        """
        return self.curve.at(_limit(budgets))[0]

    def rounded(self, budget: float) -> Allocation | None:
        """The relaxed answer without its fractional step, then changes of one or two options while they save cost;
        None when nothing is within ``budget``. No more than ``cost - lower_bound`` above the least cost."""
        limit = float(_limit(budget))
        bound, steps = self.curve.at(_limit(budget))
        return self._allocation(self._round(int(steps), limit), float(bound)) if steps >= 0 else None

    def allocate(self, budget: float, *, max_states: int = MAX_STATES) -> Allocation | None:
        """As the function ``allocate``, which this saves the work of reading the tables again."""
        return self.allocate_below(np.inf, budget, max_states=max_states)[0]

    def allocate_below(
        self, cost: float, budget: float, *, max_states: int = MAX_STATES
    ) -> tuple[Allocation | None, float]:
        """As ``allocate``, if it costs less than ``cost``; and what no answer costs less than that was not seen for
        want of room, inf where nothing was left out."""
        return _solve(self, float(_limit(budget)), cost, max_states)

    def of_each(self, among: Booleans, budget: float) -> tuple[Floats, Integers]:
        """The relaxed answers for some of the items alone: those marked in a row of ``among``, for every row.

        Args:
            among: shape (rows, items).

        Returns:
            A lower bound of the cost for each row, inf where nothing is within ``budget``. And the options of the
            relaxed answer without its fractional step, hence within the budget, or those of least noise where nothing
            is; of shape (rows, items), where those of items that are not marked mean nothing.

        >>> bounds, options = Relaxation.of([[8, 0], [6, 1]], [[1, 4], [0, 2]]).of_each(np.eye(2, dtype=bool), 2)
        >>> bounds, options.diagonal()
        (array([5.33333333, 1.        ]), array([0, 1]))
        """
        points, steps, limit = self.points, self.steps, float(_limit(budget))
        if (self.last < self.first).any():
            raise ValueError("an item has no option")
        item = points.item[steps]
        after = np.tile(self.first, (steps.size + 1, 1))  # the place of every item after so many steps
        after[np.arange(1, steps.size + 1), item] = steps
        np.maximum.accumulate(after, out=after)
        with np.errstate(over="ignore"):
            slopes = np.append(np.minimum(self.falls / self.rises, HUGE), 0.0)
        bounds, taken = np.empty(len(among)), np.empty(len(among), dtype=np.int64)
        size = max(1, CHUNK // (steps.size + 1))
        for rows in (slice(start, start + size) for start in range(0, len(among), size)):
            own = among[rows]
            noise = np.column_stack([own @ points.noise[self.first], own[:, item] * self.rises]).cumsum(axis=1)
            count = (noise <= limit).sum(axis=1)  # of steps that leave the row within, one more
            end = np.minimum(count, steps.size)
            spare = np.maximum(noise[np.arange(len(own)), end] - limit, 0.0)
            cost = (points.cost[after[end]] * own).sum(axis=1) + spare * slopes[count - 1]
            bounds[rows], taken[rows] = np.where(count > 0, cost, np.inf), np.maximum(count - 1, 0)
        return bounds, points.option[after[taken]]

    def _allocation(self, chosen: Integers, bound: float) -> Allocation:
        """The answer with the ``points`` at the places ``chosen``."""
        points = self.points
        cost = float(points.cost[chosen].sum())
        return Allocation(points.option[chosen], cost, float(points.noise[chosen].sum()), min(bound, cost), False)

    def _of_items(self, items: Integers) -> tuple[_Curve, Integers]:
        """The curve and the steps of some of the items alone."""
        points, among = self.points, np.zeros(self.first.size, dtype=np.bool_)
        among[items] = True
        own = among[points.item[self.steps]]
        noise, cost = points.noise[self.first[items]].sum(), points.cost[self.last[items]].sum()
        return _Curve.of(float(noise), float(cost), self.rises[own], self.falls[own]), self.steps[own]

    def _round(self, steps: int, limit: float) -> Integers:
        """Places of the first ``steps`` steps, improved within ``limit``."""
        item, noise, cost = self.points.item, self.points.noise, self.points.cost
        chosen = self.first.copy()
        chosen[item[self.steps[:steps]]] = self.steps[:steps]  # of several steps of an item, the last one stays
        for _ in range(chosen.size):  # mostly a handful
            added = noise - noise[chosen][item]
            saved = cost[chosen][item] - cost
            left = limit - noise[chosen].sum()
            # to each change, that one which saves the most within what then is left; pairs close most of the gap
            rising = added.argsort()
            most = np.maximum.accumulate(saved[rising])
            most_at = rising[np.maximum.accumulate(np.where(saved[rising] == most, np.arange(item.size), 0))]
            second = most_at[added[rising].searchsorted(left - added, side="right") - 1]
            pair = (added + added[second] <= left) & (item[second] != item)
            gain = np.where(pair, saved + saved[second], np.where(added <= left, saved, 0.0))
            best = int(gain.argmax())
            if gain[best] <= 0:
                break
            if pair[best]:
                chosen[item[second[best]]] = second[best]
            chosen[item[best]] = best
        return chosen

    def _worthwhile(self, limit: float, bound: float, steps: int, below: float) -> Booleans:
        """The points that an answer of cost less than ``below`` may have, by their reduced costs at the step that the
        relaxation takes in part, the one after ``steps``."""
        points, first = self.points, self.first
        if bound >= below or steps == self.steps.size:
            return np.zeros(points.item.size, dtype=np.bool_)
        fits = points.noise - points.noise[first][points.item] <= limit * (1 + 4 * EPS) - self.curve.noise[0]
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            multiplier = self.falls[steps] / self.rises[steps]  # price of noise, in cost
            priced = points.cost + multiplier * points.noise
            rounding = 16 * EPS * (priced + multiplier * limit)
            reduced = priced - np.minimum.reduceat(priced, first)[points.item]
            cheap = bound + reduced - rounding < below
        return np.asarray(fits & (cheap | ~np.isfinite(rounding)))


def _limit(budget: ArrayLike) -> Floats:
    """The most noise that counts as within ``budget``, finite."""
    return np.asarray(np.minimum(np.asarray(budget, dtype=np.float64) * (1 + SLACK), HUGE))


def _front(noise: Floats, cost: Floats) -> Integers:
    """Places of the pairs that no other pair beats, by rising noise."""
    order = noise.argsort(kind="stable")
    noise, cost = noise[order], cost[order]
    keep = np.ones(noise.size, dtype=np.bool_)
    keep[1:] = cost[1:] < np.minimum.accumulate(cost)[:-1]
    order, noise = order[keep], noise[keep]
    last = np.ones(noise.size, dtype=np.bool_)  # of equal noise, the last costs least
    last[:-1] = noise[1:] > noise[:-1]
    return order[last]


def _best(places: Integers, bound: Floats, room: int) -> tuple[Integers, float]:
    """Those ``room`` of the places that have the least bound, in their order, and the least bound of the others."""
    if places.size <= room:
        return places, np.inf
    by_bound = bound[places].argpartition(room)
    return places[np.sort(by_bound[:room])], float(bound[places[by_bound[room]]])


def _solve(relaxation: Relaxation, limit: float, below: float, max_states: int) -> tuple[Allocation | None, float]:
    """The best allocation found within ``limit`` that costs less than ``below``, and a bound of those not seen: inf
    when there is nothing better for sure."""
    root, answer, searches = None, None, 0
    while True:
        found, steps = relaxation.curve.at(np.asarray(limit))
        bound = float(found)
        root = bound if root is None else root
        if not bound < below * (1 - TIE):  # or nothing at all is left
            break
        chosen = relaxation._round(int(steps), limit)
        if relaxation.points.cost[chosen].sum() < below:
            answer = relaxation._allocation(chosen, root)
            below = answer.cost
        keep = relaxation._worthwhile(limit, bound, int(steps), below * (1 - TIE))
        if keep.sum() <= 0.8 * keep.size:
            relaxation = Relaxation._of(relaxation.points.only(keep))  # fewer points, a tighter relaxation
            continue
        better, unproven = _search(relaxation, limit, below, max_states)
        if better is not None:
            answer = relaxation._allocation(better, root)
            below = answer.cost
        if unproven >= below * (1 - TIE):
            break
        searches += 1
        if better is None or searches == SEARCHES:
            return answer and replace(answer, lower_bound=min(max(root, unproven), answer.cost)), unproven
    return answer and replace(answer, exact=True), np.inf


def _search(relaxation: Relaxation, limit: float, below: float, max_states: int) -> tuple[Integers | None, float]:
    """Dynamic programming over the items with a choice, those of the largest cost steps first, so that what is left
    over is filled ever more finely. Returns the places of an answer below ``below``, if there is one, and the least
    bound of the states that were dropped for want of room."""
    points, first, last = relaxation.points, relaxation.first, relaxation.last
    counts = last - first + 1
    fixed = first[counts == 1]
    order = (points.cost[last] - points.cost[first]).argsort(kind="stable")[: first.size - fixed.size]
    noise, cost = points.noise[fixed].sum(keepdims=True), points.cost[fixed].sum(keepdims=True)

    groups: list[Integers] = []  # items decided together
    before: list[tuple[Integers, int]] = []  # for each group: the states' option * size + state, and that list's size
    found: tuple[int, int, int] | None = None  # the best completion: groups decided, its place as above, further steps
    unproven = np.inf
    tie = min(1e-14, 5e-13 / max(order.size, 1))
    done = 0
    while done < order.size and noise.size:
        size, start = noise.size, done
        added_noise = added_cost = np.zeros(1)
        while done == start or (done < order.size and size * added_noise.size * counts[order[done]] <= TOGETHER):
            own = slice(first[order[done]], last[order[done]] + 1)
            added_noise = (added_noise[:, None] + points.noise[own]).ravel()
            added_cost = (added_cost[:, None] + points.cost[own]).ravel()
            done += 1
        groups.append(order[start:done])
        curve, _ = relaxation._of_items(order[done:])
        parts, chunk = [], max(1, CHUNK // size)
        for offset in range(0, added_noise.size, chunk):
            new_noise = (added_noise[offset : offset + chunk, None] + noise).ravel()
            new_cost = (added_cost[offset : offset + chunk, None] + cost).ravel()
            bound, steps = curve.at(limit - new_noise)
            bound += new_cost
            completed = new_cost + curve.cost[steps]
            best = int(completed.argmin())
            if completed[best] < below * (1 - TIE):
                below, found = float(completed[best]), (len(groups), best + offset * size, int(steps[best]))
            places = (bound < below * (1 - TIE)).nonzero()[0]
            parts.append((new_noise[places], new_cost[places], bound[places], places + offset * size))
        noise, cost, bound, origin = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
        # in cost to within a share of the tie: or the same numbers, added in another order, would all stay
        kept = _front(noise, np.floor(cost / max(below * tie, TINY)))
        kept, dropped = _best(kept, bound, max_states)
        unproven = min(unproven, dropped)
        noise, cost = noise[kept], cost[kept]
        before.append((origin[kept], size))
    if found is None:
        return None, unproven
    group, place, taken = found
    chosen = first.copy()
    _, targets = relaxation._of_items(order[sum(map(len, groups[:group])) :])
    chosen[points.item[targets[:taken]]] = targets[:taken]
    for index in reversed(range(group)):
        option, state = divmod(place, before[index][1])
        chosen[groups[index]] += np.array(np.unravel_index(option, counts[groups[index]]))
        place = int(before[index - 1][0][state]) if index else 0
    return chosen, unproven


@dataclass(frozen=True, slots=True)
class PairAllocation:
    """The option chosen for each of the weights and of the crossing values, their summed bits W and X, and what they
    add up to; ``lower_bound`` and ``exact`` are the objective's, as in ``Allocation``."""

    weight_options: Integers
    crossing_options: Integers
    weight_bits: float
    crossing_bits: float
    objective: float
    noise: float
    lower_bound: float
    exact: bool


@dataclass(frozen=True, slots=True)
class Infeasible:
    """What cannot be met, even at its ``least`` value: the place of a limit, or -1 for the noise budget.

    A limit that cannot be met by itself, within the noise budget; of several the one that is overstepped by the largest
    factor. If there is none such, a limit without which the others could be met; then ``least`` is its least value
    under the others, and the limit is the one overstepped by the least factor. ``exact``: whether this is proven.
    """

    limit: int
    least: float
    exact: bool = True


def allocate_pairs(
    weight_bits: ArrayLike,
    weight_noise: ArrayLike,
    crossing_bits: ArrayLike,
    crossing_noise: ArrayLike,
    budget: float,
    *,
    prices: tuple[float, float] = (1.0, 1.0),
    limits: ArrayLike = (),
    max_states: int = MAX_STATES,
) -> PairAllocation | Infeasible:
    """The least ``prices[0] * W + prices[1] * X`` with the summed noise of both kinds within ``budget`` and every limit
    met, where W and X are the summed bits of the options chosen for the weights and for the crossing values.

    Args:
        weight_bits: As ``cost`` of ``allocate``, in bits; and so ``crossing_bits``, whose number of options may differ.
        weight_noise: As ``noise`` of ``allocate``; and so ``crossing_noise``.
        budget: As of ``allocate``.
        prices: Of a bit of W and of a bit of X (eq. 26), not negative. What costs nothing is still kept to
            the least that the rest of the answer allows.
        limits: Rows (a, b, c), each for a * W + b * X <= c with a, b >= 0: memory, deadline, energy.
        max_states: As of ``allocate``.

    >>> bits, noise = [[2, 4, 8]], [[16, 4, 0]]
    >>> answer = allocate_pairs(bits, noise, bits, noise, 20, prices=(1, 3))
    >>> answer.weight_bits, answer.crossing_bits, answer.objective
    (4.0, 2.0, 10.0)
    >>> answer = allocate_pairs(bits, noise, bits, noise, 20, prices=(1, 3), limits=[(1, 0, 3)])
    >>> answer.weight_bits, answer.crossing_bits, answer.objective
    (2.0, 4.0, 14.0)
    >>> allocate_pairs(bits, noise, bits, noise, 20, limits=[(1, 1, 6), (1, 0, 1)])
    Infeasible(limit=1, least=2.0, exact=True)
    """
    weights, crossing = Relaxation.of(weight_bits, weight_noise), Relaxation.of(crossing_bits, crossing_noise)
    rows = np.asarray(limits, dtype=np.float64).reshape(-1, 3)
    factors = np.append(rows[:, :2], prices)
    if not ((factors >= 0) & (factors < np.inf)).all() or np.isnan(rows).any():
        raise ValueError("prices and limits must be numbers; prices, and the factors of W and X, not negative")
    return _Pairs(weights, crossing, float(_limit(budget)), max_states).solve((prices[0], prices[1]), rows)


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Both kinds of items, and the most noise that they may add up to."""

    weights: Relaxation
    crossing: Relaxation
    limit: float
    max_states: int

    def solve(self, prices: tuple[float, float], limits: Floats) -> PairAllocation | Infeasible:
        caps = limits[:, 2] + SLACK * np.abs(limits[:, 2])
        joint = self._merged(prices)
        found, unseen = _solve(joint, self.limit, np.inf, self.max_states)
        if found is None:
            return Infeasible(-1, float(joint.curve.noise[0]))
        of_crossing, of_weights = np.split(found.options, [self.crossing.first.size])
        chosen = _places(self.weights.points, of_weights), _places(self.crossing.points, of_crossing)
        answer = self._answer(prices, *chosen, found.lower_bound, unseen)
        if (limits[:, :2] @ [answer.weight_bits, answer.crossing_bits] <= caps).all():
            return answer
        within, best = None, np.inf
        for room in (min(64, self.max_states), self.max_states):  # a first answer shortens the lists
            better, objective, bound, unseen = self._within(prices, limits, caps, best, room)
            if better is not None:
                within, best = better, objective
            if unseen >= best * (1 - TIE):
                break
        if within is not None:
            return self._answer(prices, *within, bound, unseen)
        binding = self._binding(limits, caps)
        return replace(binding, exact=binding.exact and unseen == np.inf)

    def _merged(self, prices: tuple[float, float]) -> Relaxation:
        """One problem, ignoring limits: the crossing values first, then the weights, at their prices."""
        x, w = (
            # what costs nothing is best at its least noise
            points if price > 0 else points.only(np.diff(points.item, prepend=-1) > 0)
            for points, price in ((self.crossing.points, prices[1]), (self.weights.points, prices[0]))
        )
        return Relaxation._of(
            _Points(
                np.concatenate([x.item, w.item + x.items]),
                np.concatenate([x.option, w.option]),
                np.concatenate([x.noise, w.noise]),
                np.concatenate([prices[1] * x.cost, prices[0] * w.cost]),
                x.items + w.items,
            )
        )

    def _answer(
        self, prices: tuple[float, float], w: Integers, x: Integers, bound: float, unseen: float
    ) -> PairAllocation:
        """From places in the points of the weights and of the crossing values, and bounds of what else there is."""
        weights, crossing = self.weights.points, self.crossing.points
        if prices[0] == 0:
            least, _ = _solve(self.weights, self.limit - crossing.noise[x].sum(), np.inf, self.max_states)
            w = w if least is None else _places(weights, least.options)
        if prices[1] == 0:
            least, _ = _solve(self.crossing, self.limit - weights.noise[w].sum(), np.inf, self.max_states)
            x = x if least is None else _places(crossing, least.options)
        weight_bits, crossing_bits = float(weights.cost[w].sum()), float(crossing.cost[x].sum())
        objective = prices[0] * weight_bits + prices[1] * crossing_bits
        return PairAllocation(
            weights.option[w],
            crossing.option[x],
            weight_bits,
            crossing_bits,
            objective,
            noise=float(weights.noise[w].sum() + crossing.noise[x].sum()),
            lower_bound=min(bound if unseen == np.inf else max(bound, unseen), objective),
            exact=unseen >= objective * (1 - TIE),
        )

    def _within(
        self, prices: tuple[float, float], limits: Floats, caps: Floats, best: float, room: int
    ) -> tuple[tuple[Integers, Integers] | None, float, float, float]:
        """Places within the limits, if there are any better than ``best``, and their objective; a lower bound of what
        is better than ``best``, and one of what was not seen for want of ``room`` (inf: nothing).

        Everything rises with W and X. So for each noise and X on the front of the crossing values, the least W within
        the rest of the noise is the best, for the objective and for every limit.
        """
        noise, bits, chosen, unseen = self._front_of_crossing(prices, limits, caps, best, room)
        rest = self.limit - noise
        most = np.full(noise.size, np.inf)  # of W
        for (a, b, _), cap in zip(limits, caps, strict=True):
            left = cap - b * bits
            most = np.minimum(most, left / a if a > 0 else np.where(left >= 0, np.inf, -1.0))
        relaxed = self.weights.curve.at(rest)[0]
        possible = (relaxed <= most).nonzero()[0]
        bounds = prices[1] * bits[possible] + prices[0] * relaxed[possible]
        lower = min(float(bounds.min(initial=np.inf)), unseen)
        found = None
        for place, bound in zip(possible[bounds.argsort()], np.sort(bounds), strict=True):
            if bound >= best * (1 - TIE):
                break
            crossing = prices[1] * float(bits[place])
            below = float(np.nextafter(most[place], np.inf))  # as much as that is allowed, also 0
            if prices[0] > 0:
                below = min(below, (best - crossing) / prices[0])
            weights, unproven = _solve(self.weights, float(rest[place]), below, self.max_states)
            if unproven < np.inf:
                unseen = min(unseen, crossing + prices[0] * unproven)
            if weights is not None:
                best, found = crossing + prices[0] * weights.cost, (weights.options, chosen[place])
        if found is None:
            return None, best, lower, unseen
        return (_places(self.weights.points, found[0]), found[1]), best, lower, unseen

    def _front_of_crossing(
        self, prices: tuple[float, float], limits: Floats, caps: Floats, best: float, room: int
    ) -> tuple[Floats, Floats, Integers, float]:
        """Noise, X and places (states, crossing values) of the choices that no other one beats in noise and in X, and
        that may meet each limit and be better than ``best``; and the least bound of those dropped for want of ``room``.
        """
        points, first, last = self.crossing.points, self.crossing.first, self.crossing.last
        noise, bits, chosen, unseen = np.zeros(1), np.zeros(1), np.empty((1, 0), dtype=np.int64), np.inf
        rows = [(float(a), float(b)) for a, b in limits[:, :2]]
        criteria = [(b, cap, self._merged((a, b))) for (a, b), cap in zip(rows, caps, strict=True)]
        objective = self._merged(prices)
        items = objective.first.size
        for depth in range(first.size):
            own = np.arange(first[depth], last[depth] + 1)
            place, state = np.divmod(np.arange(own.size * noise.size), noise.size)
            noise, bits = noise[state] + points.noise[own][place], bits[state] + points.cost[own][place]
            rest = np.arange(depth + 1, items)
            bound = prices[1] * bits + objective._of_items(rest)[0].at(self.limit - noise)[0]
            keep = bound < best * (1 - TIE)
            for price, cap, relaxation in criteria:
                keep &= price * bits + relaxation._of_items(rest)[0].at(self.limit - noise)[0] <= cap
            kept = keep.nonzero()[0]
            kept = kept[_front(noise[kept], bits[kept])]
            kept, dropped = _best(kept, bound, room)
            unseen = min(unseen, dropped)
            noise, bits = noise[kept], bits[kept]
            chosen = np.column_stack([chosen[state[kept]], own[place[kept]]])
        return noise, bits, chosen, unseen

    def _binding(self, limits: Floats, caps: Floats) -> Infeasible:
        """As ``Infeasible`` describes it."""

        def least(index: int, others: Floats) -> PairAllocation | Infeasible:
            return self.solve((float(limits[index, 0]), float(limits[index, 1])), others)

        def overstep(each: Infeasible) -> float:
            return each.least / limits[each.limit, 2] if limits[each.limit, 2] > 0 else np.inf

        met = [least(index, limits[:0]) for index in range(len(limits))]
        alone = [
            Infeasible(index, each.objective, each.exact)
            for index, each in enumerate(met)
            if isinstance(each, PairAllocation) and each.objective > caps[index]
        ]
        if alone:
            return max(alone, key=overstep)
        without = [least(index, np.delete(limits, index, axis=0)) for index in range(len(limits))]
        needed = [
            Infeasible(index, each.objective, each.exact)
            for index, each in enumerate(without)
            if isinstance(each, PairAllocation)
        ]
        # with three limits and more, several may conflict: then those without the last one do as well
        return min(needed, key=overstep) if needed else self._binding(limits[:-1], caps[:-1])


def _places(points: _Points, options: Integers) -> Integers:
    """The places of the ``options`` chosen for the items."""
    return np.asarray((points.option == options[points.item]).nonzero()[0])
