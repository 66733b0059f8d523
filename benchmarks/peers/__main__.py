"""See the package."""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

import benchmarks.peers
from benchmarks.bytes.peers import main as bytes_of_tools
from benchmarks.planning.report import print_table
from benchmarks.reporting.section import REPORT, Table, read_sections, this_machine

from .answers import answer
from .macs import count
from .report import RESULTS, section
from .splits import split

TOPICS = ("bytes", "macs", "splits")
_TOOLS = {"modelopt": "nvidia-modelopt", "fvcore": "fvcore", "ptflops": "ptflops"}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=benchmarks.peers.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", type=Path, nargs="?", help="holds zoo.py and the data")
    parser.add_argument("--only", action="append", choices=TOPICS, help="leave the others out; may be repeated")
    parser.add_argument("--measured", action="store_true", help="measure nothing: compare what was measured before")
    options = parser.parse_args()
    if options.directory is not None and not (options.directory / "zoo.py").is_file():
        parser.error(f"{options.directory} holds no zoo.py: name the folder of the networks and data, or none at all")
    if options.measured:
        before = next((each for each in read_sections(REPORT) if each.name == "peers"), None)
        _publish(before.seconds if before else 0.0, before.machine if before else "")
        return
    if missing := [package for module, package in _TOOLS.items() if find_spec(module) is None]:
        parser.error(
            f"{', '.join(missing)} not installed: run it by `make peers`, which makes an environment of its own"
        )
    import_module("tests.coverage.operators")  # before tools: what torchvision lacks beside another build of torch
    warnings.simplefilter("ignore")  # the tools' own
    torch.set_num_threads(1)  # processor times are compared
    start = perf_counter()
    for topic in options.only or TOPICS:
        print(f"\n{topic}", flush=True)
        if topic == "bytes":
            _bytes(options.directory)
        else:
            _write(topic, (count if topic == "macs" else split)(options.directory))
    _publish(perf_counter() - start, this_machine())


def _publish(seconds: float, machine: str) -> None:
    made = replace(section("make peers ARGS=DIRECTORY", seconds), machine=machine)
    made.publish()
    for part in made.parts:
        if isinstance(part, Table):
            print_table(part.title, part.names, part.rows)


def _bytes(directory: Path | None) -> None:
    """ModelOpt's, and the time to an answer."""
    if directory is None:
        print("left out: bytes are of the real networks, which lie in DIRECTORY")
        return
    _write("answers", answer(directory))
    settings = ["--only", "nvidia-modelopt", "--bits", "3.5", "4", "4.5", "5", "6", "--images", "256"]
    bytes_of_tools([str(directory), *settings, "--networks", "resnet20", "mnist"])


def _write(topic: str, found: Any) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{topic}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
