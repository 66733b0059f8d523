"""Calls a second of a server, beside a bare one and beside the tail alone, and how long calls last under load.

    python -m benchmarks.serving [DIRECTORY] [--seconds S] [--rounds N]

DIRECTORY holds ``zoo.py`` and the data, see ``python -m benchmarks.planning``; without it, only what needs none.

1. Of a small network, whose tail is next to no work: calls of ``Infer`` a second of ``qpart serve``, beside those of a
   bare server of grpc.aio that gets the same bytes and answers with as many; with the processor time of the server's
   process for each.
2. Of mobilenet_v1, cut in the middle: beside calls a second of the tail in a loop in a process of its own.
3. Of both: the 99th percentile of how long calls last when they come at random, at 80 % of what was reached, over the
   median.

All run as processes of this machine and take turns; the callers are a process of grpc.aio, too.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn

import qpart_fx as qpart
from benchmarks.planning.report import print_table

from .callers import Target, closed_loop, open_loop

CALLERS = 64
LOAD = 0.8


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, nargs="?", help="holds zoo.py and the data")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="in which all take turns (default: %(default)s)")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        rows.append(of_small(Path(folder), options.seconds, options.rounds))
        if options.directory is not None:
            zoo = zoo_of(options.directory)
            rows.append(of_network(Path(folder), zoo, options.seconds, options.rounds))
    names = ["", "calls/s", "of the limit", "CPU a call", "of the limit's", "median", "99 %", "99 % / median"]
    print_table(f"Serving ({CALLERS} callers; latencies at {LOAD:.0%} load)", names, rows)


def of_small(folder: Path, seconds: float, rounds: int) -> list[str]:
    """Beside an echo."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)).eval()
    case = Case.made(folder, "small", model, torch.randn(256, 64), cut=None)
    with ours(case, max_batch=64) as server, started("echo", str(case.answer_bytes)) as echo:
        found: dict[str, list[Any]] = {"echo": [], "ours": []}
        for _ in range(rounds):
            for name, target in (("echo", echo), ("ours", server)):
                found[name].append(asyncio.run(closed_loop(target, case.message, callers=CALLERS, seconds=seconds)))
        per_s = median(each.per_s for each in found["ours"])
        share = median(one.per_s / other.per_s for one, other in zip(found["ours"], found["echo"], strict=True))
        cpu, of_limit = (median(each.processor_s for each in found[name]) for name in ("ours", "echo"))
        took = asyncio.run(open_loop(server, case.message, per_s=LOAD * per_s, seconds=2 * seconds, seed=0))
    return [
        f"negligible tail, beside an echo of {len(case.message)} bytes", f"{per_s:.0f}", f"{share:.0%}",
        f"{cpu * 1e6:.0f} us", f"{cpu / of_limit:.2f}", *latencies(took),
    ]  # fmt: skip


def of_network(folder: Path, zoo: Any, seconds: float, rounds: int) -> list[str]:
    """Beside the tail in a loop."""
    case = Case.made(folder, "mobilenet_v1", zoo.model("mobilenet_v1"), zoo.photos()[0][:24], cut="middle")
    per_s, limit = [], []
    with ours(case, max_batch=16) as server:
        for _ in range(rounds):
            limit.append(loop(case, seconds)["per_s"])
            found = asyncio.run(closed_loop(server, case.message, callers=16, seconds=seconds))
            per_s.append(found.per_s)
        rate = median(per_s)
        took = asyncio.run(open_loop(server, case.message, per_s=LOAD * rate, seconds=4 * seconds, seed=0))
    share = median(one / other for one, other in zip(per_s, limit, strict=True))
    return [
        "mobilenet_v1's second half, beside it in a loop", f"{rate:.1f}", f"{share:.0%}", "", "",
        *latencies(took),
    ]  # fmt: skip


def latencies(took: list[float]) -> list[str]:
    middle, most = median(took), quantiles(took, n=100)[98]
    return [f"{middle * 1e3:.2f} ms", f"{most * 1e3:.2f} ms", f"{most / middle:.2f}"]


class Case:
    """A profile and a plan as files, and a message of the plan's head."""

    def __init__(self, folder: Path, name: str, profile: qpart.Profile, plan: qpart.Plan, inputs: Tensor) -> None:
        self.catalog, self.name = folder / name, name
        self.catalog.mkdir()
        self.profile, self.plan = self.catalog / f"{name}.qpart", folder / f"{name}.json"
        profile.save(self.profile)
        plan.save(self.plan)
        split = profile.compile(replace(plan, by_cut=()), progress=False)
        with torch.no_grad():
            self.message = split.pack_activation(split.head(inputs[:1]))
            output = split(inputs[:1])
        self.message_file = folder / f"{name}.message"
        self.message_file.write_bytes(self.message)
        self.answer_bytes = 4 * output.numel() + 20

    @classmethod
    def made(cls, folder: Path, name: str, model: nn.Module, inputs: Tensor, *, cut: str | None) -> Case:
        profile = qpart.profile(model, [inputs], progress=False, max_samples=len(inputs))
        request = qpart.Request(
            0.5, qpart.Device(1e9, 1.0, activation_bits=(8,)), qpart.Server(3e9, 1.0), qpart.Link(1e7, 1e7)
        )
        places = [place for place in profile.closed_cuts if len(place.crossing) == 1]
        half = sum(layer.macs for layer in profile.layers) / 2
        plans = [profile.plan(request, cut=place.crossing) for place in places[1:-1]]
        on_device = [sum(layer.macs for layer in plan.layers if layer.bits is not None) for plan in plans]
        best = min(range(len(plans)), key=lambda place: abs(on_device[place] - half)) if cut else 0
        return cls(folder, name, profile, plans[best], inputs)


@contextmanager
def ours(case: Case, max_batch: int) -> Iterator[Target]:
    with started("ours", str(case.catalog), case.name, str(case.plan), str(max_batch)) as target:
        yield target


@contextmanager
def started(module: str, *arguments: str) -> Iterator[Target]:
    """A server as a process."""
    command = [sys.executable, "-m", f"benchmarks.serving.{module}", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            yield Target(process.pid, said["port"], said["plan"])
        finally:
            process.terminate()


def zoo_of(directory: Path) -> Any:
    """The module ``zoo``."""
    spec = importlib.util.spec_from_file_location("zoo", directory / "zoo.py")
    if spec is None or spec.loader is None:
        raise SystemExit(f"{directory} holds no zoo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def loop(case: Case, seconds: float) -> Any:
    command = [
        sys.executable, "-m", "benchmarks.serving.loop", str(case.profile), str(case.plan), str(case.message_file),
        str(seconds),
    ]  # fmt: skip
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


if __name__ == "__main__":
    main()
