"""Some hundred devices on one server, under one policy after the other, on the same course of events.

    python -m benchmarks.simulator [--requests N] [--devices N] [--seed N]

Needs no data: its networks are trained on scikit-learn's digits. Devices are of four speeds, at several distances, and
have budgets of their own; half of them have a network like GoogLeNet, half a small transformer.
"""

from __future__ import annotations

import argparse
from time import perf_counter

import numpy as np
import torch

import qpart_fx as qpart
from benchmarks.grid.networks import network
from benchmarks.planning.report import print_table
from benchmarks.reporting.section import Section, Table

from .channel import Radio
from .execution import Planned, Policy, Unoptimised
from .simulation import Device, ServerOfMany, simulate

MODELS = ("GoogLeNet-like", "transformer")
SPEEDS_HZ = (0.05e9, 0.5e9, 5e9, 50e9)
GAINS = (1e-13, 1e-12, 1e-11, 1e-10)
"""Of mean rates of some 4 to 14 Mbit/s."""
BUDGETS = (0.005, 0.01, 0.05)

CALLS_PER_S = 3.0
"""Of a device: two hundred of them keep the server busy for two thirds of the time, if it does everything."""

SERVER = ServerOfMany(qpart.Server(clock_hz=3e9, cycles_per_mac=1.25, price_per_s=1.0))

COLUMNS = ("policy", "refused", "mean ms", "99 % ms", "waiting ms", "mJ", "cost / 1000", "right", "simulated in s")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simulator", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=100_000, help="(default: %(default)s)")
    parser.add_argument("--devices", type=int, default=200, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.requests < 1 or options.devices < 1:
        parser.error("there have to be a request and a device at least")
    torch.set_num_threads(1)  # operators are small
    start = perf_counter()
    rows = simulated(options.requests, options.devices, options.seed)
    title = f"{options.requests:,} requests of {options.devices} devices"
    print_table(title, COLUMNS, rows)
    table = Table(title, COLUMNS, rows)
    Section(
        "simulator", "Many devices on one server", _command(options), perf_counter() - start, [_WORDS, table]
    ).publish()


_WORDS = (
    "Requests arrive as they like (Poisson), a device does one inference at a time, and the server one tail: others "
    "wait. Links fade by Rayleigh, anew every 50 ms, both ways; heads are downloaded by the first request that needs "
    "them. Every policy meets the same arrivals, gains and samples. `right` is the share of right answers, of samples "
    "that no policy has seen."
)


def simulated(requests: int, devices: int, seed: int) -> list[list[str]]:
    """A row of cells for each policy."""
    networks = {name: network(name, None) for name in MODELS}
    profiles = {name: each.profile for name, each in networks.items()}
    judged = {name: each.judged for name, each in networks.items()}
    policies: dict[str, Policy] = {
        "ours": Planned(profiles, judged=judged),
        "QPART, as in the paper": Planned(profiles, method="paper", judged=judged),
        "no optimisation": Unoptimised(profiles, judged),
        "all on the server": Planned(profiles, cut="input", judged=judged),
        "all on the device": Planned(profiles, cut="output", judged=judged),
    }
    everyone, rows = fleet(devices, seed), []
    for name, policy in policies.items():
        for place, each in enumerate(everyone):  # patterns, and the answers of plans, are made once, before any request
            policy.work(each.model, each.request(SERVER.server, seed + place))
        began = perf_counter()
        found = simulate(everyone, SERVER, policy, requests=requests, seed=seed).summary()
        rows.append(
            [name, f"{found['refused']:.1%}", *(f"{1e3 * found[each]:.3g}" for each in ("time_s", "slowest_s")),
             f"{1e3 * found['waited_s']:.3g}", f"{1e3 * found['energy_j']:.3g}", f"{1e3 * found['cost']:.3g}",
             f"{found['accuracy']:.2%}", f"{perf_counter() - began:.1f}"]
        )  # fmt: skip
    return rows


def fleet(count: int, seed: int) -> list[Device]:
    """So many devices of all kinds."""
    generator = np.random.default_rng(seed)
    return [
        Device(
            model=MODELS[place % len(MODELS)],
            device=qpart.Device(clock_hz=float(generator.choice(SPEEDS_HZ)), cycles_per_mac=1.0, kappa=1e-29),
            radio=Radio(float(generator.choice(GAINS)), bandwidth_hz=1e6),
            calls_per_s=CALLS_PER_S,
            max_accuracy_drop=float(generator.choice(BUDGETS)),
        )
        for place in range(count)
    ]


def _command(options: argparse.Namespace) -> str:
    return f"python -m benchmarks.simulator --requests {options.requests} --devices {options.devices}"


if __name__ == "__main__":
    main()
