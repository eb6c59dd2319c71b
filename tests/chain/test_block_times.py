"""When blocks were made: by the chain's word, else by the nearest block that is known."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from templar_pl.chain.block_clock import BlockClock
from templar_pl.chain.block_times import FINAL_BLOCKS, WAIT_BLOCKS, ChainTimes
from templar_pl.errors import ChainError
from templar_pl.units import Block
from tests.chain.nodes import ManualTime
from tests.chain.subnets import CountingSubstrate, subtensor_of
from tests.servers.subtensor import FakeSubtensor

T = TypeVar("T")

BLOCK_S = 12.0


class Dated:
    """A chain, a clock that has seen its head, and the times of its blocks."""

    def __init__(self, head: int = 100, seconds_per_block: float = BLOCK_S) -> None:
        self.fake = FakeSubtensor(head=head, seconds_per_block=seconds_per_block)
        self.hand, self.asked = ManualTime(0.0), list[str]()
        self.clock = BlockClock(self.hand)
        self.clock.start(seconds_per_block)
        self.clock.see(Block(head))
        self.subtensor = subtensor_of(self.fake, CountingSubstrate(self.fake, self.asked))
        self.times = ChainTimes(self.subtensor, self.clock, 0.2)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        async def connected() -> T:
            await self.subtensor.connect(1.0)
            try:
                return await work
            finally:
                await self.subtensor.close()

        return asyncio.run(connected())

    def utc(self, block: int) -> float:
        return self.fake.block(block).timestamp_ms / 1000

    def see(self, blocks: int, seconds: float = BLOCK_S) -> None:
        """Let blocks be made and seen, each so many seconds after the last."""
        for _ in range(blocks):
            self.hand.utc += seconds
            self.clock.see(Block(self.fake.mine(seconds=seconds).number))


def test_times_of_blocks_are_those_the_chain_gave_them() -> None:
    chain = Dated()

    assert chain.run(chain.times.read(Block(40))) == chain.utc(40)
    assert chain.run(chain.times.read_or_reckon(Block(99))) == chain.utc(99)


def test_a_block_that_is_final_is_asked_for_once_and_others_each_time() -> None:
    chain = Dated()
    final, fresh = Block(100 - FINAL_BLOCKS), Block(101 - FINAL_BLOCKS)

    for block in (final, final, fresh, fresh):
        chain.run(chain.times.read(block))

    assert chain.asked == ["Now"] * 3


def test_a_block_that_was_replaced_is_dated_anew() -> None:
    chain = Dated()
    before = chain.run(chain.times.read(Block(98)))
    chain.fake.reorganise(4, later_ms=700)

    assert chain.run(chain.times.read(Block(98))) == pytest.approx(before + 0.7, abs=0.01)
    assert chain.run(chain.times.read_or_reckon(Block(98))) == chain.utc(98)


def test_blocks_that_are_only_counted_make_no_other_final() -> None:
    chain = Dated()
    chain.clock.lose()
    chain.hand.utc += 20 * BLOCK_S
    assert chain.clock.block() == 120
    before = chain.run(chain.times.read(Block(98)))
    chain.fake.reorganise(4, later_ms=700)

    assert chain.run(chain.times.read(Block(98))) == pytest.approx(before + 0.7, abs=0.01)


def test_a_block_of_which_there_is_none_yet_has_no_time() -> None:
    chain = Dated()

    with pytest.raises(ChainError, match="time of block 101"):
        chain.run(chain.times.read(Block(101)))


def test_a_block_far_ahead_is_reckoned_at_once_and_one_that_is_due_is_waited_for() -> None:
    chain = Dated(seconds_per_block=0.2)
    chain.run(chain.times.read(Block(100)))

    began = time.monotonic()
    ahead = chain.run(chain.times.read_or_reckon(Block(110)))
    at_once_s, began = time.monotonic() - began, time.monotonic()
    # It never comes, so it is reckoned in the end.
    late = chain.run(chain.times.read_or_reckon(Block(101)))
    waited_s = time.monotonic() - began

    assert ahead == pytest.approx(chain.utc(100) + 10 * 0.2, abs=0.01)
    assert late == pytest.approx(chain.utc(100) + 0.2, abs=0.01)
    assert at_once_s < WAIT_BLOCKS * 0.2 < 2 * WAIT_BLOCKS * 0.2 <= waited_s < 2 * WAIT_BLOCKS * 0.2 + 0.5


def test_a_block_that_comes_while_it_is_waited_for_is_dated_by_the_chain() -> None:
    chain = Dated()

    async def wait() -> float:
        asked = asyncio.ensure_future(chain.times.read_or_reckon(Block(101)))
        await asyncio.sleep(0.1)
        assert not asked.done()
        chain.see(1, seconds=13.0)
        return await asked

    assert chain.run(wait()) == chain.utc(101) == chain.utc(100) + 13.0


def test_the_wait_ends_when_the_chain_is_lost() -> None:
    chain = Dated()
    chain.run(chain.times.read(Block(100)))

    async def wait() -> float:
        asked = asyncio.ensure_future(chain.times.read_or_reckon(Block(101)))
        await asyncio.sleep(0.1)
        chain.clock.lose()
        return await asyncio.wait_for(asked, 1.0)

    assert chain.run(wait()) == pytest.approx(chain.utc(100) + BLOCK_S, abs=0.01)


@given(st.integers(0, 30), st.integers(1, 40), st.integers(0, 60))
def test_without_a_chain_times_go_on_from_the_nearest_block_that_is_known(since: int, passed: int, asked: int) -> None:
    chain = Dated()
    known = chain.run(chain.times.read(Block(100)))
    chain.see(since)
    chain.clock.lose()
    chain.hand.utc += passed * BLOCK_S

    told = asyncio.run(chain.times.read_or_reckon(Block(100 + asked)))

    assert told == pytest.approx(known + asked * BLOCK_S, abs=0.001)


def test_slots_that_were_skipped_before_the_chain_was_lost_count() -> None:
    chain = Dated()
    chain.run(chain.times.read(Block(100)))
    chain.see(3, seconds=2 * BLOCK_S)
    chain.clock.lose()
    chain.hand.utc += 2 * BLOCK_S

    assert chain.run(chain.times.read_or_reckon(Block(103))) == pytest.approx(chain.utc(103), abs=0.01)
    assert chain.run(chain.times.read_or_reckon(Block(105))) == pytest.approx(chain.utc(103) + 2 * BLOCK_S, abs=0.01)


@pytest.mark.parametrize("block", [90, 99])
def test_times_that_were_read_are_known_in_an_outage(block: int) -> None:
    chain = Dated()
    chain.see(5, seconds=17.0)
    told = chain.run(chain.times.read(Block(block)))
    chain.run(chain.times.read(Block(105)))
    chain.fake.link.hang()
    chain.clock.lose()

    async def ask() -> float:
        return await chain.times.read_or_reckon(Block(block))

    assert asyncio.run(ask()) == told


def test_a_chain_that_falls_silent_is_waited_for_and_then_reckoned() -> None:
    chain = Dated()

    async def ask() -> tuple[float, float]:
        await chain.times.read(Block(100))
        chain.fake.link.hang()
        began = time.monotonic()
        return await chain.times.read_or_reckon(Block(99)), time.monotonic() - began

    told, took_s = chain.run(ask())

    assert told == pytest.approx(chain.utc(99), abs=0.01)
    assert 0.19 <= took_s < 1.0


def test_before_any_time_is_known_none_can_be_reckoned() -> None:
    chain = Dated()

    async def ask() -> None:
        chain.fake.link.hang()
        with pytest.raises(ChainError, match="time of block 99 is not known"):
            await chain.times.read_or_reckon(Block(99))
        chain.clock.lose()
        with pytest.raises(ChainError, match="time of no block"):
            await chain.times.read_or_reckon(Block(99))

    chain.run(ask())
