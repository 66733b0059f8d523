"""What the noise table costs, and how right it is on other samples: layer by layer, and for whole plans."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qpart_fx.calibration import Batch
from qpart_fx.meta import info
from qpart_fx.noise import WIDTHS
from qpart_fx.quantized import rounded_weights
from qpart_fx.replay import Replay

from .report import print_table
from .runs import plan_runs, squared_noise
from .subjects import TIMED, Profiled, part, profiled

Floats = NDArray[np.float64]

BITS = (4, 5, 6, 8)

_SAMPLES = {"resnet20": 256, "mobilenet_v1": 48}
"""Samples that each layer's noise is measured on."""


def sensitivity(directory: Path, networks: tuple[str, ...] = ("resnet20", "mobilenet_v1")) -> dict[str, Any]:
    """Time of the passes over that of a forward pass; predicted noise beside measured."""
    times, layers, plans, result = [], [], [], {}
    for name in networks:
        made = profiled(directory, name)
        ratio = {each: seconds / made.seconds["forward"] for each, seconds in made.seconds.items()}
        samples = made.profile.samples
        numbers = [made.seconds["forward"], *(ratio[each] for each in TIMED), ratio["profile"]]
        times.append([name, str(samples), f"{numbers[0]:.2f} s", *(f"{number:.1f}" for number in numbers[1:])])
        rows = _layers(made)
        layers += [
            [name, str(row["bits"]), *(f"{row[key]:.2f}" for key in ("median", "worst")), row["layer"],
             f"{row['standard_error']:.0%}", str(row["samples"])]
            for row in rows
        ]  # fmt: skip
        whole = [run for run in plan_runs(directory, name) if run.depth == 1]
        plans += [
            [name, run.samples_of, f"{run.level:.1%}", f"{run.mean_bits:.2f}", f"{run.predicted_noise:.3g}",
             f"{run.noise:.3g} ± {run.noise_error:.1g}", f"{run.noise / run.predicted_noise:.2f}", str(run.samples)]
            for run in whole
        ]  # fmt: skip
        result[name] = {
            "samples": samples, "seconds": dict(made.seconds), "of_a_forward_pass": ratio,
            "layers": rows, "plans": [asdict(run) for run in whole],
        }  # fmt: skip
    print_table(
        "Processor time of the passes, in forward passes over the samples that they were given",
        ("network", "samples", "forward", *TIMED, "profile"),
        times,
    )
    print_table(
        "Noise of single layers, measured on other samples: by what factor the prediction is off (1 is right), and the "
        "median standard error of what was measured",
        ("network", "bits", "median", "worst", "its layer", "error", "samples"),
        layers,
    )
    print_table(
        "Noise of whole plans, all layers on the device",
        ("network", "measured on", "level", "bits", "predicted", "measured", "ratio", "samples"),
        plans,
    )
    return result


def _layers(made: Profiled) -> list[dict[str, Any]]:
    """For each width, how far predictions for single layers are from what other samples show."""
    profile, count = made.profile, _SAMPLES.get(made.subject.name, 256)
    data = part(next(data for data in made.subject.held.values() if len(data[1])), slice(0, count))
    weights = {node.name: tuple(info(node).weights) for node in profile.graph.graph.nodes}
    noise: list[Floats] = []
    for chunk in data[0].split(16):
        replay = Replay(profile.graph, Batch((chunk,), {}, None, len(chunk)))
        noise.append(np.zeros((len(profile.layers), len(BITS), len(chunk))))
        for row, layer in enumerate(profile.layers):
            for column, bits in enumerate(BITS):
                with rounded_weights(profile.graph, weights[layer.name], bits, profile.rounding):
                    noise[-1][row, column] = squared_noise(replay.output, replay.from_node(layer.name))
    measured = np.concatenate(noise, axis=2)
    error = measured.std(axis=2, ddof=1) / np.sqrt(measured.shape[2]) / measured.mean(axis=2)
    predicted = np.array([layer.noise_by_width for layer in profile.layers])[:, np.array(BITS) - WIDTHS[0]]
    factor = np.exp(np.abs(np.log(predicted / measured.mean(axis=2))))
    return [
        {
            "bits": bits,
            "median": float(np.median(factor[:, column])),
            "worst": float(factor[:, column].max()),
            "layer": profile.layers[int(factor[:, column].argmax())].name,
            "standard_error": float(np.median(error[:, column])),
            "samples": measured.shape[2],
        }
        for column, bits in enumerate(BITS)
    ]
