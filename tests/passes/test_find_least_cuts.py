"""Graphs with too many closed sets to look at: what is looked at instead, how good it is, and what is proven of it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

import qpart_fx as qpart
from benchmarks.branching import Cameras
from qpart_fx import noise_tables
from qpart_fx.model_profile import Profile
from qpart_fx.passes.find_closed_cuts import find_closed_cuts


@pytest.fixture(scope="module")
def whole() -> Profile:
    return _profile()


@pytest.fixture(scope="module")
def partly(whole: Profile) -> Profile:
    """The same, noise and all, as if the graph had too many closed sets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noise_tables, "find_closed_cuts", partial(find_closed_cuts, limit=20))
        found = _profile()
    return replace(whole, closed_cuts=found.closed_cuts, head_bits=found.head_bits, cut_graph=found.cut_graph)


def _profile() -> Profile:
    torch.manual_seed(0)
    model = Cameras(2, 3).eval()
    return qpart.profile(model, [torch.randn(32, 2, 16, 16)], rounding="nearest", progress=False)


REQUESTS = [
    qpart.Request(
        max_accuracy_drop=drop,
        device=qpart.Device(clock_hz=speed, cycles_per_mac=1),
        server=qpart.Server(clock_hz=1e10, cycles_per_mac=1, price_per_s=1),
        link=qpart.Link(uplink_bps=rate, downlink_bps=rate, round_trip_s=1e-4),
        inferences_per_download=10_000,
    )
    for drop, speed, rate in product((0.002, 0.05), (1e6, 1e7, 1e8, 1e9), (1e4, 1e5, 1e6, 1e7))
]


def test_prefixes_and_cuts_that_are_none(whole: Profile, partly: Profile) -> None:
    assert whole.complete
    assert not partly.complete
    prefixes = find_closed_cuts(partly.graph, limit=1).cuts
    crossings = {cut.crossing for cut in partly.closed_cuts}
    assert len(crossings) == len(partly.closed_cuts) < len(whole.closed_cuts) / 2
    assert any(cut.crossing not in {prefix.crossing for prefix in prefixes} for cut in partly.closed_cuts)
    assert set(partly.closed_cuts) <= set(find_closed_cuts(partly.graph).cuts)
    for place in (0, -1):
        assert partly.closed_cuts[place] == whole.closed_cuts[place]


def test_plans_are_as_good_as_with_all_cuts_and_their_bound_is_near(whole: Profile, partly: Profile) -> None:
    inside, gaps = 0, []
    for request in REQUESTS:
        best, plan = whole.plan(request), partly.plan(request)
        assert plan.objective == pytest.approx(best.objective, rel=1e-6)
        assert plan.lower_bound is not None
        gaps.append(1 - plan.lower_bound / best.objective)
        assert plan.lower_bound <= best.objective * (1 + 1e-9)
        inside += len(plan.cut) == 2 and 0 < len(plan.weight_bits) < len(plan.layers)
    assert inside > 0  # at some depth of each branch
    assert np.median(gaps) < 0.01
    assert max(gaps) < 0.06


def test_limits_and_single_cuts_are_bounded_too(partly: Profile) -> None:
    for request in REQUESTS[::5]:
        free = partly.plan(request)
        tight = replace(request, deadline_s=0.9 * free.time_s)
        try:
            plan = partly.plan(tight)
        except qpart.InfeasibleError:
            continue
        assert free.lower_bound is not None
        assert plan.lower_bound is not None
        assert free.lower_bound * (1 - 1e-4) <= plan.lower_bound <= plan.objective
        alone = partly.plan(request, cut=free.cut)
        assert alone.lower_bound == pytest.approx(alone.objective, rel=1e-9)


def test_a_saved_profile_has_the_same_bounds(partly: Profile, tmp_path: Path) -> None:
    partly.save(tmp_path / "profile.qpart")
    loaded = qpart.load(tmp_path / "profile.qpart")
    assert isinstance(loaded, Profile)
    assert not loaded.complete
    assert [loaded.plan(request) for request in REQUESTS] == [partly.plan(request) for request in REQUESTS]


def test_a_cut_that_is_no_prefix_is_lowered(partly: Profile) -> None:
    cut = next(cut for cut in partly.closed_cuts if len(cut.runs) > 1)
    split = partly.compile(partly.plan(REQUESTS[0], cut=cut.crossing))
    x = torch.randn(3, 2, 16, 16)
    torch.testing.assert_close(split.tail(*split.unpack_activation(split.pack_activation(split.head(x)))), split(x))
