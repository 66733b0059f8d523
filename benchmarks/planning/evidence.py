"""Whether plans keep what is said of them: many random splits of the data into parts to fit, to prove and to judge.

The bound on the drop of a plan may be below the true drop in 5 % of the cases. The true drop is unknown; three things
stand for it:

- the judge part's drop, as it is: its own error makes it exceed a right bound now and then;
- the judge part's drop less 1.645 of its standard errors;
- the drop on proof and judge part together, taken as the whole world. The proof part is a random draw from that world,
  made without replacement, for which a bound made for independent draws holds as well. No sampling error is left, and
  5 % is allowed strictly. This is the one to go by.

``Plan.table_drop_upper_bound`` is for all plans of a profile at once: it fails on a split if any plan of it breaks its
own, and may in 5 % of the splits.

Cases of one split share their data: standard errors of shares are those of the mean over splits.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import qpart_fx as qpart

from .report import print_table
from .subjects import Subject, batches, part, request, subject

BUDGETS = (0.005, 0.01, 0.02, 0.05)

CASES = {"mnist": 360, "resnet20": 128, "mobilenet_v1": 32}
"""For each network, by how long it takes."""

_SIGMAS = 1.645


@dataclass(frozen=True)
class Case:
    """One compiled request. Drops are fractions; ``world``: of proof and judge part together;
    ``table_bound``: that for all plans at once."""

    split: int
    labelled: bool
    cut: str
    budget: float
    predicted: float
    proof: float
    bound: float
    table_bound: float
    judge: float
    judge_error: float
    world: float


def evidence(directory: Path, networks: tuple[str, ...] = tuple(CASES), cases: int | None = None) -> dict[str, Any]:
    """Shares of the cases in which a bound or a budget did not hold; of ``CASES`` if no number of them is given."""
    rows, result = [], {}
    for name in networks:
        chosen = subject(directory, name)
        found, refused = run_cases(chosen, CASES[name] if cases is None else cases)
        result[name] = {"refused": refused, "cases": [asdict(case) for case in found]}
        for labelled in (True, False):
            kind = [case for case in found if case.labelled == labelled]
            if not kind:
                continue
            shares = {
                "judge above bound": _share(kind, [case.judge > case.bound for case in kind]),
                "beyond judge's error": _share(
                    kind, [case.judge - _SIGMAS * case.judge_error > case.bound for case in kind]
                ),
                "world above bound": _share(kind, [case.world > case.bound for case in kind]),
                "judge above table bound": _share_of_splits(kind, [case.judge > case.table_bound for case in kind]),
                "world above table bound": _share_of_splits(kind, [case.world > case.table_bound for case in kind]),
                "judge above budget": _share(kind, [case.judge > case.budget for case in kind]),
                "world above budget": _share(kind, [case.world > case.budget for case in kind]),
            }
            judge, predicted, bound, of_all = np.mean(
                [(case.judge, case.predicted, case.bound, case.table_bound) for case in kind], axis=0
            ).tolist()
            kind_name = "accuracy" if labelled else "agreement"
            means = {"predicted": predicted, "judge": judge, "bound": bound, "table bound": of_all}
            result[name][kind_name] = {**shares, **{f"mean {what}": mean for what, mean in means.items()}}
            rows.append(
                [name, kind_name, str(len(kind)), str(len({c.split for c in kind})),
                 "5 %", *(f"{share:.1%} ± {error:.1%}" for share, error in shares.values()),
                 *(f"{mean:.2%}" for mean in means.values())]
            )  # fmt: skip
        print(f"{name}: {refused} of {len(found) + refused} requests were refused")
    print_table(
        "Share of cases in which it did not hold (± a standard error; 0 of n says no more than below 3 / n)",
        ("network", "drop of", "cases", "splits", "allowed", "judge > bound", "beyond its error", "world > bound",
         "judge > table bound (splits)", "world > table bound (splits)", "judge > budget", "world > budget",
         "mean predicted", "mean judge", "mean bound", "mean table bound"),
        rows,
    )  # fmt: skip
    return result


def run_cases(chosen: Subject, cases: int) -> tuple[list[Case], int]:
    """Compile for every budget on each random split, with labels and without in turn; also how many were refused."""
    found: list[Case] = []
    refused = 0
    images, labels = chosen.pool
    for number in range(-(-cases // len(BUDGETS))):
        labelled = number % 2 == 0
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1 + number))
        size = min(512, chosen.calibration)
        calibration, judge = (
            [(x, y if labelled else None) for x, y in batches(part((images, labels), which))]
            for which in (order[:size], order[size : size + chosen.judged])
        )
        profile = qpart.profile(chosen.model, calibration, progress=False, seed=number)
        for place, budget in enumerate(BUDGETS):
            cut = "output" if (number // 2 + place) % 2 == 0 else None
            try:
                split = profile.compile(request(budget, 5e9, 5e6, 10_000), cut=cut)
            except qpart.InfeasibleError:
                refused += 1
                continue
            found.append(_case(split, judge, number, labelled, budget))
    return found, refused


def _case(split: qpart.SplitModel, judge: list[Any], number: int, labelled: bool, budget: float) -> Case:
    plan, seen = split.plan, split.verify(judge)
    assert plan is not None
    assert seen.lost is not None
    assert seen.gained is not None
    assert plan.samples is not None
    assert plan.measured_drop is not None
    assert plan.drop_upper_bound is not None
    assert plan.table_drop_upper_bound is not None
    return Case(
        split=number,
        labelled=labelled,
        cut=", ".join(plan.cut),
        budget=budget,
        predicted=plan.predicted_drop or 0.0,
        proof=plan.measured_drop,
        bound=plan.drop_upper_bound,
        table_bound=plan.table_drop_upper_bound,
        judge=seen.drop,
        judge_error=float(np.sqrt(((seen.lost + seen.gained) / seen.samples - seen.drop**2) / seen.samples)),
        world=(plan.measured_drop * plan.samples + seen.drop * seen.samples) / (plan.samples + seen.samples),
    )


def _share_of_splits(cases: list[Case], holds: list[bool]) -> tuple[float, float]:
    """The share of splits with any True."""
    some = {case.split: False for case in cases}
    for case, each in zip(cases, holds, strict=True):
        some[case.split] |= each
    share = float(np.mean([*some.values()]))
    return share, float(np.sqrt(share * (1 - share) / len(some)))


def _share(cases: list[Case], holds: list[bool]) -> tuple[float, float]:
    """The share of True, and its standard error as the mean over splits."""
    splits = sorted({case.split for case in cases})
    means = [np.mean([each for case, each in zip(cases, holds, strict=True) if case.split == one]) for one in splits]
    error = float(np.std(means, ddof=1) / np.sqrt(len(means))) if len(means) > 1 else float("nan")
    return float(np.mean(holds)), error
