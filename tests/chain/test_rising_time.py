"""Clocks that never run backwards."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from templar_pl.chain.rising_time import RisingTime, SteadyTime

moves = st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0, 1e6)), min_size=1)


@given(moves)
def test_steady_time_goes_on_at_least_as_fast_as_the_monotonic_clock(moves: list[tuple[float, float]]) -> None:
    system, monotonic = 1e9, 0.0
    time = SteadyTime(lambda: system, lambda: monotonic)
    before = time()

    for system_move, monotonic_move in moves:
        system += system_move
        monotonic += monotonic_move
        now = time()
        assert now >= system
        assert now - before >= monotonic_move - 1e-6
        before = now


def test_steady_time_follows_the_system_clock_over_a_sleep_of_the_machine() -> None:
    system = 1e9
    time = SteadyTime(lambda: system, lambda: 5.0)
    time()

    system += 3600

    assert time() == 1e9 + 3600


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1e10)), min_size=1))
def test_rising_time_is_the_latest_moment_seen(seen: list[tuple[bool, float]]) -> None:
    source = 0.0
    time = RisingTime(lambda: source)

    for is_observed, utc in seen:
        if is_observed:
            time.observe(utc)
        else:
            source = utc
            time.read()

    assert time.read() == max(utc for _, utc in seen)
