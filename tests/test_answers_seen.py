"""How sure a model is: the temperature that its labels were drawn at, never above what few of them can tell."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from qpart_fx.answers import CERTAIN, Answers
from qpart_fx.answers_seen import AnswersSeen, chances


def drawn(temperature: float, count: int, classes: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores, and labels drawn as the scores say at ``temperature``."""
    random = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(count, classes, generator=random)
    return scores, torch.multinomial(torch.softmax(scores / temperature, 1), 1, generator=random)[:, 0]


def answers(scores: Tensor, labels: Tensor | None, batch: int = 64) -> Answers:
    seen = AnswersSeen()
    for start in range(0, len(scores), batch):
        seen.add(scores[start : start + batch], None if labels is None else labels[start : start + batch])
    return seen.answers()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_labels_were_drawn_at_is_found(temperature: float) -> None:
    assert answers(*drawn(temperature, 5000)).temperature == pytest.approx(temperature, rel=0.15)


@pytest.mark.parametrize("factor", [1e-4, 1e3])
def test_scores_in_another_unit(factor: float) -> None:
    scores, labels = drawn(1.0, 500)
    plain, scaled = answers(scores, labels), answers(scores * factor, labels)
    assert scaled.temperature == pytest.approx(plain.temperature * factor, rel=1e-3)
    np.testing.assert_allclose(scaled.worth, plain.worth, atol=1e-5)


def test_few_labels_make_the_model_seem_surer() -> None:
    found = [answers(*drawn(1.0, 20, seed=seed)).temperature for seed in range(50)]
    assert np.mean(np.array(found) < 1.0) > 0.75
    assert all(answers(*drawn(1.0, 10_000, seed=seed)).temperature > 0.85 for seed in range(3))


def test_without_labels_every_change_is_a_loss() -> None:
    found = answers(drawn(1.0, 100)[0], None)
    assert found.temperature == CERTAIN
    assert (found.worth == 1).all()


def test_answers_that_are_all_right_and_surely() -> None:
    scores = 1e6 * torch.nn.functional.one_hot(torch.arange(100) % 5).double() + torch.rand(100, 5)
    found = answers(scores, torch.arange(100) % 5)
    assert (found.worth == 1).all()


def test_labels_that_have_nothing_to_do_with_the_scores_are_lost_by_no_change() -> None:
    scores, labels = drawn(1.0, 2000)
    found = answers(scores, labels.roll(1))
    assert found.worth.max() < 0.2


def test_scores_that_are_all_alike() -> None:
    found = answers(torch.zeros(50, 4), torch.zeros(50, dtype=torch.int64))
    assert np.isfinite(found.worth).all()
    assert np.isfinite(found.temperature)


def test_chances_are_those_of_its_temperature() -> None:
    scores, labels = drawn(1.0, 300, classes=4)
    found = answers(scores, labels)
    likely = chances(scores, found.temperature).sort(dim=1, descending=True).values
    by_score = chances(scores, found.temperature).gather(1, scores.topk(4, dim=1).indices)
    assert torch.equal(likely, by_score)
    np.testing.assert_allclose((likely[:, :1] - likely[:, 1:]).numpy(), found.worth, atol=1e-9)
    unsure = chances(scores, answers(scores, None).temperature)
    assert torch.equal(unsure.argmax(1), scores.argmax(1))
    assert set(unsure.unique().tolist()) == {0.0, 1.0}
