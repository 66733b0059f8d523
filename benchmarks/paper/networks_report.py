"""The section ``paper-networks``: Table IV, with sizes of files beside those that the paper adds up."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.reporting.section import Part, Table

from .networks import DROP, Network, cuts

TITLE = "The paper's Table IV: real networks"

_PAPERS = Table(
    "The paper's Table IV",
    ("", "SVHN", "CIFAR10", "CIFAR100", "ResNet18, ImageNet", "ResNet34, ImageNet"),
    (
        ("initial size, MB", "5.89", "46.55", "46.9", "107.96", "180.01"),
        ("optimised size, MB", "0.79", "5.53", "6.35", "19.00", "32.62"),
        ("ratio", "13.45 %", "11.88 %", "13.53 %", "17.60 %", "18.12 %"),
        ("initial accuracy", "86.88 %", "89.52 %", "67.35 %", "62.75 %", "67.21 %"),
        ("accuracy lost, points", "0.08", "0.12", "0.23", "0.66", "0.58"),
    ),
)


def report(networks: Sequence[Network]) -> list[Part]:
    """Plan, write and judge every network."""
    sizes, judged = [], []
    for network in networks:
        for cut in cuts(network):
            summed = cut.summed_bytes
            sizes.append(
                (
                    f"{network.name}, {cut.name}", f"{cut.float_bytes:,}", f"{cut.head_bytes:,}",
                    f"{cut.head_bytes / cut.float_bytes:.2%}", f"{cut.message_bytes:,}",
                    "" if summed is None else f"{summed[0] / 2**20:.2f} MiB",
                    "" if summed is None else f"{summed[1] / summed[0]:.2%}",
                )
            )  # fmt: skip
            judged += [
                (
                    f"{network.name}, {cut.name}", source, f"{each.samples:,}", f"{each.accuracy:.2%}",
                    f"{each.accuracy - each.lost:.2%}", f"{100 * each.lost:.2f} ± {100 * each.error:.2f}",
                )
                for source, each in cut.evidence.items()
            ]  # fmt: skip
    return [
        _TEXT,
        Table(
            "Sizes in bytes of files, and as the paper adds them up",
            (
                "",
                "float head",
                "head",
                "ratio on the wire",
                "message",
                "the paper's sum, float",
                "ratio of that sum",
            ),
            sizes,
        ),
        Table(
            "Accuracy on samples that made no plan",
            ("", "samples", "how many", "float", "planned", "points lost"),
            judged,
        ),
        _PAPERS,
    ]


_TEXT = f"""Whole networks on the device, as in the paper's table, and cut where the multiply-adds are halved;
{100 * DROP:g} point of accuracy may be lost. The paper's sizes are parameters + activations (twice) + input, as
torchsummary adds them up (its 107.96 MB for ResNet18 are 44.59 + 62.79 + 0.57 MiB, and so they are when added up here);
no download has activations in it.
Its ratio is therefore given both ways: of the files that a device downloads, weights entropy-coded and everything else
included; and of the paper's sum, with each value at the width of its layer, without entropy coding. Networks and data
are not the paper's, whose own are not published. Where samples are of the same source as those that the network was
trained on, its margins are wider there than elsewhere."""
