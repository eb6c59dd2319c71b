"""Phases never overlap and add up to the window."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.training.phases import Phase, PhaseClock


@given(st.lists(st.tuples(st.sampled_from(Phase), st.floats(0, 100)), min_size=1, max_size=30))
def test_phases_add_up_to_the_window_and_each_gets_its_own_time(steps: list[tuple[Phase, float]]) -> None:
    now = 0.0
    clock = PhaseClock(lambda: now)
    clock.start(Phase.DATA_LOADING)
    expected = dict.fromkeys(Phase, 0.0)
    current = Phase.DATA_LOADING
    for phase, seconds in steps:
        now += seconds
        expected[current] += seconds
        clock.enter(phase)
        current = phase

    seconds_of = clock.stop()

    assert sum(seconds_of.values()) == pytest.approx(now)
    assert seconds_of == pytest.approx(expected)


def test_outside_of_windows_nothing_is_measured() -> None:
    now = 0.0
    clock = PhaseClock(lambda: now)
    clock.enter(Phase.TRAINING)
    now = 5.0

    assert sum(clock.stop().values()) == 0
    assert clock.phase is None


def test_a_new_window_starts_at_zero() -> None:
    now = 0.0
    clock = PhaseClock(lambda: now)
    clock.start(Phase.PUT)
    now = 5.0
    clock.start(Phase.GATHER)
    now = 7.0

    assert clock.stop() == {phase: 2.0 if phase is Phase.GATHER else 0.0 for phase in Phase}
