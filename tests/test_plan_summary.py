"""What a head's file says of its plan: short, and never better than the plan."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpart_fx import ArtifactError
from qpart_fx.plan_summary import PlanSummary, _rounded, _rounded_up

SUMMARY = PlanSummary("ResNet", "a" * 32, "b" * 16, ("add_3", "relu"), 0.01, 0.0123, None, None, None, None)


def test_it_comes_back_from_json() -> None:
    assert PlanSummary.from_record(json.loads(json.dumps(SUMMARY.to_record()))) == SUMMARY


@pytest.mark.parametrize("record", [None, 3, "x", [], {}, [1] * 10, [None] * 10, SUMMARY.to_record()[:-1]])
def test_another_record_is_refused(record: Any) -> None:
    with pytest.raises(ArtifactError, match="of its plan is malformed"):
        PlanSummary.from_record(record)


@given(st.integers(0, 9), st.sampled_from([3, "x", [], {}, [3], True, None, 0.5]))
def test_a_field_of_another_type_is_refused_or_right(place: int, value: Any) -> None:
    record = SUMMARY.to_record()
    record[place] = value
    try:
        found = PlanSummary.from_record(record)
    except ArtifactError:
        return
    assert json.dumps(found.to_record()) == json.dumps(record)
    assert isinstance(found.model, str)
    assert type(found.max_accuracy_drop) in (int, float)


@given(st.floats(1e-12, 1) | st.floats(-1, -1e-12) | st.just(0.0))
def test_a_bound_is_rounded_up_and_no_number_by_more_than_a_thousandth(value: float) -> None:
    above, near = _rounded_up(value), _rounded(value)
    assert above is not None
    assert near is not None
    assert value <= above <= value + 1.001e-3 * abs(value)
    assert abs(near - value) <= 1.001e-3 * abs(value)
    assert len(repr(abs(above)).replace(".", "").lstrip("0").split("e")[0]) <= 4
