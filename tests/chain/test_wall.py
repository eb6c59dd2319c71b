"""Windows that end by the clock."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from templar_pl.chain.local_chain import LocalChain
from templar_pl.chain.local_config import LocalChainConfig
from templar_pl.chain.wall import block_at
from templar_pl.errors import ChainError
from templar_pl.units import Block, Window
from tests.chain.nodes import START, ManualTime, joined, local_chain, sha

CONFIG = LocalChainConfig(pace="wall", seconds_per_block=12.0, blocks_per_window=7, delta_s=10.0)
WINDOW_S = 84.0


@pytest.fixture
def clock() -> ManualTime:
    return ManualTime()


@pytest.fixture
def chains(tmp_path: Path, clock: ManualTime) -> Iterator[list[LocalChain]]:
    """Two nodes that joined at window 0."""
    chains = [joined(local_chain(tmp_path, name, CONFIG, clock)) for name in "ab"]
    yield chains
    for chain in chains:
        chain.close()


FEWER = settings(max_examples=settings().max_examples // 4)  # each example writes files


@FEWER
@given(
    moves=st.lists(st.floats(-1000, 1000)),
    seconds_per_block=st.floats(0.01, 100),
    blocks_per_window=st.integers(1, 20),
)
def test_the_clock_never_runs_backwards_and_agrees_with_its_blocks(
    tmp_path_factory: pytest.TempPathFactory, moves: list[float], seconds_per_block: float, blocks_per_window: int
) -> None:
    clock = ManualTime()
    config = LocalChainConfig(pace="wall", seconds_per_block=seconds_per_block, blocks_per_window=blocks_per_window)
    chain = local_chain(tmp_path_factory.mktemp("chain"), "a", config, clock)
    chain.open()
    latest, window = clock.utc, chain.window()

    for move in moves:
        clock.utc += move
        latest = max(latest, clock.utc)
        assert chain.window() >= window
        window = chain.window()
        assert window == chain.block() // blocks_per_window
        assert chain.seconds_left(window) > 0
        assert chain.timestamp(chain.block()) <= latest
        assert chain.timestamp(Block(window * blocks_per_window)) <= latest < chain.upload_interval(window)[0]
        assert window == 0 or chain.seconds_left(Window(window - 1)) <= 0
    chain.close()


@given(
    genesis=st.floats(1e9, 2e9),
    seconds_per_block=st.floats(0.001, 3600),
    border=st.integers(-10, 10**6),
    side=st.sampled_from([-math.inf, 0.0, math.inf]),
)
@example(1130781763.0, 2791.7, 698259, -math.inf)  # here the quotient rounds up to the next block
def test_a_block_covers_the_very_moments_from_its_time_to_the_next(
    genesis: float, seconds_per_block: float, border: int, side: float
) -> None:
    moment = genesis + border * seconds_per_block
    utc = math.nextafter(moment, side) if side else moment

    block = block_at(utc, genesis=genesis, seconds_per_block=seconds_per_block)

    assert block >= 0
    assert utc < genesis + (block + 1) * seconds_per_block
    assert block == 0 or genesis + block * seconds_per_block <= utc


def test_uploads_are_taken_from_the_end_of_the_window_until_delta_later(chains: list[LocalChain]) -> None:
    assert chains[0].upload_interval(Window(3)) == (START + 4 * WINDOW_S, START + 4 * WINDOW_S + 10)


@pytest.mark.parametrize(
    ("after_s", "refusal"),
    [
        (0.0, "may land only in 84.000 s"),
        (WINDOW_S - 0.001, "may land only in 0.001 s"),
        (WINDOW_S, None),
        (WINDOW_S + 10, None),
        (WINDOW_S + 10.001, "window 0 is closed since 0.001 s"),
    ],
)
def test_an_announcement_counts_only_inside_the_upload_interval(
    chains: list[LocalChain], clock: ManualTime, after_s: float, refusal: str | None
) -> None:
    clock.utc += after_s

    if refusal is None:
        chains[0].agreement.announce(Window(0), sha("a"))
    else:
        with pytest.raises(ChainError, match=refusal):
            chains[0].agreement.announce(Window(0), sha("a"))

    clock.utc += 2 * WINDOW_S
    expected = {0: sha("a")} if refusal is None else {}
    assert chains[1].agreement.settle(Window(0), 0.0).payloads == expected


def test_a_window_does_not_settle_before_its_uploads_are_over(chains: list[LocalChain], clock: ManualTime) -> None:
    clock.utc += WINDOW_S + 10

    with pytest.raises(ChainError, match=r"within 0 s: its payloads may land for another 0\.0 s"):
        chains[0].agreement.settle(Window(0), 0.0)


def test_all_nodes_get_the_same_list_and_a_silent_one_is_not_waited_for(
    chains: list[LocalChain], clock: ManualTime
) -> None:
    clock.utc += WINDOW_S
    chains[1].agreement.announce(Window(0), sha("b"))
    clock.utc += 10.5

    settlements = [chain.agreement.settle(Window(0), 0.0) for chain in chains]

    assert settlements[0] == settlements[1]
    assert settlements[0].payloads == {1: sha("b")}
    assert (settlements[0].opened_at, settlements[0].closed_at) == chains[0].upload_interval(Window(0))


def test_a_window_closed_by_one_node_is_closed_for_a_node_whose_clock_is_behind(
    tmp_path: Path, chains: list[LocalChain], clock: ManualTime
) -> None:
    behind = joined(local_chain(tmp_path, "c", CONFIG, ManualTime(START + 2)))
    clock.utc += WINDOW_S + 11
    chains[0].agreement.settle(Window(0), 0.0)

    with pytest.raises(ChainError, match="window 0 is closed"):
        behind.agreement.announce(Window(0), sha("c"))

    behind.close()
    behind.open()
    assert behind.window() == 1
    behind.close()


def test_windows_may_be_settled_in_any_order(chains: list[LocalChain], clock: ManualTime) -> None:
    clock.utc += 10 * WINDOW_S

    for window in (Window(5), Window(2), Window(8)):
        assert chains[0].agreement.settle(window, 0.0).payloads == {}


def test_joining_at_any_other_window_than_the_open_one_joins_nothing(
    tmp_path: Path, chains: list[LocalChain], clock: ManualTime
) -> None:
    clock.utc += 2 * WINDOW_S
    late = local_chain(tmp_path, "late", CONFIG, clock)
    late.open()
    late.register()

    assert late.agreement.join(Window(1)) == 2
    with pytest.raises(ChainError, match="does not take part"):
        late.agreement.announce(Window(1), sha("late"))
    late.close()


def test_real_seconds_pass_without_a_clock_of_the_test(tmp_path: Path) -> None:
    config = LocalChainConfig(pace="wall", seconds_per_block=0.02, blocks_per_window=2, delta_s=0.01)
    chain = local_chain(tmp_path, "a", config)
    chain.open()

    settlement = chain.agreement.settle(Window(1), 10.0)

    assert settlement.closed_at - chain.timestamp(Block(0)) == pytest.approx(2 * 2 * 0.02 + 0.01, abs=1e-4)
    assert chain.window() >= 2
    chain.close()
