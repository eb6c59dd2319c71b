"""Whom a validator evaluates."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.scoring import choose_evaluated
from templar_pl.units import Uid, Window

queues = st.dictionaries(st.integers(0, 300).map(Uid), st.integers(0, 50).map(Window), max_size=20)
windows = st.integers(51, 10**6).map(Window)


@given(windows, queues, st.integers(1, 25))
def test_half_of_the_chosen_have_waited_as_long_as_anybody_left_out(
    window: Window, queue: dict[Uid, Window], count: int
) -> None:
    chosen = choose_evaluated(window, queue, count)

    left_out = queue.keys() - set(chosen)
    assert len(chosen) == min(count, len(queue))
    assert chosen == sorted(set(chosen))
    assert all(2 * sum(queue[one] <= queue[other] for one in chosen) >= count for other in left_out)


@given(windows, queues, st.integers(1, 25))
def test_the_order_of_the_miners_does_not_matter(window: Window, queue: dict[Uid, Window], count: int) -> None:
    assert choose_evaluated(window, dict(reversed(queue.items())), count) == choose_evaluated(window, queue, count)


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 8), st.randoms(use_true_random=False))
def test_nobody_starves_whoever_comes_and_goes(miners: int, count: int, newcomers: int, chance: random.Random) -> None:
    """Uid 0 is always there, others at random, and in every window there are miners never seen before."""
    since = {Uid(uid): Window(0) for uid in range(miners)}
    first = (count + 1) // 2
    waited, allowed = 0, -(-miners // first)
    for window in map(Window, range(1, 4 * allowed + 1)):
        since.update({Uid(1000 * window + number): window for number in range(newcomers)})
        present = {uid: at for uid, at in since.items() if uid == 0 or chance.random() < 0.7}
        chosen = choose_evaluated(window, present, count)
        for uid in chosen:
            since[uid] = window
        waited = 0 if 0 in chosen else waited + 1
        # Those before uid 0 in the queue are fewer than all who joined until its last evaluation.
        allowed = max(allowed, -(-sum(at <= since[Uid(0)] for at in since.values()) // first))
        assert waited <= allowed


def test_equal_miners_take_turns_in_another_order_each_window() -> None:
    queue = {Uid(uid): Window(0) for uid in range(20)}

    assert len({tuple(choose_evaluated(Window(window), queue, 3)) for window in range(1, 30)}) > 20


def test_a_choice_is_written_down() -> None:
    queue = {Uid(uid): Window(0) for uid in range(8)} | {Uid(5): Window(1)}

    assert choose_evaluated(Window(7), queue, 3) == choose_evaluated(Window(7), dict(queue), 3)
    assert choose_evaluated(Window(7), {Uid(1): Window(3), Uid(2): Window(2), Uid(9): Window(5)}, 1) == [2]


def test_everybody_meets_everybody() -> None:
    since, met = {Uid(uid): Window(0) for uid in range(8)}, set()
    for window in map(Window, range(1, 60)):
        chosen = choose_evaluated(window, since, 4)
        met |= {(one, other) for one in chosen for other in chosen if one < other}
        for uid in chosen:
            since[uid] = window

    assert len(met) == 8 * 7 / 2


def test_choosing_nobody_is_a_bug() -> None:
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        choose_evaluated(Window(1), {}, 0)
