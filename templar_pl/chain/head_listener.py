"""Follows the heads of a chain for ever, whatever happens to the connection.

A subscription of the bittensor package dies with its connection and says so; then it is opened again. A connection that
is merely silent is asked for the newest block, since a chain may also have skipped a slot. Blocks are counted by time
only while the chain does not answer that question, or answers with the same block for too long (`STALLED_BLOCKS`): a
subscription that died tells nothing about the chain.
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress

from templar_pl.chain.block_clock import BlockClock
from templar_pl.chain.loop_thread import end_task
from templar_pl.chain.subtensor import SDK_ERRORS, Subtensor, words
from templar_pl.errors import ChainError
from templar_pl.units import Block

log = logging.getLogger(__name__)

LATE_BLOCKS = 1.5
"""Lengths of a block after which a head is late, and the chain is asked whether it still answers: early enough that a
window whose first block is missed opens less than a block late."""

AGAIN_BLOCKS = 0.5
"""Lengths of a block after which it is asked again, while the head stays late."""

QUESTION_BLOCKS, LEAST_QUESTION_S = 0.25, 0.1
"""Lengths of a block in which it must answer, and seconds that it has in any case; see `LATE_BLOCKS`."""

LOST_QUESTION_S = 3.0
"""Seconds in which it must answer once it is lost, when nothing is late any more."""

GOODBYE_S = 1.0
"""Seconds a node is given to hear that a subscription ends; one that is gone never does."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 8.0
"""Seconds between two attempts to subscribe: doubled each time, and jittered."""


class HeadListener:
    """Tells a clock of every head."""

    def __init__(self, subtensor: Subtensor, clock: BlockClock) -> None:
        """Store the parts.

        Args:
            subtensor: an open connection.
            clock: is told of heads, and of their absence; it has seen one already.
        """
        self._subtensor, self._clock = subtensor, clock
        self._pause_s = FIRST_PAUSE_S

    async def run(self) -> None:
        """Follow the heads until cancelled."""
        try:
            while True:
                with suppress(ChainError):
                    await self._ask_for_head()
                    await self._follow()
                await asyncio.sleep(self._pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - only spreads the load
                self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        finally:
            self._clock.lose()  # whatever ended this: nobody listens

    async def _follow(self) -> None:
        """Follow one subscription until it ends. Raises `ChainError` if the chain does not answer."""
        following = asyncio.ensure_future(self._follow_heads())
        try:
            await self._watch(following)
        finally:
            await end_task(following, GOODBYE_S)

    async def _watch(self, following: asyncio.Task[None]) -> None:
        while True:
            late_s = self._seconds_until_late()
            await asyncio.wait({following}, timeout=late_s if late_s > 0 else AGAIN_BLOCKS * self._clock.block_s)
            if not following.done() and self._seconds_until_late() > 0:
                continue
            known = self._clock.newest()
            await self._ask_for_head()
            if following.done():
                return following.result()
            if self._clock.newest() != known:
                return None  # there are heads, but this subscription does not tell

    async def _follow_heads(self) -> None:
        try:
            async for head in self._subtensor.client.blocks():
                self._note(Block(head.number))
                self._pause_s = FIRST_PAUSE_S
        except SDK_ERRORS as error:
            log.debug("the subscription died: %s", words(error))

    async def _ask_for_head(self) -> None:
        """Ask for the newest block. Raises `ChainError`, and blocks are counted by time, if there is no answer."""
        timeout_s = max(LEAST_QUESTION_S, QUESTION_BLOCKS * self._clock.block_s)
        asked = self._subtensor.client.block()
        try:
            head = await self._subtensor.ask(
                asked, "cannot read the head", LOST_QUESTION_S if self._clock.is_lost else timeout_s
            )
        except ChainError as error:
            if self._is_news(error):
                log.warning(
                    "no connection to %s at block %d: blocks are counted by time until it is back: %s",
                    self._subtensor.network,
                    self._clock.block(),
                    error,
                )
            raise
        self._note(Block(head))
        if (stalled_s := self._clock.stalled_s()) is not None:
            stalled = ChainError(f"{self._subtensor.network} answers, but has made no block for {stalled_s:.0f} s")
            if self._is_news(stalled):
                log.warning("%s; its newest is %d: blocks are counted by time until it makes more", stalled, head)
            raise stalled

    def _seconds_until_late(self) -> float:
        newest = self._clock.newest()
        return 0.0 if newest is None else LATE_BLOCKS * self._clock.block_s + self._clock.seconds_until(newest)

    def _note(self, head: Block) -> None:
        was_lost, counted = self._clock.is_lost, self._clock.block()
        self._clock.see(head)
        if was_lost and not self._clock.is_lost:
            log.warning("the chain is back at block %d; this node had counted to block %d", head, counted)

    def _is_news(self, error: ChainError) -> bool:
        """Have blocks counted by time; return whether they were not before."""
        is_news = not self._clock.is_lost
        self._clock.lose()
        if not is_news:
            log.debug("still no chain: %s", error)
        return is_news
