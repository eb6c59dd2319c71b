"""Which parameters a miner's gradient was taken at."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from templar_pl.scoring import Lineage, SyncObservation
from templar_pl.scoring.lineage import MAX_WINDOWS
from templar_pl.units import Uid, Window

START = Window(10)
EMPTY = Lineage(START, {})


def print_of(number: int) -> bytes:
    return number.to_bytes(32, "little")


def walk(windows: list[int], max_steps: float) -> Lineage:
    lineage = EMPTY
    for window in windows:
        lineage = lineage.seen(Window(window), print_of(window), max_steps)
    return lineage


@given(st.integers(0, 30), st.integers(0, 12), st.floats(0.1, 9))
def test_steps_are_the_windows_since_the_parameters_were_those(length: int, behind: int, max_steps: float) -> None:
    last = START + length
    lineage = walk(list(range(START, last + 1)), max_steps)

    seen = lineage.observe(Uid(3), print_of(last - behind), Window(last), max_steps)

    if behind <= length and behind <= -(-max_steps // 1):
        assert seen == SyncObservation(uid=Uid(3), steps_behind=float(behind))
    else:  # so old that it earns nothing, or never there at all
        assert seen == SyncObservation(uid=Uid(3), steps_behind=None)


@given(st.sets(st.integers(START, START + 20), min_size=1), st.integers(1, 6))
def test_nobody_is_called_unknown_by_a_validator_that_missed_windows(seen: set[int], max_steps: int) -> None:
    lineage = walk(sorted(seen), max_steps)
    last = max(seen)
    is_complete = all(window in seen for window in range(max(START, last - max_steps), last + 1))

    observation = lineage.observe(Uid(0), print_of(999), Window(last), max_steps)

    assert (observation is not None) == is_complete


def test_parameters_of_a_window_that_was_not_followed_say_nothing_about_it() -> None:
    lineage = walk(list(range(START, START + 5)), 3)

    assert lineage.observe(Uid(0), print_of(999), Window(START + 5), 3) is None
    assert lineage.observe(Uid(0), print_of(START + 4), Window(START + 5), 3) == SyncObservation(
        uid=Uid(0), steps_behind=1.0
    )


def test_of_equal_parameters_the_newest_count() -> None:
    lineage = EMPTY
    for window in range(START, START + 4):
        lineage = lineage.seen(Window(window), b"e" * 32, 3)

    assert lineage.observe(Uid(0), b"e" * 32, Window(START + 3), 3) == SyncObservation(uid=Uid(0), steps_behind=0.0)


named = st.dictionaries(st.integers(0, 9).map(Uid), st.integers(START - 2, START + 9).map(print_of), max_size=8)


@given(named, st.integers(0, 6))
def test_the_own_parameters_are_doubted_only_where_two_agree_on_unknown_ones_and_nobody_has_them(
    said: dict[Uid, bytes], length: int
) -> None:
    last = START + length
    lineage = walk(list(range(START, last + 1)), 3)

    others = lineage.contradicted_by(Window(last), said)

    votes = [
        sum(seen == other for other in said.values()) for seen in said.values() if seen not in lineage.prints.values()
    ]
    assert bool(others) == (print_of(last) not in said.values() and max(votes, default=0) >= 2)
    assert list(others) == sorted(others)
    assert len({said[uid] for uid in others}) <= 1
    assert len(others) in (0, max(votes, default=0))


def test_miners_who_agree_on_parameters_of_the_past_are_behind_and_nobody_doubts() -> None:
    lineage = walk(list(range(START, START + 5)), 3)
    said = {Uid(1): print_of(START + 2), Uid(2): print_of(START + 2)}

    assert lineage.contradicted_by(Window(START + 4), said) == ()
    assert lineage.contradicted_by(Window(START + 4), said | {Uid(3): b"x" * 32, Uid(5): b"x" * 32}) == (3, 5)


def test_whoever_has_no_parameters_of_a_window_cannot_be_contradicted() -> None:
    lineage = walk([START], 3)
    said = {Uid(1): b"x" * 32, Uid(2): b"x" * 32}

    assert lineage.contradicted_by(Window(START), said) == (1, 2)
    assert lineage.contradicted_by(Window(START + 1), said) == ()
    assert lineage.forgotten() == EMPTY


@given(st.floats(0.1, 1e6))
def test_no_more_is_remembered_than_counts(max_steps: float) -> None:
    lineage = walk(list(range(START, START + 40)), max_steps)

    assert len(lineage.prints) == min(40, 1 + -(-max_steps // 1), MAX_WINDOWS)
