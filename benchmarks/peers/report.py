"""The section of the report: what other tools make of the same networks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.reporting.section import REPORT, Figure, Part, Section, Table, save_figure

RESULTS = Path(__file__).parent / "results"
BYTES = Path(__file__).parents[1] / "bytes" / "results"

NETWORKS = {"mnist": "six layers, MNIST", "resnet20": "ResNet-20, CIFAR-10", "mobilenet_v1": "MobileNetV1, ImageNet"}
TOOLS = {
    "ours": "qpart_fx",
    "nncodec": "nncodec",
    "model_compression_toolkit": "MCT",
    "nvidia-modelopt": "ModelOpt",
}
LIMITS = (0.001, 0.005, 0.01, 0.02)
_SHOWN = 0.04

Run = Mapping[str, Any]


def section(command: str, seconds: float, report: Path = REPORT) -> Section:
    """From all results that lie beside the scripts."""
    runs = {tool: found for path in ("ours.json", "peers.json") for tool, found in _read(BYTES / path).items()}
    answers = _read(RESULTS / "answers.json")
    parts: list[Part] = [_BYTES, *_bytes(runs)]
    if runs:
        parts.append(_curves(runs, report))
    if answers:
        parts += [_ANSWERS, _times(answers, runs)]
    for name, words, about in (("macs", _MACS, _macs), ("splits", _SPLITS, _splits)):
        if found := _read(RESULTS / f"{name}.json"):
            parts += [words, about(found)]
    return Section("peers", "Other tools on the same networks", command, seconds, parts)


_BYTES = """### Bytes at equal drop

The whole network on the device, everything counted: weights, scales, biases, norms, framing. The same samples to
calibrate with and to judge by for every tool; ours plans by an accuracy budget, MCT and ModelOpt take bits on average,
of which several were tried, and nncodec a step, likewise: their best is chosen on the samples that judge, ours too. MCT
with its rounding by gradients where that was run (20 minutes a budget), ModelOpt with weights of 3 to 8 bits. `+ our
coder`: their integers in our entropy coder, which they do not have."""

_ANSWERS = """### Time to an answer

Other tools answer one budget with one run. Ours profiles once, and answers every further request, whatever its device,
link and budget, from tables."""

_MACS = """### Multiply-adds

Counts and seconds, one sample. `FlopCounterMode` has nothing for the fused attention and the fused encoder layer of the
CPU; fvcore misses fused attention and counts norms; ptflops counts norms, activations and biases too. Ours captures the
graph meanwhile, and checks that it is the model."""

_SPLITS = """### A split

