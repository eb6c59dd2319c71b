"""Sets weights on a subnet, again and again until the chain takes them."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from contextlib import suppress

import bittensor as bt

from templar_pl.chain.block_clock import BlockClock
from templar_pl.chain.subtensor import SdkSigner, Subtensor
from templar_pl.errors import ChainError
from templar_pl.units import Uid

log = logging.getLogger(__name__)

U16_MAX = 65_535
"""Largest weight as the chain keeps it."""

WEIGHTS_VERSION_KEY = ("SubtensorModule", "WeightsVersionKey")
"""What a subnet asks of the version of weights."""

FIRST_PAUSE_BLOCKS, LONGEST_PAUSE_BLOCKS = 2, 100
"""Blocks until weights that were refused are tried again: doubled each time."""

UNKNOWN = re.compile(r"(storage function|call|runtime api call|type) \S+ not found\b", re.IGNORECASE)
"""What a bare `ValueError` of the package begins with that names what the runtime does not have. Its only own kind,
of storage, is private; other `ValueError`s say that something is wrong with what was asked."""


class Order:
    """Weights that are to be set."""

    def __init__(self, shares: Mapping[Uid, float]) -> None:
        """Take shares that sum to 1; call it in the event loop."""
        self.shares = shares
        self.was_tried = asyncio.Event()
        """Whether they were set, refused, replaced by newer ones, or must wait for the chain."""
        self.was_refused = False
        """Whether a refusal was logged."""


class WeightSetter:
    """Holds the newest weights until they are set. Belongs to the event loop of its connection.

    One task submits (`keep_trying`), so that whoever brings newer weights waits for nothing and loses nothing.
    """

    def __init__(
        self, subtensor: Subtensor, signer: SdkSigner, clock: BlockClock, *, version_key: int | None, timeout_s: float
    ) -> None:
        """Store the parts.

        Args:
            subtensor: an open connection.
            signer: hotkey of the validator.
            clock: of blocks; says whether the chain can be reached.
            version_key: version the weights are of; None for the one the subnet asks for.
            timeout_s: seconds in which they must be in a block.
        """
        self._subtensor, self._signer, self._clock = subtensor, signer, clock
        self._version_key, self._timeout_s = version_key, timeout_s
        self._order: Order | None = None
        self._is_new = asyncio.Event()

    async def set(self, shares: Mapping[Uid, float]) -> None:
        """Have weights set, in place of those that wait already; returns when they were tried once.

        Args:
            shares: of each uid, which sum to 1.
        """
        order = Order(shares)
        if self._order is not None:
            self._order.was_tried.set()
        self._order = order
        self._is_new.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                await order.was_tried.wait()

    async def keep_trying(self) -> None:
        """Set what is ordered; try what was refused again with growing pauses. Until cancelled."""
        try:
            await self._keep_trying()
        except asyncio.CancelledError:
            if self._order is not None:
                log.warning("closing although weights of %d uid(s) are not known to be set", len(self._order.shares))
            raise

    async def _keep_trying(self) -> None:
        pause = FIRST_PAUSE_BLOCKS
        while True:
            self._is_new.clear()
            order = self._order
            if order is None:
                await self._is_new.wait()
                pause = FIRST_PAUSE_BLOCKS
                continue
            is_lost = self._clock.is_lost
            is_set = not is_lost and await self._try(order)
            if is_set and self._order is order:
                self._order = None
            order.was_tried.set()
            if is_set:
                continue
            if await self._wait_for_new(1 if is_lost else pause):
                pause = FIRST_PAUSE_BLOCKS
            elif not is_lost:
                pause = min(2 * pause, LONGEST_PAUSE_BLOCKS)

    async def _wait_for_new(self, blocks: int) -> bool:
        """Wait for so many blocks, or until there are newer weights; return whether there are."""
        with suppress(TimeoutError):
            async with asyncio.timeout(blocks * self._clock.block_s):
                await self._is_new.wait()
        return self._is_new.is_set()

    async def _try(self, order: Order) -> bool:
        """Set weights; return whether the chain took them."""
        try:
            await self._subtensor.ask(self._submit(order.shares), "weights were not set", self._timeout_s)
        except ChainError as error:
            # A warning for each order is enough: a subnet may refuse for an hour. An outage has lines of its own.
            is_news = not order.was_refused and not self._clock.is_lost
            log.log(logging.WARNING if is_news else logging.DEBUG, "%s; they are tried again", error)
            order.was_refused = order.was_refused or is_news
            return False
        log.info("weights of %d uid(s) are set", len(order.shares))
        return True

    async def _submit(self, shares: Mapping[Uid, float]) -> None:
        client, netuid = self._subtensor.client, self._subtensor.netuid
        version_key = self._version_key
        if version_key is None:
            version_key = int(await client.query(WEIGHTS_VERSION_KEY, [netuid]) or 0)
        intent = bt.SetWeights(
            netuid=netuid, weights={int(uid): share for uid, share in shares.items()}, version_key=version_key
        )
        try:
            result = await client.execute(intent, self._signer, wait_for_finalization=False)
        except ValueError as error:
            if not UNKNOWN.match(str(error)):
                raise
            log.debug("this runtime lacks what SetWeights needs (%s), using the plain call", error)
            result = await client.submit_call(
                self._plain_call(shares, version_key), self._signer, signer="hotkey", wait_for_finalization=False
            )
        result.raise_for_failure()

    def _plain_call(self, shares: Mapping[Uid, float], version_key: int) -> bt.calls.Call:
        largest = max(shares.values())
        scaled = {int(uid): round(U16_MAX * share / largest) for uid, share in shares.items()}
        sent = {uid: weight for uid, weight in scaled.items() if weight > 0}
        return bt.calls.SubtensorModule.set_weights(
            netuid=self._subtensor.netuid, dests=list(sent), weights=list(sent.values()), version_key=version_key
        )
