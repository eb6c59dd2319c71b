"""The clock of a public chain: heads where there are some, monotonic time where there are none."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.chain.block_clock import NUM_REMEMBERED, SOON_S, STALLED_BLOCKS, BlockClock
from templar_pl.units import Block
from tests.chain.nodes import ManualTime

BLOCK_S = 12.0
BLOCKS_PER_WINDOW = 7


@dataclass(frozen=True)
class Event:
    """Something that happens to a node, some seconds after the last."""

    after_s: float
    kind: str
    """`head`, `repeat`, `older`, `skip` (heads that never arrive), `cut` or `ask`."""


def clock_at(head: int, time: ManualTime) -> BlockClock:
    clock = BlockClock(time)
    clock.start(BLOCK_S)
    clock.see(Block(head))
    return clock


def events(*kinds: str) -> st.SearchStrategy[list[Event]]:
    pause = st.one_of(st.floats(0, 3 * BLOCK_S), st.just(BLOCK_S), st.just(0.0))
    return st.lists(st.builds(Event, pause, st.sampled_from(kinds)), max_size=60)


def happen(clock: BlockClock, time: ManualTime, head: int, event: Event) -> int:
    """Let an event happen, and return the newest head after it."""
    time.utc += event.after_s
    match event.kind:
        case "head" | "skip":
            head += 1 if event.kind == "head" else 5
            clock.see(Block(head))
        case "repeat":
            clock.see(Block(head))
        case "older":
            clock.see(Block(max(0, head - 3)))
        case "cut":
            clock.lose()
    return head


@given(st.integers(0, 10**7), events("head", "skip", "repeat", "older", "cut", "ask"))
def test_windows_never_run_backwards(head: int, happened: list[Event]) -> None:
    time = ManualTime()
    clock = clock_at(head, time)
    windows = [clock.block() // BLOCKS_PER_WINDOW]

    for event in happened:
        head = happen(clock, time, head, event)
        windows.append(clock.block() // BLOCKS_PER_WINDOW)

    assert windows == sorted(windows)


@given(st.integers(0, 10**7), events("head", "skip", "repeat", "older", "ask"))
def test_while_heads_arrive_the_window_is_that_of_the_newest_head(head: int, happened: list[Event]) -> None:
    time = ManualTime()
    clock = clock_at(head, time)

    for event in happened:
        head = happen(clock, time, head, event)
        assert clock.block() // BLOCKS_PER_WINDOW == head // BLOCKS_PER_WINDOW
        assert clock.block() == clock.newest() == head


@given(st.integers(0, 10**7), events("head", "skip", "repeat", "cut", "ask"))
def test_at_every_head_the_window_is_that_of_the_head_or_one_that_was_open_before(
    head: int, happened: list[Event]
) -> None:
    time = ManualTime()
    clock = clock_at(head, time)

    for event in happened:
        time.utc += event.after_s
        before = clock.block()
        head = happen(clock, time, head, replace(event, after_s=0.0))
        assert clock.block() == max(head, before) if event.kind != "cut" else clock.block() >= before


@given(st.integers(0, 10**7), events("head", "skip", "repeat", "older", "cut", "ask"), st.integers(-40, 40))
def test_a_block_is_there_exactly_when_no_seconds_are_left_until_it(
    head: int, happened: list[Event], ahead: int
) -> None:
    time = ManualTime()
    clock = clock_at(head, time)

    for event in happened:
        head = happen(clock, time, head, event)
        block = Block(max(0, head + ahead))
        assert (clock.seconds_until(block) <= 0) == (clock.block() >= block)
        assert math.isfinite(clock.seconds_until(block))


@given(st.integers(0, 10**7), events("head", "skip", "cut", "ask"))
def test_earlier_blocks_came_earlier(head: int, happened: list[Event]) -> None:
    time = ManualTime()
    clock = clock_at(head, time)

    for event in happened:
        head = happen(clock, time, head, event)
    until = [clock.seconds_until(Block(block)) for block in range(max(0, head - 30), head + 30)]

    assert all(earlier <= later + 1e-6 for earlier, later in itertools.pairwise(until))


@given(st.integers(0, 1000), st.floats(0, 100 * BLOCK_S))
def test_without_heads_blocks_are_counted_by_time(head: int, seconds: float) -> None:
    time = ManualTime(0.0)
    clock = clock_at(head, time)
    clock.lose()
    time.utc = seconds

    assert clock.block() == head + seconds // BLOCK_S


def test_what_was_counted_too_far_is_held_until_the_heads_are_there() -> None:
    time = ManualTime()
    clock = clock_at(100, time)
    clock.lose()
    time.utc += 5 * BLOCK_S
    assert clock.block() == 105

    blocks = []
    for head in range(103, 108):
        clock.see(Block(head))
        blocks.append(clock.block())
        time.utc += BLOCK_S

    assert blocks == [105, 105, 105, 106, 107]


def test_a_chain_that_makes_no_head_and_is_not_lost_is_not_counted_on() -> None:
    time = ManualTime()
    clock = clock_at(100, time)
    time.utc += 10 * BLOCK_S
    clock.see(Block(100))

    assert clock.block() == 100
    assert clock.seconds_until(Block(101)) == SOON_S


@pytest.mark.parametrize(
    ("age_blocks", "head", "is_lost"), [(4.9, 100, False), (5.1, 100, True), (5.1, 97, True), (5.1, 101, False)]
)
def test_a_chain_that_is_back_is_lost_only_while_its_newest_head_is_too_old(
    age_blocks: float, head: int, is_lost: bool
) -> None:
    time = ManualTime(0.0)
    clock = clock_at(100, time)
    clock.lose()
    time.utc = age_blocks * BLOCK_S
    clock.see(Block(head))

    assert clock.is_lost == is_lost


def test_a_chain_stands_still_when_its_newest_head_is_older_than_five_blocks() -> None:
    time = ManualTime(0.0)
    clock = clock_at(100, time)
    time.utc = STALLED_BLOCKS * BLOCK_S
    assert clock.stalled_s() is None
    time.utc += 1
    clock.see(Block(100))
    assert clock.stalled_s() == STALLED_BLOCKS * BLOCK_S + 1
    clock.see(Block(101))
    assert clock.stalled_s() is None


def test_a_connection_that_comes_back_before_the_next_head_is_counted_from_the_last_head() -> None:
    time = ManualTime(0.0)
    clock = clock_at(100, time)
    time.utc = 0.75 * BLOCK_S
    clock.lose()
    clock.see(Block(100))
    clock.lose()
    time.utc = 1.25 * BLOCK_S

    assert clock.block() == 101


def test_seconds_count_down_to_a_block_and_on() -> None:
    time = ManualTime(0.0)
    clock = clock_at(100, time)
    time.utc = 4.0
    assert clock.seconds_until(Block(102)) == 2 * BLOCK_S - 4.0

    time.utc = 13.0
    clock.see(Block(101))
    time.utc = 20.0
    assert clock.seconds_until(Block(101)) == -7.0
    assert clock.seconds_until(Block(100)) == -20.0


def test_of_heads_that_never_arrived_the_time_is_spread() -> None:
    time = ManualTime(0.0)
    clock = clock_at(100, time)
    time.utc = 40.0
    clock.see(Block(104))

    assert [clock.seconds_until(Block(block)) for block in range(100, 105)] == [-40.0, -30.0, -20.0, -10.0, 0.0]


def test_a_gap_longer_than_what_is_remembered_is_no_harm() -> None:
    time = ManualTime(0.0)
    clock = clock_at(0, time)
    time.utc = 3600.0
    head = 10 * NUM_REMEMBERED
    clock.see(Block(head))

    assert clock.block() == head
    assert clock.seconds_until(Block(head)) == 0.0
    step_s = 3600.0 / head
    assert clock.seconds_until(Block(head - 1)) == pytest.approx(-step_s)
    assert clock.seconds_until(Block(head - NUM_REMEMBERED + 1)) == pytest.approx(-(NUM_REMEMBERED - 1) * step_s)


def test_a_clock_that_has_seen_no_head_knows_nothing() -> None:
    clock = BlockClock(ManualTime())
    clock.start(BLOCK_S)
    clock.lose()

    assert clock.block() == 0
    assert clock.newest() is None
    assert clock.seconds_until(Block(1)) == math.inf
    assert clock.uncertainty_s() == math.inf


def test_uncertainty_is_the_largest_deviation_and_grows_without_heads() -> None:
    time = ManualTime(0.0)
    clock = clock_at(100, time)
    for block, seconds in ((101, 12.5), (102, 24.0), (103, 39.0)):
        time.utc = seconds
        clock.see(Block(block))
    assert clock.uncertainty_s() == pytest.approx(3.0)

    clock.lose()
    time.utc += 120.0
    late = (39.0 / 3 - BLOCK_S) / BLOCK_S
    assert clock.uncertainty_s() == pytest.approx(3.0 + 120.0 * late)
