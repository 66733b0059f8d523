"""Bytes of whole networks over what they lose: ours, and those of the peers that ``benchmarks.bytes.peers`` measured.

    python -m benchmarks.bytes DIRECTORY [--networks NAME ...] [--samples N] [--measured]

DIRECTORY is that of ``python -m benchmarks.planning``, as are the networks, the samples to calibrate with and those to
judge on. The whole network is on the device: bytes are those of the file that it downloads, all counted, and the answer
goes back at 16 bits. Plans are made for drops along a ladder, and every second one in its middle is tuned as well;
what they lose is measured on the samples held.

Prints a line a plan, then for each limit on the drop the fewest bytes that kept it, of each tool; writes
results/ours.json beside this file, and the picture of the curves in docs/.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from time import process_time, time
from typing import Any

import numpy as np
import torch

import qpart_fx as qpart
from benchmarks.planning.report import print_table, write_results
from benchmarks.planning.subjects import Subject, batches, request, subject

from .judging import Judge, summary

NETWORKS = ("mnist", "resnet20", "mobilenet_v1")
RESULTS = Path(__file__).parent / "results"
PICTURE = Path(__file__).parents[2] / "docs" / "bytes.png"
LIMITS = (0.001, 0.005, 0.01, 0.02, 0.03)
ROWS = {
    "ours": ("ours", "bytes"),
    "nncodec": ("nncodec", "bytes"),
    "model_compression_toolkit": ("model_compression_toolkit", "bytes"),
    "model_compression_toolkit + our coder": ("model_compression_toolkit", "coded_bytes"),
}
"""Whose runs, and which of their sizes, are in a row of the table."""

_SHOWN = 0.05
"""Drops above this are not in the picture."""

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
    parser.add_argument("--measured", action="store_true", help="measure nothing: compare what was measured before")
    options = parser.parse_args()
    if options.measured:
        compare()
        return
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
    compare()


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


def compare() -> None:
    """Print the fewest bytes within each limit, of each tool, by network and part."""
    tools = {**_read(RESULTS / "ours.json"), **_read(RESULTS / "peers.json")}
    for network in tools.get("ours", {}):
        parts = sorted(tools["ours"][network]["runs"][0]["judged"])
        for part in parts:
            rows = []
            for row, (tool, size) in ROWS.items():
                runs = tools.get(tool, {}).get(network, {}).get("runs", [])
                rows.append([row, *(_fewest(runs, part, limit, size) for limit in LIMITS)])
            print_table(f"{network}, {part}: fewest bytes that lose at most", ["", *map(_percent, LIMITS)], rows)
    plot(tools, PICTURE)


def plot(tools: dict[str, Any], path: Path) -> None:
    """Bytes over the drop, a panel a network, judged on what the networks were not trained on where there is such."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    networks = list(tools.get("ours", {}))
    figure, axes = pyplot.subplots(1, len(networks), figsize=(5 * len(networks), 4.3), squeeze=False)
    for axis, network in zip(axes[0], networks, strict=True):
        part = "same source"
        for row, (tool, size) in {"ours": ROWS["ours"], "ours, tuned": ROWS["ours"], **ROWS}.items():
            runs = tools.get(tool, {}).get(network, {}).get("runs", [])
            runs = [run for run in runs if run.get("tuned", False) == row.endswith(", tuned")]
            judged = [(run["judged"][part], run[size]) for run in runs if part in run["judged"]]
            points = [(found, at) for found, at in judged if found["drop"] < _SHOWN]
            drop = [100 * found["drop"] for found, _ in points]
            error = [100 * found["standard_error"] for found, _ in points]
            style = "o-" if tool == "ours" else "."
            axis.errorbar([at for _, at in points], drop, yerr=error, fmt=style, label=row, markersize=4, lw=1)
        axis.set(title=network, xlabel="bytes of the file", xscale="log", ylim=(-0.5, 100 * _SHOWN))
        axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(ticker.EngFormatter())
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
        axis.axhline(1, color="grey", lw=0.5)
        axis.grid(alpha=0.3, which="both")
    axes[0][0].set_ylabel("accuracy drop, points (same source)")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="lower center", ncols=len(ROWS) + 1)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, dpi=110)


def _fewest(runs: list[dict[str, Any]], part: str, limit: float, size: str) -> str:
    sizes = [run[size] for run in runs if part in run["judged"] and run["judged"][part]["drop"] <= limit]
    return f"{min(sizes):,}" if sizes else "-"


def _percent(drop: float) -> str:
    return f"{100 * drop:g} points"


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


if __name__ == "__main__":
    main()
