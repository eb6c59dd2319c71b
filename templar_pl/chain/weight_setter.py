"""Sets weights on a subnet, again and again until the chain takes them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

import bittensor as bt

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


class WeightSetter:
    """Holds the newest weights until they are set. Belongs to the event loop of its connection."""

    def __init__(self, subtensor: Subtensor, signer: SdkSigner, *, version_key: int | None, timeout_s: float) -> None:
        """Store the parts.

        Args:
            subtensor: an open connection.
            signer: hotkey of the validator.
            version_key: version the weights are of; None for the one the subnet asks for.
            timeout_s: seconds in which they must be in a block.
        """
        self._subtensor, self._signer = subtensor, signer
        self._version_key, self._timeout_s = version_key, timeout_s
        self._waiting: Mapping[Uid, float] | None = None
        self._is_waiting = asyncio.Event()
        self._submitting = asyncio.Lock()

    async def set(self, shares: Mapping[Uid, float]) -> None:
        """Set weights, or keep them to be set later, in place of those that wait already.

        Args:
            shares: of each uid, which sum to 1.
        """
        self._waiting = shares
        if not await self._try():
            self._is_waiting.set()

    async def keep_trying(self, block_s: float) -> None:
        """Try what waits again with growing pauses, until cancelled.

        Args:
            block_s: seconds a block takes.
        """
        pause = FIRST_PAUSE_BLOCKS
        while True:
            await self._is_waiting.wait()
            await asyncio.sleep(pause * block_s)
            if await self._try():
                self._is_waiting.clear()
                pause = FIRST_PAUSE_BLOCKS
            else:
                pause = min(2 * pause, LONGEST_PAUSE_BLOCKS)

    async def _try(self) -> bool:
        """Set what waits; return whether nothing waits any more."""
        async with self._submitting:
            shares = self._waiting
            if shares is None:
                return True
            try:
                await self._subtensor.ask(self._submit(shares), "weights were not set", self._timeout_s)
            except ChainError as error:
                log.warning("%s; they are tried again", error)
                return False
            if self._waiting is shares:
                self._waiting = None
            log.info("weights of %d uid(s) are set", len(shares))
            return self._waiting is None

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
            # What a runtime does not know, the package names in a bare ValueError: then there is only the plain call.
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
