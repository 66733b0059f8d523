"""See the package."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import torch

import benchmarks.paper
from benchmarks.planning.report import print_table
from benchmarks.reporting.section import REPORT, Section, Table

from . import mnist_report, networks_report
from .datasets import DataError
from .mnist import Experiment, Parts
from .networks import DATASETS, known, own

_COMMAND = "python -m benchmarks.paper"


def main() -> None:
    options = _parser().parse_args()
    torch.set_num_threads(1)  # small layers: more threads only wait for each other
    experiments: dict[str, Callable[[argparse.Namespace], Section]] = {"mnist": _mnist, "networks": _networks}
    problems = []
    for name in options.only or (["networks"] if options.dataset else experiments):
        start = perf_counter()
        try:
            section = experiments[name](options)
        except DataError as error:
            other = next(each for each in experiments if each != name)
            problems.append(f"{name} cannot run: {error} (--only {other} needs none of this)")
            continue
        section.publish()
        for part in section.parts:
            if isinstance(part, Table):
                print_table(part.title, part.names, part.rows)
        print(f"\n({name}: {perf_counter() - start:.0f} s, in {REPORT / 'README.md'})")
    if problems:
        raise SystemExit("\n".join(problems))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_COMMAND, description=benchmarks.paper.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, nargs="?", help="holds the data")
    parser.add_argument("--only", action="append", choices=("mnist", "networks"), help="leave the other out")
    parser.add_argument(
        "--budget", type=float, default=0.002,
        help="accuracy drop that QPART and pruning may take on MNIST (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of training and planning on MNIST (default: %(default)s)")
    own_data = parser.add_argument_group("networks of your own")
    own_data.add_argument(
        "--dataset", choices=DATASETS, help="what --data holds; folders: one of photos for each class"
    )
    own_data.add_argument("--data", type=Path, help="its folder")
    own_data.add_argument("--network", help="torchvision:NAME or timm:NAME (default: %(default)s)",
                          default="torchvision:resnet18")  # fmt: skip
    own_data.add_argument("--weights", type=Path, help="its state dict, as torch.save writes it (default: random)")
    return parser


def _mnist(options: argparse.Namespace) -> Section:
    start = perf_counter()
    if options.directory is None:
        raise DataError(
            "name the folder that holds MNIST's four gzip files (train-images-idx3-ubyte.gz and the others), from "
            f"https://ossci-datasets.s3.amazonaws.com/mnist/: {_COMMAND} DIRECTORY --only mnist"
        )
    inside = options.directory / "mnist"
    parts = Parts.of(inside if inside.is_dir() else options.directory)
    found = mnist_report.report(Experiment(parts, options.budget, options.seed))
    command = f"{_COMMAND} DIRECTORY --only mnist"
    for name, default in (("budget", 0.002), ("seed", 0)):
        if (value := getattr(options, name)) != default:
            command += f" --{name} {value}"
    return Section("paper-mnist", mnist_report.TITLE, command, perf_counter() - start, found)


def _networks(options: argparse.Namespace) -> Section:
    start = perf_counter()
    if options.dataset is not None:
        if options.data is None:
            raise DataError(f"name the folder that holds {options.dataset}: --data FOLDER")
        network = own(options.dataset, options.data, options.network, options.weights)
        command = f"{_COMMAND} --only networks --dataset {options.dataset} --data FOLDER --network {options.network}"
        found = networks_report.report([network])
        name, title = f"paper-networks-{options.dataset}", f"{networks_report.TITLE}, {network.name}"
        weights = " --weights FILE" if options.weights else ""
        return Section(name, title, command + weights, perf_counter() - start, found)
    if options.directory is None:
        raise DataError(
            "name the folder that holds zoo.py, networks and data; without it, bring your own: "
            f"{_COMMAND} --only networks --dataset cifar100 --data FOLDER --network torchvision:resnet18"
        )
    found = networks_report.report(known(options.directory))
    command = f"{_COMMAND} DIRECTORY --only networks"
    return Section("paper-networks", networks_report.TITLE, command, perf_counter() - start, found)


if __name__ == "__main__":
    main()
