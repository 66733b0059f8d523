"""What a profile's file predicts, against what its plans lose on samples that its making never saw."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import qpart_fx as qpart
from qpart_fx.held_out import curve_held_out
from tests.networks import classifier, images


@pytest.fixture(scope="module")
def profile() -> qpart.Profile:
    model = classifier()
    with torch.no_grad():
        labels = model(images(200)).argmax(1)
    return qpart.profile(model, [(images(200), labels)], progress=False)


def with_curve(profile: qpart.Profile, times: float) -> qpart.Profile:
    """One that predicts so many times as much to be lost."""
    return replace(profile, noise_curve=replace(profile.noise_curve, drop=profile.noise_curve.drop * times))


def test_a_profile_that_predicts_too_little_is_set_right(profile: qpart.Profile) -> None:
    hopeful = with_curve(profile, 0.01)
    set_right = curve_held_out(hopeful)
    assert (set_right.drop > hopeful.noise_curve.drop * 2).all()
    assert (set_right.drop <= 1).all()


def test_a_profile_that_predicts_too_much_is_left(profile: qpart.Profile) -> None:
    careful = replace(profile, noise_curve=replace(profile.noise_curve, drop=np.sqrt(profile.noise_curve.drop)))
    np.testing.assert_array_equal(curve_held_out(careful).drop, careful.noise_curve.drop)


def test_without_samples_nothing_changes(profile: qpart.Profile) -> None:
    hopeful = replace(with_curve(profile, 0.01), check=())
    assert curve_held_out(hopeful) is hopeful.noise_curve


def test_plans_of_the_file_are_as_careful(profile: qpart.Profile, tmp_path: Path) -> None:
    hopeful = with_curve(profile, 0.01)
    hopeful.save(tmp_path / "profile.qpart")
    loaded = qpart.load(tmp_path / "profile.qpart")
    assert isinstance(loaded, qpart.Profile)
    request = qpart.Request.paper(0.05)
    ours, before = loaded.plan(request, cut="output"), hopeful.plan(request, cut="output")
    assert ours.download_bytes >= before.download_bytes
    assert hopeful.noise_curve.noise_at(before.predicted_drop or 0.0) > loaded.noise_curve.noise_at(0.05)
