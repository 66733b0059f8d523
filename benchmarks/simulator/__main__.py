"""A few hundred devices on one server, under one policy after the other, on the same course of events.

    python -m benchmarks.simulator [--requests N] [--devices N] [--seed N]

Needs no data: networks of random weights, so that answers are not looked at. Devices are of four speeds, at several
distances; half of them have a network like GoogLeNet's, half one like DenseNet's.
"""

from __future__ import annotations

import argparse
from time import perf_counter

import numpy as np
import torch

import qpart_fx as qpart
from benchmarks.planning.report import print_table
from benchmarks.planning.subjects import BRANCHING

from .channel import Radio
from .execution import Planned, Policy, Unoptimised
from .simulation import Device, ServerOfMany, simulate

MODELS = ("GoogLeNet-like", "DenseNet-like")
SAMPLES = 64
SPEEDS_HZ = (0.05e9, 0.5e9, 5e9, 50e9)
GAINS = (1e-13, 1e-12, 1e-11, 1e-10)
"""Of mean rates of some 4 to 14 Mbit/s."""

CALLS_PER_S = 3.0
"""Of a device: two hundred of them keep the server busy for two thirds of the time, if it does everything."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simulator", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=100_000, help="(default: %(default)s)")
    parser.add_argument("--devices", type=int, default=200, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    profiles = {name: profile(name, options.seed) for name in MODELS}
    policies: dict[str, Policy] = {
        "ours": Planned(profiles),
        "the paper's": Planned(profiles, method="paper"),
        "no optimisation": Unoptimised(profiles),
        "all on the server": Planned(profiles, cut="input"),
        "all on the device": Planned(profiles, cut="output"),
    }
    devices = fleet(options.devices, options.seed)
    server = ServerOfMany(qpart.Server(clock_hz=3e9, cycles_per_mac=1.25, price_per_s=1.0))
    rows = []
    for name, policy in policies.items():
        began = perf_counter()
        found = simulate(devices, server, policy, requests=options.requests, seed=options.seed).summary()
        rows.append(
            [name, f"{found['refused']:.1%}", *(f"{1e3 * found[each]:.3g}" for each in ("time_s", "slowest_s")),
             f"{1e3 * found['waited_s']:.3g}", f"{1e3 * found['energy_j']:.3g}", f"{1e3 * found['cost']:.3g}",
             f"{perf_counter() - began:.1f}"]
        )  # fmt: skip
    names = ("policy", "refused", "mean ms", "99 % ms", "waiting ms", "mJ", "cost / 1000", "seconds to simulate")
    print_table(f"{options.requests:,} requests of {options.devices} devices", names, rows)


def profile(name: str, seed: int) -> qpart.Profile:
    """That of a network of random weights, whose answers are right by definition."""
    make, inputs = BRANCHING[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, x = make().eval(), inputs(SAMPLES)
    with torch.no_grad():
        labels = model(x).argmax(1)
    return qpart.profile(model, [(x, labels)], progress=False)


def fleet(count: int, seed: int) -> list[Device]:
    """So many devices of all kinds."""
    generator = np.random.default_rng(seed)
    return [
        Device(
            model=MODELS[place % len(MODELS)],
            device=qpart.Device(clock_hz=float(generator.choice(SPEEDS_HZ)), cycles_per_mac=1.0, kappa=1e-29),
            radio=Radio(float(generator.choice(GAINS)), bandwidth_hz=1e6),
            calls_per_s=CALLS_PER_S,
        )
        for place in range(count)
    ]


if __name__ == "__main__":
    main()
