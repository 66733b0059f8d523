"""The grid of policies: prices, limits and solvers on a network small enough to look at every choice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import qpart_fx as qpart
from benchmarks.grid.__main__ import main
from benchmarks.grid.cells import BUDGETS, Cells, grid
from benchmarks.grid.networks import Network, right_classes, run
from benchmarks.grid.options import Options
from benchmarks.grid.outcome import Outcome, load_outcomes, outcomes, save_outcomes
from benchmarks.grid.policies import OURS, POLICIES
from benchmarks.grid.policies.brute_force import BruteForce
from benchmarks.grid.policies.floats import Dads, NoOptimisation
from benchmarks.grid.policies.learned import Codec, prunable_sides, without_neurons
from benchmarks.grid.policies.ours import Ours
from benchmarks.grid.quantized import chain_split
from benchmarks.grid.report import section
from tests.networks import Residual

WIDTHS = (2, 4, 6, 8)


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    model = Residual().eval()
    inputs = torch.randn(160, 3, 12, 12)
    with torch.no_grad():
        labels = model(inputs).argmax(1)
    known, judged = (inputs[:96], labels[:96]), (inputs[96:], labels[96:])
    profile = qpart.profile(model, [known], levels=BUDGETS, progress=False)
    return Network("tiny", profile, known, judged, right_classes)


@pytest.fixture(scope="module")
def cells() -> Cells:
    return grid()


@pytest.fixture(scope="module")
def found(network: Network, cells: Cells) -> dict[str, Outcome]:
    return dict(outcomes(network, cells, POLICIES, most=2))


def test_the_grid_prices_work_as_plans_are_priced(network: Network, cells: Cells) -> None:
    decided = Ours(OURS).decide(network, cells)
    for cell in range(0, len(cells.requests), 311):
        plan = network.profile.plan(cells.requests[cell])
        one = decided.options.only([decided.chosen[cell]])
        assert cells.objective(one)[cell, 0] == pytest.approx(plan.objective, rel=1e-9)
        assert decided.objective[cell] == plan.objective


def test_ours_is_what_brute_force_finds(network: Network, cells: Cells) -> None:
    devices = [replace(each.device, weight_bits=WIDTHS) for each in cells.requests]
    requests = tuple(replace(each, device=own) for each, own in zip(cells.requests, devices, strict=True))
    limited = replace(cells, requests=requests)
    ours = Ours(OURS).decide(network, limited)
    brute = BruteForce("brute force", widths=WIDTHS).decide(network, limited)
    np.testing.assert_allclose(ours.objective, brute.objective, rtol=1e-9)


def test_none_that_keeps_the_budget_by_the_same_tables_is_cheaper(found: dict[str, Outcome], cells: Cells) -> None:
    """Of those whose weights are coded as ours are, or in float: in a network so small, steps are many of the bits."""
    for name in ("brute force, 2 4 6 8 bits", "uniform 8 bits, our coder", "no optimisation", "DADS", "DINA-P", "COB"):
        outcome = found[name]
        counted = outcome.served & (outcome.known_budget <= cells.budget)
        assert counted.any()
        assert (outcome.objective[counted] >= found[OURS].objective[counted] * (1 - 1e-6)).all(), name


def test_dads_is_the_least_of_all_float_cuts(network: Network, cells: Cells) -> None:
    dads, chain = Dads("DADS").decide(network, cells), NoOptimisation("none").decide(network, cells)
    both = ~dads.refused & ~chain.refused
    assert both.any()
    assert (dads.objective[both] <= chain.objective[both] * (1 + 1e-9)).all()


def test_what_does_not_fit_is_refused_and_costs_nothing_that_counts(network: Network, cells: Cells) -> None:
    tiny = tuple(replace(each, device=replace(each.device, memory_bytes=16)) for each in cells.requests)
    small = replace(cells, requests=tiny)
    found = dict(outcomes(network, small, POLICIES[:4], most=1))
    for outcome in found.values():
        assert not outcome.served.any()
        assert np.isnan(outcome.objective).all()


def test_a_cut_of_the_chain_at_sixteen_bits_is_the_network(network: Network) -> None:
    inputs = network.judged[0]
    for place, cut in enumerate(network.profile.cuts):
        sent = np.full(len(cut.cut.crossing), 16)
        split = chain_split(network, place, np.full(cut.layers, 16), sent)()
        torch.testing.assert_close(run(split, inputs), network.float_output(network.judged), rtol=2e-2, atol=2e-2)


def test_a_codec_of_all_channels_gives_back_what_it_got() -> None:
    values = torch.randn(8, 6, 5, 5)
    error = (Codec.of(values, 6)(values) - values).abs().max()
    assert error < 0.1
    assert (Codec.of(values, 2)(values) - values).abs().max() > error


def test_pruning_takes_the_share_of_neurons_and_leaves_the_last_layer(network: Network) -> None:
    pruned = without_neurons(network, 0.5)
    names = [layer.name for layer in network.profile.layers]
    gone = {
        name: int((parameter.flatten(1) == 0).all(1).sum())
        for name, parameter in pruned.named_parameters()
        if parameter.dim() > 1
    }
    assert sorted(gone.values()) == [0, 4, 4]
    assert len(names) == 3
    assert prunable_sides(network).tolist() == [1, 2, 1]


def test_outcomes_come_back_from_their_file(found: dict[str, Outcome], tmp_path: Path) -> None:
    save_outcomes(tmp_path / "some" / "tiny.npz", found)
    read = load_outcomes(tmp_path / "some" / "tiny.npz")
    assert [*read] == [*found]
    for name, outcome in found.items():
        np.testing.assert_array_equal(read[name].objective, outcome.objective)
        np.testing.assert_array_equal(read[name].drop, outcome.drop)


def test_the_report_has_every_policy_and_its_figures(found: dict[str, Outcome], cells: Cells, tmp_path: Path) -> None:
    section({"tiny": found}, cells, "python -m benchmarks.grid", 1.0, tmp_path).publish(tmp_path)
    text, page = (tmp_path / "README.md").read_text(), (tmp_path / "index.html").read_text()
    for policy in POLICIES:
        assert policy.name in text
    assert page.count("data:image/png;base64,") == 2
    assert "figures/" not in page


def test_options_are_put_together_and_taken_apart() -> None:
    rows = [[1.0, 2.0, 3.0, 4.0, 5.0, 0.01], [6.0, 7.0, 8.0, 9.0, 10.0, np.inf]]
    both = Options.together([Options.of_rows(rows[:1], [None]), Options.of_rows(rows[1:], [None])])
    np.testing.assert_array_equal(both.work, np.array(rows).T[:4])
    np.testing.assert_array_equal(both.only([1]).budget, [np.inf])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--networks", "resnet20"], "need DIRECTORY"),
        (["nowhere"], "holds no zoo.py"),
        (["--networks", "vgg"], "invalid choice"),
    ],
)
def test_what_is_missing_is_said(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["grid", *arguments])
    with pytest.raises(SystemExit):
        main()
    assert message in capsys.readouterr().err
