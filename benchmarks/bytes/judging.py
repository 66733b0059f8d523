"""What a compressed network loses against the float one, on samples that it was not made with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.paper.datasets import Data
from benchmarks.planning.subjects import Subject, part


class Judge:
    """Compares with a subject's float network, whose outputs are computed once.

    ``everything``: also judge on all of the pool where nothing else is held, for tools that see no data.
    """

    def __init__(self, subject: Subject, *, everything: bool = False) -> None:
        self._held: dict[str, Data] = dict(subject.held)
        if everything and not subject.others:
            self._held["all of the source"] = subject.pool
            del self._held["same source"]  # a part of it: run once, counted below
        self._part = slice(subject.calibration, subject.calibration + subject.judged)
        self._float = {name: scores(subject.model, data[0]) for name, data in self._held.items()}

    def __call__(self, model: nn.Module) -> dict[str, dict[str, Any]]:
        found = {}
        for name, (inputs, labels) in self._held.items():
            got = scores(model, inputs)
            found[name] = compare(self._float[name], got, labels)
            if name == "all of the source":
                rest = (part((tensor, labels), self._part) for tensor in (self._float[name], got))
                (before, some), (after, _) = rest
                found["same source"] = compare(before, after, some)
        return found


def scores(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(batch) for batch in inputs.split(64)])


def compare(before: Tensor, after: Tensor, labels: Tensor) -> dict[str, Any]:
    """``drop`` is (lost - gained) / samples, ``standard_error`` its own; answers are paired, so that it is small.

    ``noise``: the power of the change of the scores over the power of the scores, each less its mean over classes.
    """
    was, now = before.argmax(1) == labels, after.argmax(1) == labels
    samples, lost, gained = len(labels), int((was & ~now).sum()), int((~was & now).sum())
    drop = (lost - gained) / samples
    centred = before - before.mean(1, keepdim=True)
    change = after - before
    change = change - change.mean(1, keepdim=True)
    return {
        "samples": samples,
        "float_accuracy": float(was.double().mean()),
        "accuracy": float(now.double().mean()),
        "lost": lost,
        "gained": gained,
        "drop": drop,
        "standard_error": math.sqrt(max((lost + gained) / samples - drop**2, 0.0) / samples),
        "changed": int((before.argmax(1) != after.argmax(1)).sum()),
        "noise": float(change.pow(2).sum() / centred.pow(2).sum()),
    }


def summary(judged: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for people."""
    return "; ".join(
        f"{name}: drop {100 * found['drop']:.2f} +- {100 * found['standard_error']:.2f} points of {found['samples']:,}"
        for name, found in judged.items()
    )
