"""Follows the heads of a chain for ever, whatever happens to the connection.

A subscription of the bittensor package dies with its connection and says so; then it is opened again. A connection that
is merely silent is asked for the newest block, since a chain may also have skipped a slot.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator

import bittensor as bt

from templar_pl.chain.block_clock import BlockClock
from templar_pl.chain.subtensor import SDK_ERRORS, Subtensor
from templar_pl.errors import ChainError
from templar_pl.units import Block

log = logging.getLogger(__name__)

LATE_BLOCKS = 1.5
"""Lengths of a block after which a head is late, and the chain is asked whether it still answers: early enough that a
window whose first block is missed opens less than a block late."""

QUESTION_S = 3.0
"""Seconds in which it must answer."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 8.0
"""Seconds between two attempts to subscribe: doubled each time, and jittered."""


class HeadListener:
    """Tells a clock of every head."""

    def __init__(self, subtensor: Subtensor, clock: BlockClock) -> None:
        """Store the parts.

        Args:
            subtensor: an open connection.
            clock: is told of heads, and of their absence.
        """
        self._subtensor, self._clock = subtensor, clock
        self._pause_s = FIRST_PAUSE_S

    async def run(self) -> None:
        """Follow the heads until cancelled."""
        while True:
            try:
                await self._ask_for_head()
                await self._follow()
            except ChainError as error:
                self._note_lost(error)
            await asyncio.sleep(self._pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - only spreads the load
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    async def _follow(self) -> None:
        """Follow one subscription until it ends. Raises `ChainError` if it dies or the chain does not answer."""
        heads = self._subtensor.client.blocks()
        following = asyncio.ensure_future(self._follow_heads(heads))
        try:
            while not following.done():
                known = self._clock.newest()
                await asyncio.wait({following}, timeout=LATE_BLOCKS * self._clock.block_s)
                if not following.done() and self._clock.newest() == known:
                    await self._ask_for_head()
                    if self._clock.newest() != known:
                        return  # there are heads, but this subscription does not tell
            following.result()
        except SDK_ERRORS as error:
            raise ChainError(f"the subscription died: {error}") from error
        finally:
            # The node is told of the end, if it is still there: that may take for ever.
            following.cancel()
            await asyncio.wait({following}, timeout=QUESTION_S)

    async def _follow_heads(self, heads: AsyncIterator[bt.BlockHeader]) -> None:
        async for head in heads:
            self._note(Block(head.number))
            self._pause_s = FIRST_PAUSE_S

    async def _ask_for_head(self) -> None:
        self._note(Block(await self._subtensor.ask(self._subtensor.client.block(), "cannot read the head", QUESTION_S)))

    def _note(self, head: Block) -> None:
        was_lost = self._clock.is_lost
        counted = self._clock.block()
        self._clock.see(head)
        if was_lost:
            log.warning("the chain is back at block %d; this node had counted to block %d", head, counted)

    def _note_lost(self, error: ChainError) -> None:
        if self._clock.is_lost:
            log.debug("still no chain: %s", error)
            return
        self._clock.lose()
        log.warning(
            "no connection to %s at block %d: blocks are counted by time until it is back: %s",
            self._subtensor.network,
            self._clock.block(),
            error,
        )
