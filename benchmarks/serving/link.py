"""Whether plans keep what they promise on a real link: their latencies beside what calls take, and what becomes of a
device whose link slows down, or speeds up, in the middle of its calls.

    python -m benchmarks.serving.link [DIRECTORY] [--network NAME ...] [--slower N] [--keep FOLDER] [--json FILE]

DIRECTORY holds ``zoo.py`` and the data, see ``python -m benchmarks.planning``; without it, a small network of random
weights. Needs root, ``ip`` and ``tc``: the server and the device are processes in network namespaces of their own, the
link between them is shaped by the kernel. Both are this machine, each with one thread; the device makes each message N
times, and is N times as slow. What they take is measured as users measure it: `qpart calibrate-device`, `qpart
calibrate-server`, and the client's own meter for the link. Nothing else should run meanwhile.

1. At 2, 20 and 100 Mbit/s: a client measures the link, and a plan is made for what it measured. What that plan
   predicts, without the download's share, beside the mean of calls: head, packing, upload, tail, answer.
2. From 50 to 1 Mbit/s, and back, twice: how many calls go by until another plan is asked for, and until the last one is
   in use; and the mean call from then on, beside that of the best fixed plan of all that are made for any rate. The
   second time ("known") the server has made these plans before, and the device's cache has their heads; the first time
   a head may have to be made, and come over the link.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import qpart_fx as qpart
from benchmarks.planning.report import print_table
from qpart_fx.device_calibration import calibrate_device
from qpart_fx.serving.calibration import calibrate_server
from tests.shaped_link import ShapedLink, why_not

from .__main__ import zoo_of

RATES = (2e6, 20e6, 100e6)
ALL_RATES = (1e6, 2e6, 5e6, 10e6, 20e6, 50e6, 100e6)
FAST, SLOW = 50e6, 1e6
WARM, FIXED = 12, 8
"""Calls that measure a link, and calls with each fixed plan."""

STREAM = 60
"""Calls after the rate has changed."""

ALLOWED, OF_BEST, WITHIN = 0.15, 1.2, 3


@dataclass(frozen=True)
class Subject:
    """A network's profile, and what calls are made with."""

    name: str
    profile: qpart.Profile
    inputs: Tensor


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving.link", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("directory", type=Path, nargs="?", help="holds zoo.py and the data")
    parser.add_argument("--network", action="append", help="mobilenet_v1 or resnet20 (default: the former)")
    parser.add_argument("--slower", type=int, default=8, help="the device than this machine (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=30, help="at each rate (default: %(default)s)")
    parser.add_argument("--keep", type=Path, help="a folder for profiles and calibrations, which are used again")
    parser.add_argument("--json", type=Path, help="write the figures into this file as well")
    options = parser.parse_args()
    if (reason := why_not()) is not None:
        raise SystemExit(f"skipped: {reason}")
    torch.set_num_threads(1)
    figures = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for name in options.network or ["mobilenet_v1"]:
            subject = subject_of(folder, options.directory, name)
            figures[subject.name] = measure(subject, folder, options.slower, options.calls)
            show(subject.name, figures[subject.name])
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1))


def measure(subject: Subject, folder: Path, slower: int, calls: int) -> dict[str, Any]:
    """All figures of one network."""
    request = request_of(subject, folder, slower)
    with playing(subject, slower) as (link, device, cache):
        return {
            "slower": slower,
            "latency": [latency(link, device, cache, request, bps, calls) for bps in RATES],
            "switch": switches(link, device, cache, request),
        }


def latency(
    link: ShapedLink, device: Device, cache: Path, request: qpart.Request, bps: float, calls: int
) -> dict[str, Any]:
    """What is predicted and measured at one rate."""
    link.bps = bps
    told = over(request, {"uplink_bps": bps, "downlink_bps": bps})
    device.ask("open", request=told, replanning=True, cache=str(cache))
    device.ask("call", times=WARM)
    measured = device.ask("link")
    plan = device.ask("open", request=over(told, measured), replanning=False, cache=str(cache))
    device.ask("call", times=3)
    made = device.ask("call", times=calls)
    prices = plan["prices"]
    return {
        "bps": bps,
        "link": measured,
        "cut": plan["cut"],
        "upload_bytes": plan["upload_bytes"],
        "sent_bytes": mean(each["sent_bytes"] for each in made),
        "prices": {name: value for name, value in prices.items() if name.endswith("_s")},
        "predicted_s": plan["time_s"] - prices["download_time_s"],
        "measured_s": mean(each["seconds"] for each in made),
        "spent": {name: mean(each["spent"].get(name, 0.0) for each in made) for name in ("head", "link", "server")},
        "median_s": median(each["seconds"] for each in made),
        "from_server": sum(each["source"] == "server" for each in made),
        "calls": calls,
    }


