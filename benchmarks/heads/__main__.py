"""Are heads and tails without PyTorch equal to PyTorch's, how often do integer kernels agree, and how quick are they.

    python -m benchmarks.heads [DIRECTORY] [--networks NAME ...]

DIRECTORY is that of ``python -m benchmarks.planning``; without it, only the networks that are trained here. Each is cut
in the middle and on the device as a whole.

Prints, for each network and cut: the relative error (L2) of the ONNX head and tail in onnxruntime's exact mode, against
PyTorch's fake-quantized halves; with 8-bit values inside, how often the device's answers are those of PyTorch's halves
and the accuracy lost against the float model, with its standard error; the processor time of the integer head as a
share of that of a float ONNX head, in turns on one thread; and of a process that only holds the head: its resident
memory, and the time from its start to the first answer. Writes results.json beside this file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor

import qpart_fx as qpart
from benchmarks.planning.report import print_table, write_results
from qpart_fx.device import HeadRuntime

from .subjects import NAMES, Data, Subject, subjects

RESULTS = Path(__file__).parent / "results.json"
REPEATS = 15

HOLD = """
import sys, time
start = time.perf_counter()
import numpy as np
from qpart_fx.device import HeadRuntime
head = HeadRuntime.load(sys.argv[1], threads=1)
given = [np.zeros([size or 1 for size in each.shape], each.dtype) for each in head.inputs]
head.message(*given)
seconds = time.perf_counter() - start
pages = int(open("/proc/self/statm").read().split()[1])
print(seconds, pages * 4096 / 1e6, "torch" in sys.modules)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.heads", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, nargs="?", help="holds zoo.py and the data")
    parser.add_argument("--networks", nargs="+", choices=NAMES, help="only these")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = options.networks or (NAMES if options.directory else NAMES[:3])
    rows = []
    for chosen in subjects(options.directory, names):
        found = measure(chosen)
        write_results(RESULTS, "heads", {chosen.name: found})
        for cut, of_cut in found.items():
            print(chosen.name, cut, json.dumps(of_cut), flush=True)
            rows.append([f"{chosen.name}, {cut}", *(_word(value) for value in of_cut.values())])
    print_table("Heads without PyTorch", ["", *of_cut], rows)


def measure(chosen: Subject) -> dict[str, Any]:
    profile = qpart.profile(
        chosen.model, batches(chosen.calibration), metric=chosen.metric, max_samples=512, largest_width=8,
        progress=False,
    )  # fmt: skip
    device = qpart.Device(1e9, 1.0, activation_bits=(16,))
    base = qpart.Request(0.02, device, qpart.Server(1e10, 1.0), qpart.Link(1e6, 1e6), inferences_per_download=1000)
    integers = replace(base, device=replace(device, activation_bits_inside=8))
    middle = min(profile.closed_cuts, key=lambda cut: abs(cut.device_macs - cut.server_macs)).crossing
    found = {}
    for name, cut in (("middle", middle), ("all", "output")):
        floats = _compiled(profile, base, cut)
        in_integers = _compiled(profile, integers, cut)
        found[name] = {
            **_errors(floats, chosen.judged[0][:64]),
            **_agreement(chosen, profile, in_integers),
            **_speed(profile, in_integers, chosen.judged[0][:1]),
            **_process(in_integers),
        }
    return found


def _compiled(profile: qpart.Profile, request: qpart.Request, cut: Any) -> qpart.SplitModel:
    """As a user has it: a plan that keeps the budget on the samples held out too, or the nearest one."""
    try:
        profile.plan(request, cut=cut)
    except qpart.InfeasibleError as error:
        if error.nearest is None:
            raise
        return profile.compile(error.nearest)
    return profile.compile(request, cut=cut)


def batches(data: Data) -> list[Data]:
    return list(zip(data[0].split(32), data[1].split(32), strict=True))


def _errors(split: qpart.SplitModel, x: Tensor) -> dict[str, float]:
    """Of the exported files, in exact mode."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        head, tail = (_session(path.read_bytes()) for path in split.export("onnx", folder))
        payload = split.head(x)
        expected = split.tail(*payload)
        crossing = head.run(None, {head.get_inputs()[0].name: x.numpy()})
        given = {each.name: value.numpy() for each, value in zip(tail.get_inputs(), payload, strict=True)}
        (output,) = tail.run(None, given)
    off = max(_relative(made, value.numpy()) for made, value in zip(crossing, payload, strict=True))
    return {"head error": off, "tail error": _relative(output, expected.numpy())}


def _relative(made: Any, expected: Any) -> float:
    return float(np.linalg.norm(made - expected) / np.linalg.norm(expected))


def _session(model: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _agreement(chosen: Subject, profile: qpart.Profile, split: qpart.SplitModel) -> dict[str, float]:
    """Answers of the device's integers, against PyTorch's halves, and against the float model."""
    device = HeadRuntime(split.packed_head("onnx"), threads=1)
    same: list[Tensor] = []
    lost: list[Tensor] = []
    with torch.no_grad():
        for x, targets in batches(chosen.judged):
            answers = split.tail(*split.unpack_activation(device.message(x.numpy()))).argmax(1)
            same.append((answers == split(x).argmax(1)).double().flatten())
            right = (profile.graph(x).argmax(1) == targets).double() - (answers == targets).double()
            lost.append(right.flatten(1).mean(dim=1) if right.dim() > 1 else right)
    drop = torch.cat(lost)
    return {
        "agree": float(torch.cat(same).mean()),
        "drop": float(drop.mean()),
        "+-": float(drop.std() / len(drop) ** 0.5),
        "predicted": float(split.plan.predicted_drop or 0.0) if split.plan else 0.0,
    }


def _speed(profile: qpart.Profile, split: qpart.SplitModel, x: Tensor) -> dict[str, float]:
    """The integer head against the same head in float ONNX, one sample at a time."""
    assert split.plan is not None
    lossless = qpart.split(profile.graph, (torch.cat([x, x]),), cut=split.plan.cut)
    runtimes = [HeadRuntime(each.packed_head("onnx"), threads=1) for each in (split, lossless)]
    times: list[list[float]] = [[], []]
    for _ in range(REPEATS):
        for runtime, seen in zip(runtimes, times, strict=True):
            runtime(x.numpy())
            began = process_time()
            for _ in range(5):
                runtime(x.numpy())
            seen.append((process_time() - began) / 5)
    of_integers, of_floats = map(median, times)
    return {"integer s": of_integers, "float s": of_floats, "times faster": of_floats / of_integers}


def _process(split: qpart.SplitModel) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "head.qpart"
        size = path.write_bytes(split.packed_head("onnx"))
        runs = []
        for _ in range(3):
            run = subprocess.run([sys.executable, "-c", HOLD, str(path)], capture_output=True, text=True, check=True)
            seconds, megabytes, torch_there = run.stdout.split()
            assert torch_there == "False"
            runs.append((float(seconds), float(megabytes)))
    seconds, megabytes = (median(each) for each in zip(*runs, strict=True))
    return {"first answer s": seconds, "resident MB": megabytes, "file bytes": float(size)}


def _word(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    main()
