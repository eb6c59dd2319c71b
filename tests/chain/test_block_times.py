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
from templar_pl.chain.block_times import FINAL_BLOCKS, NEAR_BLOCKS, NUM_PATIENCES, WAIT_BLOCKS, ChainTimes
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


@given(st.integers(0, 30), st.integers(1, 40), st.integers(0, NEAR_BLOCKS) | st.integers(31, 60))
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


class Failing(CountingSubstrate):
    """A connection whose next answers fail, or never come."""

    def __init__(self, fake: FakeSubtensor, num_failing: int, wait_s: float = 0.0) -> None:
        super().__init__(fake, [])
        self._num_failing, self._wait_s = num_failing, wait_s

    async def query(
        self, module: str, storage_function: str, params: list[Any] | None = None, block_hash: str | None = None
    ) -> Any:
        if self._num_failing > 0:
            self._num_failing -= 1
            await asyncio.sleep(self._wait_s)
            raise OSError("a hiccup")
        return await super().query(module, storage_function, params, block_hash)


@pytest.mark.parametrize(("num_failing", "wait_s"), [(3, 0.0), (1, 3600.0)])
def test_a_read_that_fails_for_a_block_that_was_made_is_repeated(num_failing: int, wait_s: float) -> None:
    chain = Dated(head=900)
    chain.fake.reorganise(700, later_ms=84_000)  # slots that were skipped
    chain.run(chain.times.read(Block(900)))
    chain.subtensor = subtensor_of(chain.fake, Failing(chain.fake, num_failing, wait_s))
    chain.times = ChainTimes(chain.subtensor, chain.clock, 0.2)

    assert chain.run(chain.times.read_or_reckon(Block(200))) == chain.utc(200)


def test_a_chain_that_does_not_tell_of_a_block_that_was_made_is_asked_for_a_bounded_time() -> None:
    chain = Dated()

    async def ask() -> float:
        await chain.times.read(Block(100))
        chain.fake.link.hang()
        began = time.monotonic()
        with pytest.raises(ChainError, match="time of block 99 is not known"):
            await chain.times.read_or_reckon(Block(99))
        return time.monotonic() - began

    assert 0.25 <= chain.run(ask()) <= NUM_PATIENCES * 0.2 + 0.2


def test_a_chain_that_is_lost_while_it_is_asked_is_not_waited_for() -> None:
    chain = Dated()

    async def ask() -> float:
        await chain.times.read(Block(100))
        chain.fake.link.hang()
        asked = asyncio.ensure_future(chain.times.read_or_reckon(Block(99)))
        await asyncio.sleep(0.05)
        chain.clock.lose()
        return await asked

    assert chain.run(ask()) == pytest.approx(chain.utc(99), abs=0.01)


def test_in_an_outage_a_block_far_from_those_that_are_known_is_read_or_an_error() -> None:
    chain = Dated()
    chain.run(chain.times.read(Block(100)))
    far, near = Block(100 - NEAR_BLOCKS - 1), Block(100 - NEAR_BLOCKS)

    async def ask() -> None:
        chain.clock.lose()
        assert await chain.times.read_or_reckon(near) == pytest.approx(chain.utc(near), abs=0.01)
        chain.fake.link.hang()
        with pytest.raises(ChainError, match=f"time of block {far} is not known"):
            await chain.times.read_or_reckon(far)
        chain.fake.link.mend()  # it answers, though it makes no blocks
        assert await chain.times.read_or_reckon(far) == chain.utc(far)

    chain.run(ask())


def test_of_the_times_that_are_reckoned_in_an_outage_the_first_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    chain = Dated()

    async def ask() -> None:
        for _ in range(2):
            head = chain.clock.newest() or Block(0)
            await chain.times.read(head)
            await chain.times.read_or_reckon(Block(head + 50))  # far ahead: an estimate
            chain.clock.lose()
            chain.hand.utc += 4 * BLOCK_S
            for block in range(head, head + 4):
                await chain.times.read_or_reckon(Block(block))
            chain.see(5)

    chain.run(ask())

    warnings = [record.getMessage() for record in caplog.records]
    assert [line.split(",")[0] for line in warnings] == [
        "the time of block 101 is reckoned",
        "the time of block 106 is reckoned",
    ]


def test_a_time_near_the_newest_head_is_always_known() -> None:
    chain = Dated(seconds_per_block=0.02)

    async def follow() -> None:
        keeping = asyncio.ensure_future(chain.times.keep_near())
        for _ in range(10 * NEAR_BLOCKS):
            chain.see(1, seconds=0.02)
            await asyncio.sleep(0.02)
        keeping.cancel()
        chain.fake.link.hang()
        chain.clock.lose()
        head = chain.fake.head.number
        for block in (head - 3, head):
            assert await chain.times.read_or_reckon(Block(block)) == pytest.approx(chain.utc(block), abs=0.01)

    chain.run(follow())

    assert 10 <= len(chain.asked) <= 25


def test_before_any_time_is_known_none_can_be_reckoned() -> None:
    chain = Dated()

    async def ask() -> None:
        chain.fake.link.hang()
        with pytest.raises(ChainError, match="time of block 99 is not known"):
            await chain.times.read_or_reckon(Block(99))
        chain.clock.lose()
        with pytest.raises(ChainError, match="time of no block"):
            await chain.times.read_or_reckon(Block(101))

    chain.run(ask())