def switches(link: ShapedLink, device: Device, cache: Path, request: qpart.Request) -> list[dict[str, Any]]:
    """The link slows, and becomes fast again."""
    fixed = fixed_plans(link, device, cache, request)
    link.bps = FAST
    both = {"uplink_bps": FAST, "downlink_bps": FAST}
    found = []
    device.ask("open", request=over(request, both), replanning=True, cache=str(cache))
    device.ask("call", times=WARM)
    for known, before, after in ((False, FAST, SLOW), (False, SLOW, FAST), (True, FAST, SLOW), (True, SLOW, FAST)):
        link.bps = after
        made = device.ask("call", times=STREAM)
        first = made[0]["plan_id"]
        asked = next((place for place, each in enumerate(made, 1) if each["asked"]), None)
        changed = next((place for place, each in enumerate(made) if each["plan_id"] != first), None)
        last = made[-1]["plan_id"]
        settled = next(place for place in range(STREAM) if all(each["plan_id"] == last for each in made[place:]))
        best = min(fixed, key=lambda plan: plan["seconds"][after])
        found.append(
            {
                "known": known, "from_bps": before, "to_bps": after, "asked_after": asked, "changed_after": changed,
                "settled_after": settled, "calls_s": [each["seconds"] for each in made],
                "mean_s": mean(each["seconds"] for each in made[settled:]), "best_fixed_s": best["seconds"][after],
                "best_fixed_cut": best["cut"], "link": device.ask("link"),
                "fixed": [{"cut": plan["cut"], "s": plan["seconds"][after]} for plan in fixed],
            }
        )  # fmt: skip
    return found


def fixed_plans(link: ShapedLink, device: Device, cache: Path, request: qpart.Request) -> list[dict[str, Any]]:
    """Each plan that is made for any rate, and the mean call with it at the two rates. All their heads are in the cache
    then."""
    link.bps = max(ALL_RATES)
    plans: dict[str, dict[str, Any]] = {}
    for bps in ALL_RATES:
        asked = over(request, {"uplink_bps": bps, "downlink_bps": bps})
        plan = device.ask("open", request=asked, replanning=False, cache=str(cache))
        plan_id = device.ask("call", times=1)[0]["plan_id"]
        plans.setdefault(plan_id, {"cut": plan["cut"], "request": asked, "seconds": {}})
    for plan in plans.values():
        for bps in (FAST, SLOW):
            device.ask("open", request=plan["request"], replanning=False, cache=str(cache))
            link.bps = bps
            device.ask("call", times=1)
            plan["seconds"][bps] = mean(each["seconds"] for each in device.ask("call", times=FIXED))
            link.bps = max(ALL_RATES)
    return list(plans.values())


def show(name: str, figures: Mapping[str, Any]) -> None:
    rows = [
        [
            f"{each['bps'] / 1e6:g}", ", ".join(each["cut"]), f"{each['link']['uplink_bps'] / 1e6:.3g}",
            f"{each['sent_bytes']:,.0f}",
            *(f"{part * 1e3:.1f} / {each['spent'][name] * 1e3:.1f}" for name, part in predicted(each).items()),
            f"{each['predicted_s'] * 1e3:.1f}", f"{each['measured_s'] * 1e3:.1f}",
            verdict(abs(each["measured_s"] / each["predicted_s"] - 1) <= ALLOWED,
                    f"{each['measured_s'] / each['predicted_s'] - 1:+.1%}"),
        ]
        for each in figures["latency"]
    ]  # fmt: skip
    names = [
        "Mbit/s",
        "cut",
        "as measured",
        "bytes sent",
        "head",
        "link",
        "server",
        "predicted, ms",
        "measured, ms",
        "off",
    ]
    print_table(f"{name}, a device {figures['slower']} times as slow as this machine", names, rows)
    rows = [
        [
            f"{each['from_bps'] / 1e6:g} to {each['to_bps'] / 1e6:g}", "yes" if each["known"] else "no",
            "never" if each["asked_after"] is None
            else verdict(each["asked_after"] <= WITHIN, str(each["asked_after"])),
            str(each["settled_after"]), f"{each['mean_s'] * 1e3:.1f}",
            f"{each['best_fixed_s'] * 1e3:.1f} ({', '.join(each['best_fixed_cut'])})",
            verdict(each["mean_s"] <= OF_BEST * each["best_fixed_s"], f"{each['mean_s'] / each['best_fixed_s']:.2f}"),
        ]
        for each in figures["switch"]
    ]  # fmt: skip
    names = ["Mbit/s", "known", "asked after calls", "settled after", "mean, ms", "best fixed plan, ms", "ratio"]
    print_table("The rate changes", names, rows)


