"""The drop that plans are predicted to cost beside the share of answers that they change, on other samples.

A network is surer of the images that it was trained on than of others. So the ratio to go by is that of ``crossed``
samples: of one source, which served to calibrate and to judge in turn, never both at once.
"""

from __future__ import annotations

from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from .report import print_table
from .runs import Run, crossed_runs, plan_runs

LEAST, MOST = 0.003, 0.05


def disagreement(directory: Path, networks: tuple[str, ...] = ("mnist", "resnet20", "mobilenet_v1")) -> dict[str, Any]:
    """Every plan predicted to change between 0.3 % and 5 % of the answers, and each network in sum."""
    runs = [
        run
        for name in networks
        for run in (*crossed_runs(directory, name), *plan_runs(directory, name))
        if 0.9 * LEAST <= run.predicted_drop <= 1.1 * MOST
    ]
    runs.sort(key=lambda run: (run.network, run.samples_of, run.depth, run.level))
    print_table(
        "Predicted drop, and the share of answers that changed on other samples (± a standard error)",
        ("network", "measured on", "MACs on device", "level", "predicted", "changed", "ratio", "samples"),
        [
            [run.network, run.samples_of, f"{run.depth:.0%}", f"{run.level:.1%}", f"{run.predicted_drop:.2%}",
             f"{run.changed:.2%} ± {run.changed_error:.2%}",
             f"{run.changed / run.predicted_drop:.2f} ± {_error(run) / run.predicted_drop:.2f}", str(run.samples)]
            for run in runs
        ],
    )  # fmt: skip
    groups = [
        (*key, _summary(list(members))) for key, members in groupby(runs, lambda run: (run.network, run.samples_of))
    ]
    print_table(
        "Changed over predicted, in sum; the answers of a network's plans change on the same samples",
        ("network", "measured on", "plans", "ratio of means", "least", "most", "within 2 errors",
         "within a factor 1.5", "off by more, and not by chance"),
        [
            [name, label, str(each["plans"]), f"{each['ratio']:.2f}", f"{each['least']:.2f}", f"{each['most']:.2f}",
             f"{each['within']:.0%}", f"{each['within_a_half']:.0%}", f"{each['surely_off']:.0%}"]
            for name, label, each in groups
        ],
    )  # fmt: skip
    return {
        network: {
            "plans": [asdict(run) for run in runs if run.network == network],
            "summary": {label: each for name, label, each in groups if name == network},
        }
        for network in networks
    }


def _error(run: Run) -> float:
    """The standard error of changed less predicted, if the prediction is right but for the samples that it is made of;
    these at their most."""
    return float(np.sqrt(run.predicted_drop * (1 - run.predicted_drop) * (1 / run.samples + 1 / run.fitted)))


def _summary(runs: list[Run]) -> dict[str, float]:
    predicted, changed, error = np.array([(run.predicted_drop, run.changed, _error(run)) for run in runs]).T
    return {
        "plans": len(runs),
        "ratio": float(changed.sum() / predicted.sum()),
        "least": float((changed / predicted).min()),
        "most": float((changed / predicted).max()),
        "within_a_half": float(((changed < 1.5 * predicted) & (changed > predicted / 1.5)).mean()),
        "surely_off": float(((changed - 2 * error > 1.5 * predicted) | (changed + 2 * error < predicted / 1.5)).mean()),
        "within": float((np.abs(changed - predicted) <= 2 * error).mean()),
    }
