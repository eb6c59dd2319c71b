"""A node keeps hearing of blocks, whatever becomes of its subscription."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from templar_pl.chain.block_clock import STALLED_BLOCKS, BlockClock
from tests.chain.nodes import wait_until
from tests.chain.subnets import CountingSubstrate, Subnet, lines_of


def test_a_subscription_that_dies_while_the_chain_answers_is_renewed_without_a_word(tmp_path: Path) -> None:
    subnet = Subnet(tmp_path, head=100, seconds_per_block=12.0)
    subnet.join("own")
    link = subnet.fake.link
    try:
        with lines_of("local") as lines:
            node = subnet.opened("own")
            wait_until(lambda: link.num_subscribed == 1)
            link.drop()
            wait_until(lambda: link.num_subscribed == 1)
            head = subnet.fake.mine().number
            wait_until(lambda: node.block() == head)
    finally:
        subnet.close()

    assert lines == []


def test_a_chain_that_skips_a_few_slots_and_answers_is_not_lost(tmp_path: Path) -> None:
    subnet = Subnet(tmp_path, head=100, seconds_per_block=1.2)
    subnet.join("own")
    try:
        with lines_of("local") as lines:
            node = subnet.opened("own")
            time.sleep(3.0)
            assert node.block() == 100
    finally:
        subnet.close()

    assert lines == []


def test_a_chain_that_answers_and_stands_still_is_lost_until_it_makes_blocks_again(tmp_path: Path) -> None:
    subnet = Subnet(tmp_path, head=100, seconds_per_block=0.2)
    subnet.join("own")
    try:
        with lines_of("local") as lines:
            clock = BlockClock()
            node = subnet.opened("own", clock=clock)
            wait_until(lambda: subnet.fake.link.num_subscribed == 1)
            wait_until(lambda: node.block() >= 100 + 2 * STALLED_BLOCKS)
            assert clock.is_lost
            head = subnet.fake.mine(20).number
            wait_until(lambda: not clock.is_lost)
            assert node.block() >= head
            wait_until(lambda: subnet.fake.link.num_subscribed == 1)
    finally:
        subnet.close()

    assert len(lines) == 2, lines
    assert "local answers, but has made no block for 1 s; its newest is 100: blocks are counted by time" in lines[0]
    assert "the chain is back at block 120" in lines[1]


class Odd(Exception):  # noqa: N818 - as the package might raise it
    """An error that nobody knows of."""


class Stumbling(CountingSubstrate):
    """A connection whose first subscription dies of something unheard of."""

    async def blocks(self, *, finalized: bool = False) -> AsyncIterator[dict[str, Any]]:
        self.asked.append("blocks")
        if self.asked.count("blocks") == 1:
            raise Odd("of a subscription")
        async for head in super().blocks(finalized=finalized):
            yield head


class Mute(CountingSubstrate):
    """A connection whose first subscription tells nothing."""

    async def blocks(self, *, finalized: bool = False) -> AsyncIterator[dict[str, Any]]:
        self.asked.append("blocks")
        if self.asked.count("blocks") == 1:
            await asyncio.sleep(3600)
        async for head in super().blocks(finalized=finalized):
            yield head


class Clinging(CountingSubstrate):
    """A connection whose first subscription tells nothing, and whose end nobody is told of."""

    async def blocks(self, *, finalized: bool = False) -> AsyncIterator[dict[str, Any]]:
        self.asked.append("blocks")
        if self.asked.count("blocks") == 1:
            try:
                await asyncio.sleep(3600)
            finally:
                try:
                    await asyncio.sleep(3600)
                finally:
                    self.asked.append("gone")
        async for head in super().blocks(finalized=finalized):
            yield head


def test_a_subscription_that_will_not_end_is_let_go_of(tmp_path: Path) -> None:
    subnet = Subnet(tmp_path, head=100, seconds_per_block=0.2)
    subnet.join("own")
    try:
        subnet.opened("own", open_substrate=lambda: Clinging(subnet.fake, subnet.asked))
        wait_until(lambda: "blocks" in subnet.asked)
        subnet.fake.mine(4)
        wait_until(lambda: "gone" in subnet.asked, 3.0)
    finally:
        subnet.close()


def test_a_listener_that_falls_over_is_started_again_while_blocks_are_counted_by_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    subnet = Subnet(tmp_path, head=100, seconds_per_block=0.2)
    subnet.join("own")
    try:
        clock = BlockClock()
        node = subnet.opened("own", clock=clock, open_substrate=lambda: Stumbling(subnet.fake, subnet.asked))
        wait_until(lambda: clock.is_lost)
        wait_until(lambda: node.block() >= 102)
        head = subnet.fake.mine(50).number
        wait_until(lambda: node.block() == head)
        assert not clock.is_lost
    finally:
        subnet.close()

    fallen = [record for record in caplog.records if "the listener to the chain stopped" in record.message]
    assert [str(record.exc_info[1]) for record in fallen if record.exc_info] == ["of a subscription"]


def test_a_subscription_that_tells_nothing_is_replaced(tmp_path: Path) -> None:
    subnet = Subnet(tmp_path, head=100, seconds_per_block=1.2)
    subnet.join("own")
    try:
        with lines_of("local") as lines:
            node = subnet.opened("own", open_substrate=lambda: Mute(subnet.fake, subnet.asked))
            wait_until(lambda: "blocks" in subnet.asked)
            subnet.fake.mine(4)
            wait_until(lambda: node.block() == 104, 12.0)
            wait_until(lambda: subnet.asked.count("blocks") == 2, 12.0)
    finally:
        subnet.close()

    assert lines == []
