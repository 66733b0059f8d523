"""A replay from the middle gives what a run from the start would."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qpart_fx as qpart
from qpart_fx.calibration import Batch
from qpart_fx.passes.capture import capture
from qpart_fx.replay import Replay
from tests.networks import Residual, TwoInputs, classifier, images


def replayed(model: nn.Module, *args: Tensor) -> Replay:
    return Replay(capture(model), Batch(args, {}, None, len(args[0])))


class WritesInPlace(nn.Module):
    """Its values change after they were made: a replay cannot start from what is left of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y.add_(1)
        z: Tensor = self.second(y)
        z.select(1, 0).zero_()  # nothing uses the result, and all that follows depends on it
        output: Tensor = z.relu_() + y
        return output


CASES: list[tuple[nn.Module, tuple[Tensor, ...]]] = [
    (Residual(), (images(2),)),
    (TwoInputs(), (torch.randn(2, 4), torch.randn(2, 3))),
    (WritesInPlace(), (torch.randn(3, 4),)),
]


def equal(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
    return torch.equal(left, right)


@pytest.mark.parametrize(("model", "args"), CASES)
def test_from_any_node_the_output_is_the_same(model: nn.Module, args: tuple[Tensor, ...]) -> None:
    replay = replayed(model, *args)
    for node in capture(model).graph.nodes:
        assert equal(replay.from_node(node.name), replay.output), node.name


@pytest.mark.parametrize(("model", "args"), CASES[:2])
def test_with_its_own_values_the_output_is_the_same(model: nn.Module, args: tuple[Tensor, ...]) -> None:
    replay = replayed(model, *args)
    for node in capture(model).graph.nodes:
        assert equal(replay.with_values({node.name: replay.value(node.name)}), replay.output), node.name


def test_value_is_what_it_was_when_it_was_made() -> None:
    model, x = WritesInPlace(), torch.randn(3, 4)
    assert torch.equal(replayed(model, x).value("first"), model.first(x))


def test_changed_value_reaches_the_output() -> None:
    model, x = classifier(), images(2)
    replay = replayed(model, x)
    halved = replay.value("_2") / 2
    assert torch.equal(replay.with_values({"_2": halved}), model[3:](halved))


def test_changed_weight_reaches_the_output() -> None:
    graph = capture(classifier())
    replay = Replay(graph, Batch((images(2),), {}, None, 2))
    with torch.no_grad():
        graph.get_parameter("3.weight").mul_(2)
    assert torch.equal(replay.from_node("_3"), graph(images(2)))


def test_input_that_does_not_fit_names_the_node() -> None:
    with pytest.raises(qpart.CalibrationError, match=r"'conv1'.*does not accept float32\[2, 4, 8, 8\]"):
        replayed(Residual(), torch.randn(2, 4, 8, 8))
