"""A plan as JSON, as a table and as a picture."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qpart_fx import ArtifactError, Plan
from qpart_fx.plan import CutPrice, PlannedLayer

PRICES = {
    "device_time_s": 0.0101, "download_time_s": 0.0202, "upload_time_s": 0.00303, "round_trip_s": 0.04,
    "server_time_s": 5.05e-5, "device_energy_j": 6.06e-6, "receive_energy_j": 0.0707, "transmit_energy_j": 0.00808,
    "server_cost": 0.909,
}  # fmt: skip
PLAN = Plan(
    model="Net",
    method="paper",
    max_accuracy_drop=0.01,
    cut=("relu",),
    device_nodes=("x", "first", "relu"),
    layers=(PlannedLayer("first", "Linear", 12_345, 1024, 5), PlannedLayer("last", "Conv2d", 67_890, 2048, None)),
    activation_bits={"relu": 7},
    time_s=0.0738,
    energy_j=0.0788,
    cost=0.909,
    objective=1.0616,
    prices=PRICES,
    download_bytes=640,
    upload_bytes=112,
    device_memory_bytes=4321,
    inferences_per_download=1500,
    by_cut=(
        CutPrice(("x",), 0, 0.1, 0.2, 0.3, 0.6, False),
        CutPrice(("relu",), 1, 0.0738, 0.0788, 0.909, 1.0616, True),
    ),
    predicted_drop=0.0042,
)
MEASURED = dataclasses.replace(
    PLAN,
    measured_drop=0.0051,
    drop_upper_bound=0.0123,
    confidence=0.95,
    samples=12_000,
    labelled=True,
    lower_bound=1.05,
)

numbers = st.floats(0, 1e12)
names = st.text(min_size=1, max_size=10)
plans = st.builds(
    Plan,
    layers=st.lists(
        st.builds(PlannedLayer, names, names, *(st.integers(0, 10**12),) * 2, st.none() | st.integers(2, 16))
    ).map(tuple),
    cut=st.lists(names, max_size=3).map(tuple),
    device_nodes=st.lists(names, max_size=3).map(tuple),
    activation_bits=st.dictionaries(names, st.integers(2, 16), max_size=3),
    prices=st.fixed_dictionaries(dict.fromkeys(PRICES, numbers)),
    by_cut=st.lists(
        st.builds(CutPrice, st.lists(names, max_size=2).map(tuple), st.integers(0, 99), *(numbers,) * 4, st.booleans()),
        max_size=3,
    ).map(tuple),
    lower_bound=st.none() | numbers,
    predicted_drop=st.none() | numbers,
    measured_drop=st.none() | numbers,
    drop_upper_bound=st.none() | numbers,
    table_drop_upper_bound=st.none() | numbers,
    confidence=st.none() | numbers,
    samples=st.none() | st.integers(0),
    labelled=st.none() | st.booleans(),
    **dict.fromkeys(("model", "method"), names),
    **dict.fromkeys(("max_accuracy_drop", "time_s", "energy_j", "cost", "objective"), numbers),
    **dict.fromkeys(
        ("download_bytes", "upload_bytes", "device_memory_bytes", "inferences_per_download"), st.integers(0)
    ),
)


def changed(**changes: Any) -> str:
    """The JSON of a plan with some fields changed, or left out where the change is ``...``."""
    data = {**json.loads(MEASURED.to_json()), **changes}
    return json.dumps({name: value for name, value in data.items() if value is not ...})


@settings(max_examples=50, deadline=None)
@given(plans)
def test_a_plan_comes_back_from_its_json(plan: Plan) -> None:
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.to_json() == plan.to_json()


@settings(max_examples=50, deadline=None)
@given(plans)
def test_any_plan_can_be_printed(plan: Plan) -> None:
    assert plan.model in str(plan)


def test_json_may_be_bytes() -> None:
    assert Plan.from_json(MEASURED.to_json().encode()) == MEASURED


def test_a_saved_plan_is_its_json(tmp_path: Path) -> None:
    PLAN.save(tmp_path / "plan.json")
    assert Plan.from_json((tmp_path / "plan.json").read_bytes()) == PLAN


@pytest.mark.parametrize(
    "text", ["", "{", "nonsense", b"\xff\xfe\xfa", "[" * 100_000], ids="empty cut word bytes deep".split()
)
def test_what_is_no_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(ArtifactError, match="not a plan: it is not JSON"):
        Plan.from_json(text)


@pytest.mark.parametrize("text", ["[]", "3", "null", '"qpart.plan"', "{}", '{"format": "qpart.head"}'])
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(ArtifactError, match=r"no field format = 'qpart\.plan'"):
        Plan.from_json(text)


@pytest.mark.parametrize("version", [2, 0, "1", None, ...])
def test_another_version_is_named(version: Any) -> None:
    with pytest.raises(ArtifactError, match=r"a plan of version .*: this qpart_fx reads version 1"):
        Plan.from_json(changed(version=version))


@pytest.mark.parametrize(
    "name",
    [item.name for item in dataclasses.fields(Plan) if item.default is item.default_factory is dataclasses.MISSING],
)
def test_a_missing_field_is_named(name: str) -> None:
    with pytest.raises(ArtifactError, match=f"not a valid plan: {name}: "):
        Plan.from_json(changed(**{name: ...}))


def test_a_plan_of_before_there_was_a_bound_for_all_is_read() -> None:
    assert Plan.from_json(changed(table_drop_upper_bound=...)) == MEASURED


def test_an_unknown_field_is_named() -> None:
    with pytest.raises(ArtifactError, match="not a valid plan: colour: "):
        Plan.from_json(changed(colour="red"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("time_s", "long"), ("cut", 3), ("layers", [3]), ("layers", [{"name": "first"}]), ("activation_bits", [7]),
        ("prices", {"device_time_s": "long"}), ("samples", 1.5), ("by_cut", [{}]), ("download_bytes", None),
    ],
)  # fmt: skip
def test_a_field_of_another_type_is_named(name: str, value: Any) -> None:
    with pytest.raises(ArtifactError, match=f"not a valid plan: {name}"):
        Plan.from_json(changed(**{name: value}))


@pytest.mark.parametrize("prices", [{}, {"device_time_s": 1.0}])
def test_prices_without_all_their_terms_are_refused(prices: dict[str, float]) -> None:
    with pytest.raises(ArtifactError, match="prices"):
        Plan.from_json(changed(prices=prices))


def test_weight_bits_are_those_of_the_device() -> None:
    assert PLAN.weight_bits == {"first": 5}
    assert [layer.weight_bytes for layer in PLAN.layers] == [640.0, 0.0]


def test_evidence_is_added_to_a_copy() -> None:
    plan = PLAN.with_evidence(measured_drop=0.0051)
    assert (plan.measured_drop, PLAN.measured_drop) == (0.0051, None)
    assert plan.layers == PLAN.layers


def lines(plan: Plan) -> list[list[str]]:
    return [line.split() for line in str(plan).splitlines()]


def test_a_layer_has_the_resolution_that_is_said_and_else_its_bits() -> None:
    layer = PlannedLayer("first", "Linear", 1, 1, 4, resolution=3.5)
    plan = dataclasses.replace(PLAN, layers=(layer, PLAN.layers[1]))
    assert plan.resolutions == {"first": 3.5}
    assert PLAN.resolutions == {"first": 5.0}
    assert Plan.from_json(plan.to_json()).layers[0] == layer
    rows = json.loads(PLAN.to_json())["layers"]
    older = [{key: value for key, value in row.items() if key != "resolution"} for row in rows]
    assert Plan.from_json(changed(layers=older)).layers == PLAN.layers
    for bits, resolution in ((6, 4.5), (3, 3.3), (None, 4.0), (2, 1.5)):
        with pytest.raises(ValueError, match="resolution"):
            PlannedLayer("first", "Linear", 1, 1, bits, resolution=resolution)


def test_the_table_shows_the_cut_and_every_layer() -> None:
    assert str(MEASURED).startswith("Plan for Net: 1 of 2 layers on the device, relu crosses")
    assert ["first", "Linear", "12,345", "1,024", "device", "5", "5", "5.00", "640"] in lines(MEASURED)
    assert ["last", "Conv2d", "67,890", "2,048", "server", "float"] in lines(MEASURED)


def test_the_table_shows_every_price() -> None:
    text = "\n".join(" ".join(line) for line in lines(MEASURED))
    assert "head on the device 10.1 ms 6.06 µJ" in text
    assert "download (1/1,500) 20.2 ms 70.7 mJ" in text
    assert "upload 3.03 ms 8.08 mJ" in text
    assert "round trip 40 ms" in text
    assert "tail on the server 50.5 µs 0.909" in text
    assert "in all 73.8 ms 78.8 mJ 0.909" in text
    assert "objective 1.0616 (no plan is below 1.05), method paper" in text
    assert "weights of the head, without biases, norms and the graph, 640 B; upload 112 B" in text
    assert "an inference (relu at 7 bits); device memory 4.32 kB" in text


def test_the_table_shows_the_evidence() -> None:
    evidence = str(MEASURED).splitlines()[-1]
    assert evidence == (
        "accuracy drop: at most 1.00 % asked, 0.42 % predicted, 0.51 % measured on 12,000 held-out samples, "
        "1.23 % at most with 95 % confidence, which proves less than was asked (no number of samples like these would "
        "prove it)"
    )
    enough = dataclasses.replace(MEASURED, samples_needed=15_000)
    assert str(enough).endswith("(about 15,000 samples like these would prove it)")
    proven = dataclasses.replace(MEASURED, drop_upper_bound=0.01)
    assert str(proven).endswith("1.00 % at most with 95 % confidence")
    of_all = dataclasses.replace(proven, table_drop_upper_bound=0.0123)
    assert str(of_all).endswith("1.00 % at most with 95 % confidence (1.23 % for all plans of the profile at once)")


def test_the_table_claims_nothing_that_was_not_measured() -> None:
    evidence = str(PLAN).splitlines()[-1]
    assert evidence == "accuracy drop: at most 1.00 % asked, 0.42 % predicted, not measured"
    assert "no plan is below" not in str(PLAN)
    assert "unknown predicted" in str(dataclasses.replace(PLAN, predicted_drop=None))


def test_a_head_that_is_held_is_said_to_be() -> None:
    held = dataclasses.replace(PLAN, prices={**PRICES, "download_time_s": 0.0, "receive_energy_j": 0.0})
    assert "download (held)" in str(held)


def test_of_many_layers_those_in_the_middle_are_left_out() -> None:
    layers = tuple(PlannedLayer(f"layer{place}", "Linear", 1, 1, 4) for place in range(100))
    text = str(dataclasses.replace(PLAN, layers=layers))
    assert "... 60 more layers ..." in text
    shown = [line.split()[0] for line in text.splitlines() if line.strip().startswith("layer") and "Linear" in line]
    assert shown == [f"layer{place}" for place in (*range(20), *range(80, 100))]


@pytest.mark.parametrize("plan", [PLAN, MEASURED, dataclasses.replace(PLAN, by_cut=(), activation_bits={})])
def test_a_plot_is_a_picture_with_a_panel_for_bits_and_each_price(plan: Plan, tmp_path: Path) -> None:
    figure = plan.plot(tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(figure.axes) == 5


def test_a_plot_needs_no_file() -> None:
    labels = [axes.get_ylabel() for axes in PLAN.plot().axes]
    assert [label.split("\n")[0] for label in labels] == ["bits a weight", "time", "energy", "server cost", "objective"]
