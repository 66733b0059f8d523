"""Bytes of whole networks over what they lose: ours; ``benchmarks.bytes.peers`` measures those of other tools.

    python -m benchmarks.bytes DIRECTORY [--networks NAME ...] [--samples N]

DIRECTORY is that of ``python -m benchmarks.planning``, as are the networks, the samples to calibrate with and those to
judge on. The whole network is on the device: bytes are those of the file that it downloads, all counted, and the answer
goes back at 16 bits. Plans are made for drops along a ladder, and every second one in its middle is tuned as well;
what they lose is measured on the samples held.

Prints a line a plan and writes results/ours.json beside this file; ``python -m benchmarks.peers --measured`` puts that
beside the other tools.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from time import process_time, time
from typing import Any

import numpy as np
import torch

import qpart_fx as qpart
from benchmarks.planning.report import write_results
from benchmarks.planning.subjects import Subject, batches, request, subject

from .judging import Judge, summary

NETWORKS = ("mnist", "resnet20", "mobilenet_v1")
RESULTS = Path(__file__).parent / "results"
LEVELS = tuple(float(drop) for drop in np.geomspace(0.001, 0.3, 22))
TUNED = LEVELS[6:19:2]
"""Those whose plans are tuned as well."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bytes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", type=Path, help="holds zoo.py and the data")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS, help="only these")
    parser.add_argument("--samples", type=int, default=1024, help="to profile with, at most (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)  # processor times are compared
    for network in options.networks:
        chosen = subject(options.directory, network)
        print(f"\n{network}", flush=True)
        runs = []
        for run in ours(chosen, options.samples):
            off = run["bytes"] / run["predicted_bytes"] - 1
            how = ", tuned" if run["tuned"] else ""
            print(f"  {run['bytes']:,} bytes ({off:+.2%} of the plan's){how}; {summary(run['judged'])}", flush=True)
            runs.append(run)
        write_results(RESULTS / "ours.json", "ours", {network: {"samples": options.samples, "runs": runs}})


def ours(chosen: Subject, samples: int) -> Iterator[dict[str, Any]]:
    """A plan for each of ``LEVELS``, with all on the device."""
    judge = Judge(chosen)
    began, clock = process_time(), time()
    profile = qpart.profile(
        chosen.model, batches(chosen.calibration_data), levels=LEVELS, max_samples=samples, progress=False
    )
    profiled = process_time() - began, time() - clock
    for drop, tune in ((drop, tune) for drop in LEVELS for tune in (False, True) if not tune or drop in TUNED):
        began, clock = process_time(), time()
        try:
            plan = profile.plan(request(drop, 1e12, 1e6, 1), cut="output")
        except qpart.InfeasibleError:
            continue
        split = profile.compile(plan, calibration=batches(chosen.calibration_data)[:1], tune=tune, progress=False)
        packed = split.packed_head()
        yield {
            "level": drop,
            "tuned": tune,
            "bytes": len(packed),
            "predicted_bytes": plan.download_bytes,
            "predicted_drop": plan.predicted_drop,
            "weight_bits": dict(plan.weight_bits),
            "seconds": process_time() - began,
            "wall_seconds": time() - clock,
            "profile_seconds": profiled[0],
            "profile_wall_seconds": profiled[1],
            "judged": judge(split),
        }


if __name__ == "__main__":
    main()
