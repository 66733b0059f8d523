"""Bytes of whole networks, and what they lose, by three tools of others: nncodec, Sony's model_compression_toolkit, and
NVIDIA's ModelOpt.

    python -m venv ../peers && CFLAGS=-O1 ../peers/bin/pip install -r benchmarks/bytes/peers.txt
    OMP_NUM_THREADS=1 ../peers/bin/python -m benchmarks.bytes.peers DIRECTORY [--only TOOL] [--networks NAME ...]

To be run from the top of the repository. The second line is for an environment of the tools' own, outside the
repository: they are no dependencies of the project. DIRECTORY is that of ``python -m benchmarks.planning``, as are the
networks, the samples to calibrate with and the samples to judge on, which no tool sees. ModelOpt, which wants another
numpy, is in the environment of ``make peers``; tools that are not installed are left out.

Prints a line a setting and writes results/peers.json beside this file; earlier runs stay there until made again.
Bytes are of everything that a device that has the graph needs: weights, scales, biases, norms and framing; only nncodec
has an entropy coder, and ``coded_bytes`` are what the networks of the others take with ours. Activations stay in float.
Seconds are processor time of one core; nncodec's are those of the one setting, and do not tell how many have to be
tried to meet an accuracy. It sees no data except in settings "by data": those use the calibration samples.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.planning.report import write_results
from benchmarks.planning.subjects import Subject, subject

from .integers import Rounded
from .judging import Judge, summary

WEIGHED_BY = ("every image", "32 images", "nothing")
NETWORKS = ("mnist", "resnet20", "mobilenet_v1")
RESULTS = Path(__file__).parent / "results" / "peers.json"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bytes.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", type=Path, help="holds zoo.py and the data")
    parser.add_argument("--only", choices=TOOLS, help="leave the other tools out")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS, help="only these")
    parser.add_argument("--settings", nargs="+", help="only those of nncodec, by name")
    parser.add_argument("--bits", nargs="+", type=float, default=(4.0, 3.5, 3.0, 2.5), help="of a weight, on average")
    parser.add_argument("--images", type=int, default=1024, help="to calibrate with, at most (default: %(default)s)")
    parser.add_argument("--epochs", nargs="+", type=int, default=(0, 50), help="of rounding by gradients; 0: nearest")
    parser.add_argument("--batch", type=int, default=32, help="images a step of them (default: %(default)s)")
    parser.add_argument("--weighed-by", choices=WEIGHED_BY, default=WEIGHED_BY[0], help="the rest takes less time")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the JSON file (default: beside this script)")
    parser.add_argument("--codes", type=Path, help="a folder for the integers and scales that come out of the toolkit")
    options = parser.parse_args(arguments)
    if find_spec("torchvision") is not None:
        import_module("tests.coverage.operators")  # before tools: what it lacks beside another build of torch
    torch.set_num_threads(1)  # processor times are compared
    installed = {each.metadata["Name"].lower().replace("-", "_") for each in distributions()}
    tools = [options.only] if options.only else [name for name in TOOLS if name.replace("-", "_") in installed]
    write_results(options.results, "versions", {name: version(name) for name in (*tools, "torch")})
    for tool in tools:
        for network in options.networks:
            chosen = subject(options.directory, network)
            print(f"\n{tool}, {network}", flush=True)
            found: dict[str, Any] = {
                "float_bytes": float_bytes(chosen),
                "runs": runs_before(options.results, tool, network),
            }
            for run in TOOLS[tool](chosen, options):
                found["runs"] = [*(old for old in found["runs"] if key(old) != key(run)), run]
                name = ", ".join(str(run[field]) for field in ("setting", "parameter", "bits") if field in run)
                print(f"  {name}: {run['bytes']:,} bytes; {summary(run['judged'])}; {run['seconds']:.1f} s", flush=True)
                write_results(options.results, tool, {network: found})  # at once: a run may be cut short


def nncodec(chosen: Subject, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from .coded import code, settings

    judge = Judge(chosen, everything=True)
    for setting in settings(chosen.name):
        if options.settings and setting.name not in options.settings:
            continue
        runs = code(chosen, setting)
        while True:
            with quiet():
                coded = next(runs, None)
            if coded is None:
                break
            yield {
                "setting": setting.name,
                "parameter": coded.parameter,
                "options": dict(setting.options),
                "tuned_by_data": {setting.tuned: setting.images} if setting.tuned else {},
                "bytes": len(coded.bitstream),
                "seconds": coded.seconds,
                "decode_seconds": coded.decode_seconds,
                "judged": judge(coded.model),
            }


def toolkit(chosen: Subject, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from .rounded import Learning, rounded

    judge = Judge(chosen)
    for epochs in options.epochs:
        learning = Learning(epochs, options.batch, options.weighed_by) if epochs else None
        for bits in options.bits:
            with quiet():
                found = rounded(chosen, bits, learning, options.images)
            if options.codes:
                options.codes.mkdir(parents=True, exist_ok=True)
                found.save(options.codes / f"{chosen.name}-{bits:g}-bits-{epochs}-epochs.npz")
            yield {
                "setting": f"{epochs} epochs of rounding by gradients" if epochs else "nearest",
                "bits": bits,
                **(asdict(learning) if learning else {}),
                **record_of(found),
                "judged": judge(found.model),
            }


def modelopt(chosen: Subject, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from .modelopt import rounded

    judge = Judge(chosen)
    for bits in options.bits:
        with quiet():
            found = rounded(chosen, bits, options.images)
        yield {"setting": "auto_quantize", "bits": bits, **record_of(found), "judged": judge(found.model)}


def record_of(found: Rounded) -> dict[str, Any]:
    """What of a quantized network is written down."""
    names = ("images", "layer_bits", "bytes", "weight_bytes", "coded_bytes", "seconds")
    return {name: getattr(found, name) for name in names}


TOOLS = {"nncodec": nncodec, "model_compression_toolkit": toolkit, "nvidia-modelopt": modelopt}


def key(run: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells a run from the others of its tool and network."""
    return tuple(run.get(field) for field in ("setting", "parameter", "bits", "images"))


def runs_before(path: Path, tool: str, network: str) -> list[dict[str, Any]]:
    known = json.loads(path.read_text()) if path.exists() else {}
    runs: list[dict[str, Any]] = known.get(tool, {}).get(network, {}).get("runs", [])
    return runs


def float_bytes(chosen: Subject) -> int:
    """Four for every value of the network, without the batches that its norms have counted."""
    values: int = sum(tensor.numel() for tensor in chosen.model.state_dict().values() if tensor.is_floating_point())
    return 4 * values


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the tools' own words from the table, those of programs that they start too, unless they fail."""
    sys.stdout.flush()
    kept = [(stream, os.dup(stream)) for stream in (1, 2)]
    with tempfile.TemporaryFile("w+") as words:
        for stream, _ in kept:
            os.dup2(words.fileno(), stream)
        failed = True
        try:
            yield
            failed = False
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for stream, copy in kept:
                os.dup2(copy, stream)
                os.close(copy)
            if failed:
                words.seek(0)
                print(words.read()[-10_000:], file=sys.stderr)


if __name__ == "__main__":
    main()
