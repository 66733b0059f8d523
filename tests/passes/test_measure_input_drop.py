"""What inputs lose is what was seen, whatever the curve says that was found with the noise of weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qpart_fx.answers import CERTAIN, Answers
from qpart_fx.calibration import Batch
from qpart_fx.drop_curve import DropCurve, curve_of_margins
from qpart_fx.noise import WIDTHS
from qpart_fx.passes.measure_input_drop import measure_input_drop
from qpart_fx.quantizer import UniformQuantizer
from qpart_fx.scores import ClassScores, MetricScores, Scorer
from tests.calibrated import Calibrated, as_they_are, calibrated, trained

Floats = NDArray[np.float64]

WIDTH = 4
"""At which some percent of the answers change."""


@pytest.fixture(scope="module")
def prepared() -> Calibrated:
    random = torch.Generator().manual_seed(0)
    centres = torch.randn(10, 20, generator=random)
    labels = torch.randint(0, 10, (4096,), generator=random)
    x = centres[labels] + torch.randn(4096, 20, generator=random)
    torch.manual_seed(0)
    model = trained(nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 10)), x, labels, steps=60)
    return calibrated(model, x, batch=256)


def output(prepared: Calibrated, bits: int | None = None) -> Tensor:
    x = torch.cat([batch.args[0] for batch in prepared.batches])
    if bits is not None:
        x = UniformQuantizer.from_range(*prepared.ranges["input_1"], bits)(x)
    with torch.no_grad():
        scores: Tensor = prepared.graph(x)
        return scores


def noise(prepared: Calibrated) -> dict[str, Floats]:
    clean = output(prepared)
    squared = [float((output(prepared, bits) - clean).square().sum(1).mean()) for bits in WIDTHS]
    return {"input_1": np.array(squared)}


def found(prepared: Calibrated, curve: DropCurve, scorer: Scorer | None = None) -> Floats:
    margins = output(prepared).topk(2, dim=1).values
    answers = Answers((margins[:, :1] - margins[:, 1:]).double().numpy(), np.ones((len(margins), 1)), CERTAIN)
    return measure_input_drop(
        prepared.graph,
        prepared.batches,
        scorer or ClassScores(),
        ranges={"input_1": prepared.ranges["input_1"]},
        noise=noise(prepared),
        curve=curve,
        answers=None if scorer else answers,
        progress=as_they_are,
    )["input_1"]


def flips(prepared: Calibrated, bits: int) -> float:
    return float((output(prepared, bits).argmax(1) != output(prepared).argmax(1)).double().mean())


def curve(prepared: Calibrated, factor: float) -> DropCurve:
    """Of white noise, with drops so many times as large."""
    margins = output(prepared).topk(2, dim=1).values.double().numpy()
    white = curve_of_margins(margins[:, 0] - margins[:, 1], 10)
    return DropCurve(white.noise, np.minimum(factor * white.drop, 1.0))


@pytest.mark.parametrize("factor", [0.2, 1.0, 5.0])
def test_the_curve_says_what_was_seen(prepared: Calibrated, factor: float) -> None:
    off = curve(prepared, factor)
    taken = found(prepared, off)
    for bits in (WIDTH - 1, WIDTH, WIDTH + 1):
        said = off.drop_at(float(taken[bits - WIDTHS[0]]))
        assert said == pytest.approx(flips(prepared, bits), rel=0.2), bits
    assert (np.diff(taken) <= 0).all()


def test_a_metric_too(prepared: Calibrated) -> None:
    labels = output(prepared).argmax(1)
    batches = [
        Batch(batch.args, {}, part, batch.size) for batch, part in zip(prepared.batches, labels.split(256), strict=True)
    ]
    labelled = Calibrated(prepared.graph, batches, prepared.layers, prepared.ranges)

    def accuracy(scores: Tensor, targets: Tensor) -> float:
        return float((scores.argmax(1) == targets).double().mean())

    off = curve(prepared, 5.0)
    taken = found(labelled, off, MetricScores(accuracy))
    assert off.drop_at(float(taken[WIDTH - WIDTHS[0]])) == pytest.approx(flips(prepared, WIDTH), rel=0.2)


def test_a_metric_that_loses_next_to_nothing_by_chance_is_not_trusted(prepared: Calibrated) -> None:
    """What varies from batch to batch may be lost as much as that tells it from nothing: as much as its error."""
    numbers = range(len(prepared.batches))
    batches = [
        Batch(batch.args, {}, torch.tensor([number]), batch.size)
        for number, batch in zip(numbers, prepared.batches, strict=True)
    ]
    calls = 0

    def chance(scores: Tensor, targets: Tensor) -> float:
        """Of the model's own output, which comes first, 0.9; of the other as much, a little up and down."""
        nonlocal calls
        calls += 1
        return 0.9 if calls % 2 else 0.9 - 1e-6 + 0.02 * (-1) ** int(targets)

    off = curve(prepared, 1.0)
    numbered = Calibrated(prepared.graph, batches, prepared.layers, prepared.ranges)
    taken = found(numbered, off, MetricScores(chance))
    assert len(batches) % 2 == 0  # ups and downs are as many
    assert off.drop_at(float(taken[WIDTH - WIDTHS[0]])) > 1e-3


def test_widths_that_no_budget_can_tell_apart_are_not_run(prepared: Calibrated) -> None:
    harmless = DropCurve(np.logspace(-8, 8, 50), np.full(50, 1e-6))

    def never(batches: Sequence[Batch]) -> Sequence[Batch]:
        raise AssertionError("nothing is to be run")

    before = noise(prepared)
    after = measure_input_drop(
        prepared.graph, prepared.batches, ClassScores(), ranges={"input_1": prepared.ranges["input_1"]},
        noise=before, curve=harmless, progress=never,
    )  # fmt: skip
    assert np.array_equal(after["input_1"], before["input_1"])


def test_inputs_that_are_not_quantized(prepared: Calibrated) -> None:
    """Tokens, for example: integers cross as they are."""
    assert (
        measure_input_drop(
            prepared.graph, prepared.batches, ClassScores(), ranges={}, noise={}, curve=curve(prepared, 1.0),
            progress=as_they_are,
        )
        == {}
    )  # fmt: skip
