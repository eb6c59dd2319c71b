"""When the blocks of a public chain were made, and when those to come will be."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from templar_pl.chain.block_clock import BlockClock
from templar_pl.chain.subtensor import Subtensor
from templar_pl.errors import ChainError
from templar_pl.units import Block

FINAL_BLOCKS = 8
"""Blocks that must follow one that is not asked for again: those before may still be replaced by others of their
number. A chain of Bittensor is some 2 to 4 blocks from being final."""

NUM_KEPT = 4096
"""Block times kept."""

WAIT_BLOCKS = 2.0
"""Lengths of a block that a time is waited for at most, beside those until the block is due."""

STEP_S = 0.05
"""Seconds between two looks at the clock."""


class ChainTimes:
    """Reads the times of blocks, and keeps them for when they cannot change any more or cannot be read."""

    def __init__(self, subtensor: Subtensor, clock: BlockClock, timeout_s: float) -> None:
        """Store the parts.

        Args:
            subtensor: an open connection.
            clock: of blocks.
            timeout_s: seconds in which the chain must answer.
        """
        self._subtensor, self._clock, self._timeout_s = subtensor, clock, timeout_s
        self._known: OrderedDict[Block, float] = OrderedDict()
        self._final: set[Block] = set()

    async def read(self, block: Block) -> float:
        """Return the UTC seconds of a block. Raises `ChainError` if there is none, or it does not answer in time."""
        if block in self._final:
            return self._known[block]
        asked = self._subtensor.client.timestamp(block)
        utc = (await self._subtensor.ask(asked, f"the time of block {block} is not known", self._timeout_s)).timestamp()
        self._keep(block, utc)
        return utc

    async def read_or_reckon(self, block: Block) -> float:
        """Return the UTC seconds of a block, or when it should come if that cannot be known.

        A block that is due within `WAIT_BLOCKS` lengths is waited for as long again. One further ahead, one that does
        not come, and one the chain does not answer about are reckoned from the nearest block whose time is known, by
        the time between their heads as this node saw or expects them. Other nodes may then judge by another time, apart
        by as much as the chain was late since.

        Raises:
            ChainError: no time of any block is known.
        """
        patience_s = WAIT_BLOCKS * self._clock.block_s
        if self._clock.seconds_until(block) <= patience_s:
            await self._wait_for(block, 2 * patience_s)
            if not self._clock.is_lost and self._newest() >= block:
                try:
                    return await self.read(block)
                except ChainError:
                    if not self._known:
                        raise
        return self._reckon(block)

    def _reckon(self, block: Block) -> float:
        if not self._known:
            raise ChainError(f"the time of block {block} is not known: the chain has told the time of no block yet")
        if block in self._known:
            return self._known[block]
        nearest = min(self._known, key=lambda known: (abs(known - block), known))
        return self._known[nearest] + self._clock.seconds_until(block) - self._clock.seconds_until(nearest)

    def _keep(self, block: Block, utc: float) -> None:
        self._known[block] = utc
        if self._newest() - block >= FINAL_BLOCKS:
            self._final.add(block)
        if len(self._known) > NUM_KEPT:
            self._final.discard(self._known.popitem(last=False)[0])

    async def _wait_for(self, block: Block, patience_s: float) -> None:
        deadline = asyncio.get_running_loop().time() + patience_s
        while self._newest() < block and not self._clock.is_lost and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(min(STEP_S, patience_s))

    def _newest(self) -> Block:
        """Return the newest head that was seen: what was counted on without heads is not made, and makes no final."""
        return self._clock.newest() or Block(0)
