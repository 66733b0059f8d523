"""The command ``qpart``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    demo.add_argument(
        "--serve", action="store_true",
        help="instead, serve the network to two devices, on a link that slows, from a server that is killed",
    )  # fmt: skip
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
    _add_calibrate(commands)
    _add_calibrate_server(commands)
    _add_serve(commands)
    _add_run(commands)
    return parser


def _add_calibrate(commands: Any) -> None:
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


def _add_calibrate_server(commands: Any) -> None:
    calibrate = commands.add_parser(
        "calibrate-server",
        help="measure this machine, and write it down as the server of a request",
        description="Run tails of the profile in FILE as `qpart serve` runs them, and write down what a multiply-add "
        "takes. Some seconds; nothing else should run. qpart_fx.Server.from_json reads what is written, and plans of "
        "devices that are told know how long this server takes.",
    )
    calibrate.add_argument("file", type=Path, metavar="FILE", help="a profile, of Profile.save")
    calibrate.add_argument("-o", "--output", type=Path, default=Path("server.json"), metavar="JSON",
                           help="where to write it (default: %(default)s)")  # fmt: skip
    calibrate.add_argument("--threads", type=int, help="of a tail, as of `qpart serve` (default: as many as cores)")
    calibrate.add_argument("--clock-hz", type=float, default=1e9, metavar="HZ",
                           help="cycles are those of this clock (default: 1 GHz, a cycle a nanosecond)")  # fmt: skip
    calibrate.add_argument("--price-per-s", type=float, default=0.0, metavar="PRICE", help="of a second (default: 0)")


def _add_serve(commands: Any) -> None:
    serve = commands.add_parser(
        "serve",
        help="answer devices with plans and heads, and finish their inferences",
        description="Serve the profiles in the folder CATALOG (NAME.qpart, of Profile.save) over gRPC: plans, heads "
        "and tails for qpart_fx.device, and the Open Inference Protocol for others. A profile that is put there or "
        "replaced is served a second later. The log, a JSON object a line, goes to standard error. SIGTERM or SIGINT: "
        "finish what was taken, and end; a second one: end now.",
    )
    serve.add_argument("catalog", type=Path, metavar="CATALOG")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    serve.add_argument("--port", type=int, default=8471, help="0 for any that is free (default: %(default)s)")
    secure = serve.add_argument_group("security (see SECURITY.md)")
    secure.add_argument("--tls-cert", type=Path, metavar="PEM", help="the server's certificate, for TLS")
    secure.add_argument("--tls-key", type=Path, metavar="PEM", help="its key")
    secure.add_argument("--client-ca", type=Path, metavar="PEM", help="take only clients with certificates of these")
    secure.add_argument("--tokens", type=Path, metavar="JSON", help="take only clients with tokens listed here")
    secure.add_argument("--rate", type=float, metavar="CALLS", help="that one client may make a second")
    secure.add_argument("--max-message-mb", type=int, default=16, metavar="MB", help="of a call (default: %(default)s)")
    load = serve.add_argument_group("load")
    load.add_argument("--max-batch", type=int, default=32, metavar="N", help="samples at once (default: %(default)s)")
    load.add_argument(
        "--max-delay-ms", type=float, default=2.0, metavar="MS",
        help="that a call may wait for others, while these come more often than that (default: %(default)s)",
    )  # fmt: skip
    load.add_argument("--queue", type=int, default=256, metavar="N", help="calls that may wait (default: %(default)s)")
    load.add_argument(
        "--memory-mb", type=int, default=1024, metavar="MB", help="of heads, tails (default: %(default)s)"
    )
    load.add_argument("--threads", type=int, metavar="N", help="of a tail (default: as many as there are cores)")
    load.add_argument(
        "--price-by-load", action="store_true",
        help="plans count a second of a busy server as longer, so that devices do more",
    )  # fmt: skip
    ray = serve.add_argument_group("on Ray (see qpart_fx.serving.ray)")
    ray.add_argument("--ray", action="store_true", help="on RAY_ADDRESS's cluster, or one of this machine alone")
    ray.add_argument("--fronts", type=int, default=1, metavar="N", help="that listen (default: %(default)s)")
    ray.add_argument("--planners", type=int, default=1, metavar="N", help="that plan (default: %(default)s)")
    ray.add_argument("--tails", type=int, default=2, metavar="N", help="that run tails (default: %(default)s)")
    ray.add_argument("--most-tails", type=int, metavar="N", help="so many, while there is more to do")
    watch = serve.add_argument_group("watching it")
    watch.add_argument("--metrics-port", type=int, metavar="PORT", help="for Prometheus, at /metrics")
    watch.add_argument("--metrics-host", default="127.0.0.1", metavar="HOST", help="(default: %(default)s)")
    levels = ("debug", "info", "warning", "error")
    watch.add_argument("--log-level", choices=levels, default="info", help="(default: %(default)s)")


def _add_run(commands: Any) -> None:
    run = commands.add_parser(
        "run",
        help="run a model of a server, its head on this machine",
        description="Ask the server at TARGET for a plan for MODEL and its head, run the head here and the tail there, "
        "and write the model's outputs. Needs no torch. Each answer's source, time and bytes go to standard error.",
    )
    run.add_argument(
        "target",
        metavar="TARGET",
        help="host:port, or several of one catalog, as ipv4:10.0.0.1:8471,10.0.0.2:8471",
    )
    run.add_argument("model", metavar="MODEL", help="its name in the server's catalog")
    run.add_argument(
        "--input", type=Path, action="append", required=True, metavar="FILE",
        help="an array (.npy) for each of the model's arguments in their order, or arrays by name (.npz)",
    )  # fmt: skip
    run.add_argument("--output", type=Path, metavar="FILE", help="where the outputs go: .npy for one array, else .npz")
    run.add_argument(
        "--device", type=Path, metavar="JSON",
        help="what is asked for: a request's fields, or a device's alone (default: 1 GHz, one cycle a multiply-add)",
    )  # fmt: skip
    run.add_argument("--max-drop", type=float, metavar="FRACTION", help="accuracy that may be lost (default: 0.01)")
    run.add_argument("--repeat", type=int, default=1, metavar="N", help="times to run (default: %(default)s)")
    run.add_argument(
        "--timeout", type=float, default=30.0, metavar="S", help="seconds of a call (default: %(default)s)"
    )
    run.add_argument("--cache", type=Path, metavar="FOLDER", help="keep heads here for the next time")
    run.add_argument("--cache-mb", type=int, default=256, metavar="MB", help="at most (default: %(default)s)")
    run.add_argument("--fallback", type=Path, metavar="HEAD", help="a whole model's head, for when no server answers")
    run.add_argument("--token-file", type=Path, metavar="FILE", help="holds the token, and is read for each call")
    run.add_argument("--tls", action="store_true", help="encrypt, with the certificates that the system trusts")
    run.add_argument(
        "--tls-ca", type=Path, metavar="PEM", help="encrypt; the server's certificate is signed by this one"
    )
    run.add_argument("--tls-name", metavar="NAME", help="encrypt; the name in the certificate, where TARGET is another")
    run.add_argument("--tls-cert", type=Path, metavar="PEM", help="this device's own certificate")
    run.add_argument("--tls-key", type=Path, metavar="PEM", help="and its key")
    run.add_argument("--threads", type=int, help="that the head may use (default: as many as there are cores)")
    run.add_argument("--verbose", action="store_true", help="say what the client does")


def _calibrate(options: argparse.Namespace) -> None:
    from .device_calibration import calibrate_device

    report = calibrate_device(
        integers=options.integers, threads=options.threads, clock_hz=options.clock_hz, power_w=options.power_w,
        memory_bytes=options.memory_bytes,
    )  # fmt: skip
    container.write_file(options.output, f"{report.device.to_json()}\n".encode())
    print(f"{report}\n\nThe device is in {options.output}: qpart_fx.Device.from_json reads it.")


def _calibrate_server(options: argparse.Namespace) -> None:
    try:
        from .files import load
        from .model_profile import Profile
        from .serving.calibration import calibrate_server
    except ModuleNotFoundError as error:
        raise MissingDependencyError("measuring a server", extra="serve,torch,onnx") from error
    profile = load(options.file)
    if not isinstance(profile, Profile):
        raise ArtifactError(f"{options.file} is no profile: give a file of Profile.save")
    report = calibrate_server(
        profile, threads=options.threads, clock_hz=options.clock_hz, price_per_s=options.price_per_s
    )
    container.write_file(options.output, f"{report.server.to_json()}\n".encode())
    print(f"{report}\n\nThe server is in {options.output}: qpart_fx.Server.from_json reads it.")


def _demo(options: argparse.Namespace) -> None:
    try:
        from . import demo, demo_serve
    except ModuleNotFoundError as error:
        raise MissingDependencyError("the demo", extra="demo") from error
    if options.serve:
        demo_serve.run(options.directory, seed=options.seed)
        return
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


def _serve(options: argparse.Namespace) -> None:
    if options.ray:
        from .serving.ray.application import Scale, require_ray

        require_ray()
    try:
        from .serving.server import serve
        from .serving.settings import Settings
    except ModuleNotFoundError as error:
        raise MissingDependencyError("serving", extra="serve,torch,onnx") from error
    scale = {name: getattr(options, name) for name in ("fronts", "planners", "tails", "most_tails")}
    others = {"command", "rate", "max_message_mb", "ray", *scale}
    given = {name: value for name, value in vars(options).items() if name not in others}
    settings = Settings(**given, calls_per_s=options.rate, max_message_bytes=options.max_message_mb << 20)
    if options.ray:
        from .serving.ray.serving import serve_on_ray

        serve_on_ray(settings, Scale(**scale))
    else:
        serve(settings)


def _run(options: argparse.Namespace) -> None:
    from .device.run import run

    run(options)


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


_COMMANDS = {
    "demo": _demo, "show": _show, "bench": _bench, "calibrate-device": _calibrate,
    "calibrate-server": _calibrate_server, "serve": _serve, "run": _run,
}  # fmt: skip