Head and tail of the same network, in the middle, and the largest difference between tail(head(x)) and the model.
`split_module` has to be told on which side each node is; `pipeline` before which module to cut, and it changes the
module that it is given (a copy, here). Neither looks for a cut, nor counts what crosses."""


def _bytes(runs: Mapping[str, Any]) -> Iterable[Table]:
    for network, title in NETWORKS.items():
        known = {tool: found[network]["runs"] for tool, found in runs.items() if tool in TOOLS and network in found}
        if "ours" not in known:
            continue
        for part in sorted(known["ours"][0]["judged"]):
            rows = [[label, *(_fewest(of, part, limit, size) for limit in LIMITS)] for label, of, size in _rows(known)]
            samples = known["ours"][0]["judged"][part]["samples"]
            yield Table(
                f"{title}, {samples:,} {part}: fewest bytes that lose at most so much, and what they lose",
                ("tool", *(f"{100 * limit:g} points" for limit in LIMITS)),
                rows,
            )


def _rows(known: Mapping[str, Sequence[Run]]) -> Iterable[tuple[str, Sequence[Run], str]]:
    for tool, label in TOOLS.items():
        if tool in known:
            yield label, known[tool], "bytes"
            if any("coded_bytes" in run for run in known[tool]):
                yield f"{label} + our coder", known[tool], "coded_bytes"


def _fewest(runs: Sequence[Run], part: str, limit: float, size: str) -> str:
    within = [run for run in runs if part in run["judged"] and run["judged"][part]["drop"] <= limit and size in run]
    if not within:
        return "-"
    best = min(within, key=lambda run: run[size])
    judged = best["judged"][part]
    return f"{best[size]:,} ({100 * judged['drop']:.2f} ± {100 * judged['standard_error']:.2f})"


def _curves(runs: Mapping[str, Any], report: Path) -> Figure:
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    drawing, axes = plt.subplots(1, len(NETWORKS), figsize=(12, 3.8), layout="constrained")
    for axis, (network, title) in zip(axes, NETWORKS.items(), strict=True):
        known = {tool: found[network]["runs"] for tool, found in runs.items() if tool in TOOLS and network in found}
        for colour, (label, of, size) in enumerate(_rows(known)):
            part = min(of[0]["judged"], key=lambda name: -of[0]["judged"][name]["samples"])
            points = sorted(
                (run[size] / 1e3, 100 * run["judged"][part]["drop"], 100 * run["judged"][part]["standard_error"])
                for run in _front(of, part, size)
            )
            if points:
                x, y, error = zip(*points, strict=True)
                style = "-" if label == TOOLS["ours"] else "--"
                axis.errorbar(x, y, error, fmt=f"o{style}", ms=3, lw=1.2, capsize=2, color=f"C{colour}", label=label)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("bytes of the file, kB")
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_ylim(-0.8, 100 * _SHOWN)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("points of accuracy lost")
    axes[1].legend(fontsize=7)
    title = "Points lost over bytes of the file, of settings that none of the same tool beats; bars: one standard error"
    figure = save_figure("peers-bytes", title, drawing, report)
    plt.close(drawing)
    return figure


def _front(runs: Sequence[Run], part: str, size: str) -> list[Run]:
    """Those that no other of the same tool beats in both bytes and drop."""
    kept: list[Run] = []
    for run in sorted((run for run in runs if size in run and part in run["judged"]), key=lambda run: run[size]):
        if run["judged"][part]["drop"] <= _SHOWN and all(
            run["judged"][part]["drop"] < other["judged"][part]["drop"] for other in kept
        ):
            kept.append(run)
    return kept


def _times(answers: Mapping[str, Any], runs: Mapping[str, Any]) -> Table:
    rows = []
    for network, ours in answers.items():
        for tool in ("model_compression_toolkit", "nvidia-modelopt"):
            others = [run["seconds"] for run in runs.get(tool, {}).get(network, {}).get("runs", [])]
            if others:
                rows.append(
                    [NETWORKS[network], TOOLS[tool], f"{min(others):.1f} to {max(others):.1f}",
                     f"{ours['profile_s']:.1f}", f"{1e3 * ours['first_plan_s']:.0f}",
                     f"{1e3 * ours['further_plan_s']:.2f}", f"{min(others) / ours['further_plan_s']:,.0f}"]
                )  # fmt: skip
    names = ("network", "tool", "its answer, s", "our profile, s", "our first plan, ms", "a further one, ms", "faster")
    return Table("Processor time of one core; faster: a further plan than the tool's quickest answer", names, rows)


def _macs(found: Mapping[str, Any]) -> Table:
    tools = [*next(iter(found.values()))]
    rows = [[network, *(_counted(each[tool]) for tool in tools)] for network, each in found.items()]
    return Table("Millions of multiply-adds, and seconds to count them", ("network", *tools), rows)


def _counted(run: Run) -> str:
    return run["error"].split(":")[0] if "error" in run else f"{run['macs'] / 1e6:,.3f} in {run['seconds']:.2f}"


def _splits(found: Mapping[str, Any]) -> Table:
    tools = [*next(iter(found.values()))]

    def cell(run: Run) -> str:
        return run["error"].split(":")[0] if "error" in run else f"{run['seconds']:.2f} ({run['difference']:.0e})"

    rows = [[network, *(cell(each[tool]) for tool in tools)] for network, each in found.items()]
    return Table("Seconds to a split, and the largest difference from the model's output", ("network", *tools), rows)


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found
