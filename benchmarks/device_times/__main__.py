"""Predict the time of heads from a calibration of this machine, and measure it.

Calibrates, with floats and with 8-bit values inside, profiles networks, and for every tenth cut of one value prints the
seconds that the plan predicts for the device, those that the head takes from its input to the bytes that it sends, and
how far they are apart. Both are measured as on a device, in processes without torch, which change how fast memory is.
Times are medians of runs with pauses between them, as calls come, in turns, on one thread.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import qpart_fx as qpart
from benchmarks.planning.subjects import batches, part, subject

SHARE = 11
"""Cuts of each network."""

MEASURE = """
import json, sys, time
import numpy as np
from qpart_fx.device import HeadRuntime

x, rounds, runs = np.load(sys.argv[1]), 5, 16
heads = [HeadRuntime.load(path, threads=1) for path in sys.argv[2:]]
spent = [[] for _ in heads]
for _ in range(rounds):
    for times, head in zip(spent, heads):
        for run in range(runs):
            time.sleep(0.03)  # as calls come, and not one after the other from warm caches
            start = time.perf_counter()
            head.message(x)
            if run:  # the first comes after another head
                times.append(time.perf_counter() - start)
assert "torch" not in sys.modules
print(json.dumps([float(np.median(times)) for times in spent]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="holds zoo.py and the data")
    parser.add_argument("--networks", nargs="+", default=["resnet20", "mobilenet_v1"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for inside in ([], ["--integers"]):
            file = Path(folder) / "device.json"
            command = ["calibrate-device", "--threads", "1", "-o", str(file), *inside]
            subprocess.run([sys.executable, "-m", "qpart_fx", *command], check=True, stdout=subprocess.DEVNULL)
            device = qpart.Device.from_json(file.read_text())
            for name in options.networks:
                _network(options.directory, name, device, Path(folder))


def _network(directory: Path, name: str, device: qpart.Device, folder: Path) -> None:
    chosen = subject(directory, name)
    data = batches(part(chosen.pool, slice(0, 96)))
    widest = 16 if device.activation_bits_inside is None else 8
    profile = qpart.profile(chosen.model, data, progress=False, largest_width=widest, levels=(0.3,))
    link, server = qpart.Link(uplink_bps=1e6, downlink_bps=1e6), qpart.Server(clock_hz=1e9, cycles_per_mac=1)
    request = qpart.Request(0.3, device, server, link)
    chain = [cut for cut in profile.closed_cuts if len(cut.crossing) == 1 and cut.size > 1]
    chain.sort(key=lambda cut: cut.size)
    plans, paths = [], []
    for place in np.unique(np.linspace(0, len(chain) - 1, SHARE).astype(int)):
        plans.append(profile.plan(request, cut=chain[place].crossing))
        paths.append(folder / f"{place}.head")
        paths[-1].write_bytes(profile.compile(plans[-1], calibration=data[:1]).packed_head("onnx"))
    np.save(folder / "x.npy", chosen.pool[0][:1].numpy())
    command: list[str | Path] = [sys.executable, "-c", MEASURE, folder / "x.npy", *paths]
    times = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    kind = "floats" if device.activation_bits_inside is None else "integers"
    for plan, measured in zip(plans, times, strict=True):
        predicted = plan.prices["device_time_s"]
        numbers = f"predicted {predicted * 1e3:7.3f} ms, measured {measured * 1e3:7.3f} ms"
        print(f"{name:14} {kind:9} {plan.cut[0]:20} {numbers}, {predicted / measured - 1:+.1%}", flush=True)


if __name__ == "__main__":
    main()
