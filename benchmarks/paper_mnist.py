"""The paper's MNIST experiment: six fully connected layers, cut after each, prices of Table II (Fig. 5, Table III).

    python -m benchmarks.paper_mnist DIRECTORY

DIRECTORY holds the four gzip files of MNIST. Prints, for p = 0..6 layers on the device, the time, energy and server
cost of an inference and the accuracy on the 10,000 test digits, and draws them into results/paper_mnist.png.
"""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import qpart_fx as qpart
from qpart_fx.plan_table import si

WIDTHS = (784, 512, 256, 128, 64, 32, 10)
"""The paper names six layers and not their widths; these are ours."""

Data = tuple[Tensor, Tensor]


class SixLayers(nn.Module):
    """Input (samples, 1, 28, 28) in [0, 1], output (samples, 10) class scores."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in pairwise(WIDTHS))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        scores: Tensor = self.layers[-1](x)
        return scores


@dataclass(frozen=True)
class Row:
    """One cut. ``drop`` is on test digits; ``upper_bound`` of it with 95 % confidence."""

    layers: int
    plan: qpart.Plan
    accuracy: float
    drop: float
    upper_bound: float | None


def load(directory: Path, split: str) -> Data:
    """Images in [0, 1] and labels of ``split``, ``"train"`` or ``"t10k"``, from MNIST's own files."""

    def read(name: str, header: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        content = gzip.decompress((directory / f"{split}-{name}-ubyte.gz").read_bytes())
        return np.frombuffer(content, np.uint8, offset=header)

    images, labels = read("images-idx3", 16), read("labels-idx1", 8)
    return torch.tensor(images.reshape(-1, 1, 28, 28) / np.float32(255)), torch.tensor(labels.astype(np.int64))


def train(data: Data, *, seed: int = 0, epochs: int = 3) -> SixLayers:
    """A trained network; the same seed gives the same network."""
    images, labels = data
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = SixLayers()
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        for _ in range(epochs):
            for batch in torch.randperm(len(images)).split(128):
                loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model.eval()


def measure(model: nn.Module, calibration: Data, test: Data, request: qpart.Request) -> list[Row]:
    """The best plan after each layer, and what its split really loses on ``test``."""
    images, labels = calibration
    profile = qpart.profile(model, list(zip(images.split(128), labels.split(128), strict=True)), rounding="nearest")
    rows = []
    for place in profile.cuts:
        # The paper's plan as it is, not a stricter one where the held-out samples ask for it.
        split = profile.compile(profile.plan(request, cut=place.cut.crossing, method="paper"))
        found = split.verify([test])
        assert split.plan is not None
        rows.append(Row(place.layers, split.plan, found.accuracy, found.drop, found.upper_bound))
    return rows


def print_table(rows: Sequence[Row]) -> None:
    names = ("p", "time", "energy", "cost", "download", "accuracy", "drop", "at most")
    widths = (2, 8, 8, 9, 8, 8, 7, 7)
    print("  ".join(name.rjust(width) for name, width in zip(names, widths, strict=True)), " bits")
    for row in rows:
        plan, bound = row.plan, row.upper_bound if row.upper_bound is not None else float("nan")
        bits = [*plan.weight_bits.values(), "|", *plan.activation_bits.values()]
        print(
            f"{row.layers:>2}  {si(plan.time_s, 's'):>8}  {si(plan.energy_j, 'J'):>8}  {plan.cost:>9.2e}  "
            f"{si(plan.download_bytes, 'B'):>8}  {row.accuracy:>8.2%}  {row.drop:>7.2%}  {bound:>7.2%}  "
            f"{' '.join(map(str, bits))}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "directory", type=Path, help="holds train-images-idx3-ubyte.gz and the other three files of MNIST"
    )
    parser.add_argument("--budget", type=float, default=0.01, help="accuracy drop allowed (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    images, labels = load(options.directory, "train")
    test = load(options.directory, "t10k")
    model = train((images[:-1024], labels[:-1024]), seed=options.seed)
    with torch.no_grad():
        accuracy = float((model(test[0]).argmax(1) == test[1]).float().mean())
    print(f"accuracy in float: {accuracy:.2%} of {len(test[1]):,} test digits")
    rows = measure(model, (images[-1024:], labels[-1024:]), test, qpart.Request.paper(options.budget))
    print_table(rows)
    Path("results").mkdir(exist_ok=True)
    rows[-1].plan.plot("results/paper_mnist.png")


if __name__ == "__main__":
    main()
