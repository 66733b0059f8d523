"""Predict the time of heads from a calibration of this machine, and measure it.

Calibrates, with floats and with 8-bit values inside, profiles networks, and for every tenth cut of one value prints the
seconds that the plan predicts for the device, those that the head takes from its input to the bytes that it sends, and
how far they are apart. Times are those of a tenth of the runs at most, in turns, on one thread.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

import qpart_fx as qpart
from benchmarks.planning.subjects import batches, part, subject
from qpart_fx.device import HeadRuntime
from qpart_fx.device.calibration import calibrate

SHARE = 11
"""Cuts of each network."""

ROUNDS, RUNS = 5, 16
"""Heads take turns so often, each with so many runs in a row."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="holds zoo.py and the data")
    parser.add_argument("--networks", nargs="+", default=["resnet20", "mobilenet_v1"])
    options = parser.parse_args()
    for inside in (None, 8):
        operators = calibrate(inside is not None, threads=1).at(1e9)
        device = qpart.Device(
            clock_hz=1e9, cycles_per_mac=0.1, activation_bits_inside=inside, operators=operators,
            activation_bits=(6, 8),
        )  # fmt: skip
        for name in options.networks:
            _network(options.directory, name, device)


def _network(directory: Path, name: str, device: qpart.Device) -> None:
    chosen = subject(directory, name)
    data = batches(part(chosen.pool, slice(0, 96)))
    widest = 16 if device.activation_bits_inside is None else 8
    profile = qpart.profile(chosen.model, data, progress=False, largest_width=widest, levels=(0.3,))
    link, server = qpart.Link(uplink_bps=1e6, downlink_bps=1e6), qpart.Server(clock_hz=1e9, cycles_per_mac=1)
    request = qpart.Request(0.3, device, server, link)
    chain = sorted(
        (cut for cut in profile.closed_cuts if len(cut.crossing) == 1 and cut.size > 1), key=lambda c: c.size
    )
    found = []
    for place in np.unique(np.linspace(0, len(chain) - 1, SHARE).astype(int)):
        cut = chain[place]
        plan = profile.plan(request, cut=cut.crossing)
        split = profile.compile(plan, calibration=data[:1])
        found.append((cut.crossing[0], plan.prices["device_time_s"], HeadRuntime(split.packed_head("onnx"), threads=1)))
    x = chosen.pool[0][:1].numpy()
    spent: list[list[float]] = [[] for _ in found]
    for _ in range(ROUNDS):
        for times, (_, _, head) in zip(spent, found, strict=True):
            for run in range(RUNS):
                start = time.perf_counter()
                head.message(x)
                if run >= RUNS // 2:  # by then the cache holds what it can, as that of a device with one head does
                    times.append(time.perf_counter() - start)
    kind = "floats" if device.activation_bits_inside is None else "integers"
    for times, (crossing, predicted, _) in zip(spent, found, strict=True):
        measured = float(np.quantile(times, 0.1))
        numbers = f"predicted {predicted * 1e3:7.3f} ms, measured {measured * 1e3:7.3f} ms"
        print(f"{name:14} {kind:9} {crossing:20} {numbers}, {predicted / measured - 1:+.1%}", flush=True)


if __name__ == "__main__":
    main()