def predicted(figures: Mapping[str, Any]) -> dict[str, float]:
    """The seconds that a plan predicts, by the parts that are measured."""
    prices = figures["prices"]
    link = prices["upload_time_s"] + prices["round_trip_s"]
    return {"head": prices["device_time_s"], "link": link, "server": prices["server_time_s"]}


def verdict(kept: bool, words: str) -> str:
    return words if kept else f"{words} MISSED"


def request_of(subject: Subject, folder: Path, slower: int) -> qpart.Request:
    """For this machine on both sides, the device so many times as slow; time is all that counts."""
    device_file, server_file = folder / "device.json", folder / f"server_{subject.name}.json"
    if not device_file.exists():
        device_file.write_text(calibrate_device(threads=1).device.to_json())
    if not server_file.exists():
        server_file.write_text(calibrate_server(subject.profile, threads=1).server.to_json())
    device = qpart.Device.from_json(device_file.read_text())
    server = qpart.Server.from_json(server_file.read_text())
    return qpart.Request(
        0.02, replace(device, clock_hz=device.clock_hz / slower, runtime="onnx"), server, qpart.Link(1e6, 1e6),
        objective=qpart.Objective(energy=0, cost=0), inferences_per_download=10**6,
    )  # fmt: skip


def over(request: qpart.Request, measured: Mapping[str, Any]) -> qpart.Request:
    """The request on the link that was measured."""
    known = {name: value for name, value in measured.items() if value is not None}
    return replace(request, link=replace(request.link, **known))


def subject_of(folder: Path, directory: Path | None, name: str) -> Subject:
    if directory is None:
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.Flatten()]
        inputs = torch.randn(256, 3, 32, 32)
        name, model = "small", nn.Sequential(*layers, nn.Linear(16 * 49, 10)).eval()
    else:
        zoo = zoo_of(directory)
        model, inputs = zoo.model(name), zoo.photos(160)[0] if name == "mobilenet_v1" else zoo.cifar10("train")[0][:600]
    path = folder / f"{name}.qpart"
    if not path.exists():
        qpart.profile(model, [inputs[32:]], progress=False).save(path)
    known = qpart.load(path)
    assert isinstance(known, qpart.Profile)
    return Subject(name, known, inputs[:32])


class Device:
    """The device's process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, do: str, **what: Any) -> Any:
        """What it answers to an order."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        what = {
            name: json.loads(value.to_json()) if isinstance(value, qpart.Request) else value
            for name, value in what.items()
        }
        print(json.dumps({"do": do, **what}), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the device's process has ended: see above")
        return json.loads(line)


@contextmanager
def playing(subject: Subject, slower: int) -> Iterator[tuple[ShapedLink, Device, Path]]:
    """A link, with a server and a device at its ends; and the folder of the device's cache."""
    with tempfile.TemporaryDirectory() as scratch, ShapedLink(max(ALL_RATES)) as link:
        folder = Path(scratch)
        (folder / "catalog").mkdir()
        subject.profile.save(folder / "catalog" / "net.qpart")
        np.savez(folder / "inputs.npz", x=subject.inputs.numpy())
        python = [sys.executable, "-m"]
        serve = [*python, "qpart_fx", "serve", str(folder / "catalog"), "--host", link.address, "--threads", "1"]
        server = subprocess.Popen([*link.inside("server"), *serve], stderr=subprocess.PIPE, text=True)
        device = None
        try:
            assert server.stderr is not None
            port = next(json.loads(line)["port"] for line in server.stderr if '"event": "serving"' in line)
            target = f"{link.address}:{port}"
            play = [*python, "benchmarks.serving.link_device", target, "net", str(folder / "inputs.npz"), str(slower)]
            device = subprocess.Popen(
                [*link.inside("device"), *play], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            yield link, Device(device), folder / "heads"
        finally:
            for process in (device, server):
                if process is not None:
                    process.kill()
                    process.communicate()


if __name__ == "__main__":
    main()
