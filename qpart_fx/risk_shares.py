"""How much of the risk that bounds on the drop take is set aside for each plan, so that they hold for all at once.

A bound that may fail with probability r times its plan's share fails for some plan with probability r at most, if the
shares of all plans add up to 1 at most and are fixed before any held-out sample is looked at (the weighted union bound;
Occam's razor of Blumer and others, 1987): however many plans there are, and whatever makes one choose among them. Here
the profile fixes them, which is made of other samples.
"""

from __future__ import annotations

from .exact_planner import ExactPlanner, Machine
from .noise import WIDTHS
from .plan import Plan

_SLACK = 1 + 1e-6


def risk_share(planner: ExactPlanner, plan: Plan) -> float:
    """The share of ``plan``: that of its pattern among those stored, if it is one, and that of its choices at its cut.

    Half of the risk is for the patterns stored for devices of any width: as much for each of the profile's levels, and
    for the drop that is planned for below all of them; 1 / (k (k + 1)) of that for its k-th attempt, each stricter than
    the one before; as much for each pattern of an attempt. The other half is for all other plans: as
    much for each cut, and for each choice of resolutions and widths there. In hundreds of layers that is too little to
    be a number: 0.
    """
    return (_of_pattern(planner, plan) + _of_choices(planner, plan)) / 2


def attempt_share(attempt: int) -> float:
    """The share of the risk for the ``attempt``-th of a fixed sequence of plans, from 1; all of them add up to 1."""
    return 1 / (attempt * (attempt + 1))


def _of_pattern(planner: ExactPlanner, plan: Plan) -> float:
    """That of the first attempt at the plan's level which stores it."""
    profile, drop = planner.profile, planner.first_drop(plan)
    of_level = 1 / (len(profile.levels) + 1)
    attempt = 0
    # Stricter tables hold no plan that is predicted to lose more than they allow: they need not be made to know it.
    while (plan.predicted_drop or 0.0) <= profile.noise_curve.drop_at(profile.noise_curve.noise_at(drop)) * _SLACK:
        attempt += 1
        table = planner.table(Machine(WIDTHS, WIDTHS), drop)
        if planner.stores(table, plan):
            return of_level * attempt_share(attempt) / len(table.within)
        if (stricter := planner.stricter_drop(drop)) is None:
            break
        drop = stricter
    return 0.0


def _of_choices(planner: ExactPlanner, plan: Plan) -> float:
    cuts = len(planner.profile.closed_cuts) + len(planner.profile.cuts)  # those of the paper's chain may be others
    of_layers = float(len(planner.profile.rounding.resolutions)) ** -len(plan.resolutions)
    return of_layers * float(len(WIDTHS)) ** -len(plan.activation_bits) / cuts
