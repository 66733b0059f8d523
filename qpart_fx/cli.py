"""The command ``qpart``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from . import __version__, container
from .errors import ArtifactError, MissingDependencyError, QPartError
from .plan import Plan


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``qpart`` with ``arguments``, by default the process's own; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        _COMMANDS[options.command](options)
    except QPartError as error:
        print(f"qpart: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader, `head` for example, has seen enough
        sys.stderr.close()
    except KeyboardInterrupt:
        print("qpart: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="qpart",
        description="Cut a trained PyTorch network in two: a quantized head for a device, a float tail for a server.",
        epilog='Errors go to standard error with status 1. The library is used from Python: see `help("qpart_fx")`.',
    )
    parser.add_argument("--version", action="version", version=f"qpart {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="train a small network and compile it for three devices",
        description="Train a small residual network on bundled handwritten digits (seconds), profile it once, compile "
        "it for three devices, print each plan beside the accuracy and bytes measured, leave all files in DIRECTORY.",
    )
    demo.add_argument("--directory", type=Path, default=Path("demo"), help="where files go (default: %(default)s)")
    demo.add_argument(
        "--seed", type=int, default=0, help="seed of the data's order and the training (default: %(default)s)"
    )
    demo.add_argument("--no-plots", action="store_true", help="leave out the plots, which need matplotlib")
    show = commands.add_parser(
        "show",
        help="print a plan, or the plan in a saved split model",
        description="Print the plan in FILE as a table: a plan.json, or a split model that was saved with its plan.",
    )
    show.add_argument("file", type=Path, metavar="FILE")
    show.add_argument("--plot", type=Path, metavar="PNG", help="draw it into this file as well")
    bench = commands.add_parser(
        "bench",
        help="time a saved split, or a device's head, on this machine",
        description="Time the parts of the split in FILE, and its head on a device's runtime, beside the whole model, "
        "and say how many bytes they make. Of a head's file, what a device does with it; that needs no torch. Times "
        "are medians of many runs, in which all take turns.",
    )
    bench.add_argument("file", type=Path, metavar="FILE")
    bench.add_argument("--batch", type=int, default=1, help="samples of a call (default: %(default)s)")
    bench.add_argument("--repeats", type=int, default=50, help="runs of each (default: %(default)s)")
    bench.add_argument("--threads", type=int, help="that a call may use (default: as many as there are cores)")
    bench.add_argument("--json", type=Path, metavar="JSON", help="write it into this file as well")
    calibrate = commands.add_parser(
        "calibrate-device",
        help="measure this machine, and write it down as the device of a request",
        description="Run blocks of networks on onnxruntime, as heads run, and fit what each kind of operator takes for "
        "a MAC, a byte and a call. Half a minute; needs no torch. qpart_fx.Device.from_json reads FILE, and plans for "
        "that device then know how long its heads take.",
    )
    calibrate.add_argument("-o", "--output", type=Path, default=Path("device.json"), metavar="FILE",
                           help="where to write it (default: %(default)s)")  # fmt: skip
    calibrate.add_argument(
        "--integers", action="store_true", help="with 8-bit values inside (activation_bits_inside=8)"
    )
    calibrate.add_argument("--threads", type=int, help="that a head may use (default: as many as there are cores)")
    calibrate.add_argument("--clock-hz", type=float, default=1e9, metavar="HZ",
                           help="cycles are those of this clock (default: 1 GHz, a cycle a nanosecond)")  # fmt: skip
    calibrate.add_argument("--power-w", type=float, metavar="W", help="that it takes while it computes, for energies")
    calibrate.add_argument("--memory-bytes", type=int, metavar="BYTES", help="that heads must fit in")
    return parser


def _calibrate(options: argparse.Namespace) -> None:
    from .device_calibration import calibrate_device

    report = calibrate_device(
        integers=options.integers, threads=options.threads, clock_hz=options.clock_hz, power_w=options.power_w,
        memory_bytes=options.memory_bytes,
    )  # fmt: skip
    container.write_file(options.output, f"{report.device.to_json()}\n".encode())
    print(f"{report}\n\nThe device is in {options.output}: qpart_fx.Device.from_json reads it.")


def _demo(options: argparse.Namespace) -> None:
    try:
        from . import demo
    except ModuleNotFoundError as error:
        raise MissingDependencyError("the demo", extra="demo") from error
    demo.run(options.directory, seed=options.seed, plots=not options.no_plots)


def _show(options: argparse.Namespace) -> None:
    plan = _read_plan(options.file)
    print(plan)
    if options.plot is not None:
        plan.plot(options.plot)


def _bench(options: argparse.Namespace) -> None:
    from .bench import Settings, bench_head

    settings = Settings(options.batch, options.repeats, options.threads)
    content = _read(options.file)
    kind, _, _ = container.decode(content, "split", "head")
    if kind == "head":
        report = bench_head(content, settings)
    else:
        try:
            from .bench_split import bench_split
        except ModuleNotFoundError as error:
            raise MissingDependencyError("a split", extra="torch") from error
        report = bench_split(content, settings)
    print(report)
    if options.json is not None:
        container.write_file(options.json, f"{report.to_json()}\n".encode())


def _read_plan(path: Path) -> Plan:
    """The plan in a plan.json or in the file of a split model; torch is not needed for it."""
    content = _read(path)
    if content[:1] == b"{":
        return Plan.from_json(content)
    _, manifest, _ = container.decode(content, "split")
    if not isinstance(manifest.get("plan"), str):
        raise ArtifactError(f"{path} is a split at float precision, made without a plan")
    return Plan.from_json(manifest["plan"])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}") from error


_COMMANDS = {"demo": _demo, "show": _show, "bench": _bench, "calibrate-device": _calibrate}
