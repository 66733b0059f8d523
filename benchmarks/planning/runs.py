"""Plans run as a whole, on samples that did not serve to make them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import qpart_fx as qpart
from qpart_fx.lower import lower
from qpart_fx.noise import WIDTHS

from .subjects import LADDER, batches, part, profiled, request, shuffled, subject

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """One plan on one set of samples: noise on the scores, and the share of changed answers.

    ``depth``: the part of the network's MACs on the device. ``noise_error`` and ``changed_error``: standard errors.
    ``fitted``: samples that the prediction is made from, ``samples``: those measured on.
    """

    network: str
    samples_of: str
    depth: float
    level: float
    mean_bits: float
    predicted_noise: float
    noise: float
    noise_error: float
    predicted_drop: float
    changed: float
    changed_error: float
    fitted: int
    samples: int


@cache
def plan_runs(directory: Path, name: str) -> list[Run]:
    """Different plans of rising drops: all on the device, and with half and a quarter of the MACs on it."""
    made = profiled(directory, name)
    return _runs(name, made.profile, {label: images for label, (images, _) in made.subject.held.items()})


FOLDS = 4


def crossed_runs(directory: Path, name: str) -> list[Run]:
    """The same on samples the network was not trained on, where there are any: on each part of them, plans of a profile
    that the other parts made. Runs of one depth and level are put together."""
    chosen = subject(directory, name)
    images, labels = shuffled(chosen.crossed)
    places = torch.arange(len(labels)) % FOLDS
    found = defaultdict(list)
    for fold in range(FOLDS):
        data = batches(part((images, labels), places != fold))
        profile = qpart.profile(chosen.model, data, levels=LADDER, progress=False, seed=fold)
        for run in _runs(name, profile, {"crossed": images[places == fold]}):
            found[round(run.depth, 2), run.level].append(run)
    return [_together(runs) for runs in found.values()]


def _runs(name: str, profile: qpart.Profile, data: Mapping[str, Tensor]) -> list[Run]:
    total = sum(layer.macs for layer in profile.layers)
    halves = {
        min(profile.closed_cuts, key=lambda cut: abs(cut.device_macs - share * total)).crossing
        for share in (0.5,) + (0.25,) * (name != "mobilenet_v1")
    }
    found = []
    clean = {label: scores(profile.graph, images) for label, images in data.items() if len(images)}
    seen: list[tuple[Any, ...]] = []
    for cut in ("output", *sorted(halves)):
        for level in LADDER:
            try:
                plan = profile.plan(request(level, 5e9, 5e6, 1000), cut=cut)
            except qpart.InfeasibleError:  # even the widest widths lose more
                continue
            if (plan.cut, plan.resolutions, plan.activation_bits) in seen:
                continue
            seen.append((plan.cut, plan.resolutions, plan.activation_bits))
            split = lower(profile.graph, plan, profile.ranges, profile.inside, profile.rounding, profile.scorer)
            for label, before in clean.items():
                found.append(_run(name, profile, plan, label, level, before, scores(split, data[label])))
    return found


def _together(runs: list[Run]) -> Run:
    """The runs of several profiles on different samples as one, by the means over the samples."""
    counts = np.array([run.samples for run in runs])
    fields = ("mean_bits", "predicted_noise", "noise", "predicted_drop", "changed")
    means: dict[str, Any] = {
        field: float(np.average([getattr(run, field) for run in runs], weights=counts)) for field in fields
    }
    errors: dict[str, Any] = {
        field: float(np.sqrt(np.sum([(getattr(run, field) * run.samples) ** 2 for run in runs])) / counts.sum())
        for field in ("noise_error", "changed_error")
    }
    # Most of what one profile is fitted on, another is too: together they count as one.
    return replace(runs[0], **means, **errors, samples=int(counts.sum()))


def plan_noise(profile: qpart.Profile, plan: qpart.Plan) -> float:
    """What the noise tables predict for a plan: the sum over its layers and over what crosses."""
    layers = {layer.name: layer.noise_by_resolution for layer in profile.layers}
    values = {value.name: value.noise_by_width for value in profile.values}
    noise = [layers[name][resolution] for name, resolution in plan.resolutions.items()]
    return sum(noise + [values[name][bits - WIDTHS[0]] for name, bits in plan.activation_bits.items()])


def scores(model: nn.Module, images: Tensor) -> Tensor:
    """The model's output, float64, a row a sample."""
    with torch.no_grad():
        return torch.cat([model(chunk) for chunk in images.split(32)]).double()


def squared_noise(before: Tensor, after: Tensor) -> Floats:
    """Squared L2 norm of the change of each sample's scores."""
    return np.asarray((after - before).square().sum(1).numpy(), dtype=np.float64)


def mean_and_error(values: Floats) -> tuple[float, float]:
    """The mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def _run(
    name: str, profile: qpart.Profile, plan: qpart.Plan, label: str, level: float, before: Tensor, after: Tensor
) -> Run:
    noise, noise_error = mean_and_error(squared_noise(before, after))
    changed, changed_error = mean_and_error((before.argmax(1) != after.argmax(1)).double().numpy())
    parameters = sum(layer.parameters for layer in plan.layers if layer.bits)
    assert plan.predicted_drop is not None
    return Run(
        network=name,
        samples_of=label,
        depth=sum(layer.macs for layer in plan.layers if layer.bits) / sum(layer.macs for layer in plan.layers),
        level=level,
        mean_bits=8 * sum(layer.weight_bytes for layer in plan.layers) / max(1, parameters),
        predicted_noise=profile.noise_curve.measured_at(plan_noise(profile, plan)),
        noise=noise,
        noise_error=noise_error,
        predicted_drop=plan.predicted_drop,
        changed=changed,
        changed_error=changed_error,
        fitted=profile.samples,
        samples=len(before),
    )
