"""When a server is asked, by a clock of the test's."""

from __future__ import annotations

import pytest

from qpart_fx.device.breaker import Breaker, State


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(first_s=1.0, most_s=8.0, clock=clock, draw=lambda: 1.0)


WHY = RuntimeError("gone")


def test_all_calls_pass_while_they_are_answered(breaker: Breaker) -> None:
    assert breaker.admits()
    assert breaker.admits()
    assert not breaker.worked()
    assert breaker.why is None
    assert breaker.rests_s == 0.0


def test_a_failure_stops_the_next_calls(breaker: Breaker) -> None:
    assert breaker.failed(WHY)
    assert not breaker.admits()
    assert breaker.why is WHY
    assert breaker.rests_s == 1.0


def test_time_alone_lets_no_call_pass(breaker: Breaker, clock: Clock) -> None:
    breaker.failed(WHY)
    clock.now += 1000.0
    assert breaker.rests_s == 0.0
    assert not breaker.admits()


def test_one_call_tries_and_closes_it(breaker: Breaker) -> None:
    breaker.failed(WHY)
    breaker.looks_well()
    assert breaker.state is State.TRIAL
    assert [breaker.admits() for _ in range(3)] == [True, False, False]
    assert breaker.worked()
    assert [breaker.admits() for _ in range(3)] == [True, True, True]


def test_a_trial_that_says_nothing_is_another_one_s(breaker: Breaker) -> None:
    breaker.failed(WHY)
    breaker.looks_well()
    assert breaker.admits()
    breaker.undecided()
    assert breaker.admits()


def test_rests_double_until_a_call_is_answered(breaker: Breaker) -> None:
    rests = []
    for _ in range(6):
        breaker.failed(WHY)
        rests.append(breaker.rests_s)
        breaker.looks_well()  # it looks well each time, and is not
        assert breaker.admits()
    assert rests == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    breaker.worked()
    breaker.failed(WHY)
    assert breaker.rests_s == 1.0


def test_looks_at_a_dead_server_grow_rare(breaker: Breaker) -> None:
    breaker.failed(WHY)
    rests = []
    for _ in range(4):
        breaker.still_bad(WHY)
        rests.append(breaker.rests_s)
    assert rests == [2.0, 4.0, 8.0, 8.0]


def test_calls_that_were_under_way_do_not_lengthen_the_rest(breaker: Breaker) -> None:
    assert breaker.failed(WHY)
    assert not breaker.failed(WHY)
    assert breaker.rests_s == 1.0


def test_a_server_that_asks_for_rest_gets_it(breaker: Breaker) -> None:
    breaker.failed(WHY, rest_s=60.0)
    assert breaker.rests_s == 60.0
    breaker.looks_well()
    breaker.still_bad(WHY, rest_s=90.0)
    assert breaker.rests_s == 90.0


def test_devices_come_back_at_different_times(clock: Clock) -> None:
    rests = []
    for draw in (0.0, 0.5, 1.0):
        each = Breaker(first_s=1.0, clock=clock, draw=lambda draw=draw: draw)  # type: ignore[misc]
        each.failed(WHY)
        rests.append(each.rests_s)
    assert rests == [0.5, 0.75, 1.0]


def test_an_answer_that_comes_while_it_is_open_closes_it(breaker: Breaker) -> None:
    breaker.failed(WHY)
    assert breaker.worked()
    assert breaker.admits()
