"""When the blocks of a public chain were made, and when those to come will be."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict

from templar_pl.chain.block_clock import BlockClock
from templar_pl.chain.subtensor import Subtensor
from templar_pl.errors import ChainError
from templar_pl.units import Block

log = logging.getLogger(__name__)

FINAL_BLOCKS = 8
"""Blocks that must follow one that is not asked for again: those before may still be replaced by others of their
number. A chain of Bittensor is some 2 to 4 blocks from being final."""

NEAR_BLOCKS = FINAL_BLOCKS
"""Blocks over which the time of one that was made is reckoned from another in an outage; beyond, skipped slots would
make nodes judge by times too far apart."""

NUM_KEPT = 4096
"""Block times kept."""

WAIT_BLOCKS = 2.0
"""Lengths of a block that a time is waited for at most, beside those until the block is due."""

STEP_S = 0.05
"""Seconds between two looks at the clock."""

NUM_PATIENCES = 2
"""Time-outs of a request for which the time of a block that was made is asked for."""

PAUSE_S, PAUSE_SHARE = 0.5, 0.25
"""Seconds between two of those questions, and the share of the time-out that they are at most."""


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
        self._has_warned = False

    async def keep_near(self) -> None:
        """Read the time of a head every few blocks, so that one near it is known in an outage. Until cancelled."""
        while True:
            newest = self._newest()
            if not self._clock.is_lost and newest - max(self._known, default=-NEAR_BLOCKS) >= NEAR_BLOCKS // 2:
                try:
                    await self.read(newest)
                except ChainError as error:
                    log.debug("%s", error)
            await asyncio.sleep(self._clock.block_s)

    async def read(self, block: Block) -> float:
        """Return the UTC seconds of a block. Raises `ChainError` if there is none, or it does not answer in time."""
        return await self._read(block, self._timeout_s)

    async def read_or_reckon(self, block: Block) -> float:
        """Return the UTC seconds of a block, or when it should come if that cannot be known.

        A block that was seen is read, and asked for again for `NUM_PATIENCES` time-outs; in an outage it is what it was
        when it was read last, or reckoned if a block within `NEAR_BLOCKS` is known. One that is due within
        `WAIT_BLOCKS` lengths is waited for as long again. One further ahead, one that does not come, and those of an
        outage are reckoned from the nearest block whose time is known, by the time between their heads as this node saw
        or expects them. Other nodes may then judge by another time, apart by as much as the chain was late since.

        Raises:
            ChainError: the chain does not tell the time of a block that it has, or none of any block is known.
        """
        patience_s = WAIT_BLOCKS * self._clock.block_s
        if self._clock.seconds_until(block) > patience_s:
            return self._reckon(block)
        await self._wait_for(block, 2 * patience_s)
        return await self._read_patiently(block) if self._newest() >= block else self._reckon_due(block)

    async def _read(self, block: Block, timeout_s: float) -> float:
        if block in self._final:
            return self._known[block]
        asked = self._subtensor.client.timestamp(block)
        utc = (await self._subtensor.ask(asked, f"the time of block {block} is not known", timeout_s)).timestamp()
        self._keep(block, utc)
        self._has_warned = self._has_warned and self._clock.is_lost
        return utc

    async def _read_patiently(self, block: Block) -> float:
        """Return the UTC seconds of a block that was seen. Raises `ChainError`."""
        loop, pause_s = asyncio.get_running_loop(), min(PAUSE_S, PAUSE_SHARE * self._timeout_s)
        deadline = loop.time() + NUM_PATIENCES * self._timeout_s
        while True:
            if self._clock.is_lost and any(abs(known - block) <= NEAR_BLOCKS for known in self._known):
                return self._reckon_due(block)
            try:
                return await self._read(block, min(self._timeout_s, deadline - loop.time()))
            except ChainError as error:
                if deadline - loop.time() <= 2 * pause_s:
                    raise
                log.debug("%s; it is asked for again", error)
            await asyncio.sleep(pause_s)

    def _reckon_due(self, block: Block) -> float:
        """Reckon the time of a block that should be there, with one warning in an outage."""
        utc = self._reckon(block)
        if block not in self._known and not self._has_warned:
            self._has_warned = True
            log.warning(
                "the time of block %d is reckoned, and so are others until the chain tells them: other nodes may judge "
                "by another",
                block,
            )
        return utc

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
