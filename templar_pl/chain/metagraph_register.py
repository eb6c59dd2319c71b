"""Who takes part in a subnet, read from its metagraph and the commitments of its hotkeys.

What the register says of a window must be the same on all nodes, whenever each of them reads it. So it is read at a
block that the window determines: the last multiple of `REGISTER_BLOCKS` before the window opens. Whoever registers, or
moves to another bucket, counts from the next such block on.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass

import bittensor as bt
from bittensor_core import Keypair  # pyright: ignore[reportAttributeAccessIssue] - a compiled module

from templar_pl.chain.block_clock import BlockClock
from templar_pl.chain.subtensor import Subtensor
from templar_pl.errors import ChainError
from templar_pl.protocol.peer import Peer
from templar_pl.units import Block, Hotkey, Uid

log = logging.getLogger(__name__)

REGISTER_BLOCKS = 50
"""Blocks between two registers that windows go by: 10 minutes. Part of the protocol: all nodes must have the same."""

NUM_KEPT = 8
"""Registers kept: those of the windows in work, and some of windows that are replayed."""

LEAST_PAUSE_BLOCKS = 1
"""Blocks between two readings at least, however often an unknown uid is asked for."""


@dataclass(frozen=True)
class Neuron:
    """What the metagraph says of one hotkey."""

    peer: Peer
    stake: float
    """In alpha of the subnet, with what root stake counts."""

    is_validator: bool
    """Whether it may set weights."""


@dataclass(frozen=True)
class Snapshot:
    """The register at one block."""

    block: Block
    neurons: dict[Uid, Neuron]
    """In uid order."""

    def peers(self) -> dict[Uid, Peer]:
        """Return the peers in uid order."""
        return {uid: neuron.peer for uid, neuron in self.neurons.items()}


class MetagraphRegister:
    """Reads and keeps registers. Belongs to the event loop of its connection."""

    def __init__(self, subtensor: Subtensor, clock: BlockClock, timeout_s: float) -> None:
        """Store the parts.

        Args:
            subtensor: an open connection.
            clock: of blocks.
            timeout_s: seconds in which the chain must answer.
        """
        self._subtensor, self._clock, self._timeout_s = subtensor, clock, timeout_s
        self._newest: Snapshot | None = None
        self._pinned: OrderedDict[Block, Snapshot] = OrderedDict()
        self._reading = asyncio.Lock()
        self._is_stale = False

    async def keep_fresh(self) -> None:
        """Read the register of the windows to come as soon as its block is there, until cancelled."""
        while True:
            due = next_register_block(self._clock.block())
            try:
                await self.newest()
                await self.before(due)
            except ChainError as error:
                self._note_stale(error)
            # A block after it is due, so that it is there; a lost connection is asked again each block.
            wait_s = max(self._clock.seconds_until(due), 0.0) + self._clock.block_s
            await asyncio.sleep(self._clock.block_s if self._is_stale else wait_s)

    async def newest(self, needed: Collection[Uid] = (), *, anew: bool = False) -> Snapshot:
        """Return the newest register read; read it if it is older than `REGISTER_BLOCKS`, or lacks what is needed.

        Args:
            needed: uids it must have, with their addresses, if the chain knows them by now.
            anew: whether to try to read it in any case.

        Raises:
            ChainError: none was ever read, and the chain does not answer.
        """
        async with self._reading:
            known, now = self._newest, self._clock.block()
            if known is not None and not anew:
                lacks = any(uid not in known.neurons or not known.neurons[uid].peer.address for uid in needed)
                pause = LEAST_PAUSE_BLOCKS if lacks else REGISTER_BLOCKS
                if now - known.block < pause:
                    return known
            try:
                self._newest = await self._read(None)
            except ChainError as error:
                if known is None:
                    raise
                self._note_stale(error)
                return known
            self._note_fresh()
            return self._newest

    async def before(self, block: Block) -> Snapshot:
        """Return the register that counts where a window opens with `block`.

        If the chain does not answer, or has forgotten its past, the newest register there is takes its place, with a
        warning: other nodes may then count others.

        Raises:
            ChainError: none was ever read, and the chain does not answer.
        """
        at = register_block(block)
        async with self._reading:
            if at in self._pinned:
                return self._pinned[at]
            try:
                snapshot = await self._read(at)
            except ChainError as error:
                if self._newest is None:
                    raise
                log.warning(
                    "the register of block %d cannot be read, that of block %d counts: %s",
                    at,
                    self._newest.block,
                    error,
                )
                return self._newest
            self._pinned[at] = snapshot
            if len(self._pinned) > NUM_KEPT:
                self._pinned.popitem(last=False)
            if self._newest is None or snapshot.block > self._newest.block:
                self._newest = snapshot
            return snapshot

    async def _read(self, at: Block | None) -> Snapshot:
        what = f"cannot read the register of subnet {self._subtensor.netuid}"
        metagraph = await self._subtensor.ask(self._metagraph(at), what, self._timeout_s)
        if metagraph is None:
            raise ChainError(f"{self._subtensor.network} has no subnet {self._subtensor.netuid}")
        neurons = {Uid(neuron.uid): _neuron(neuron) for neuron in metagraph.neurons}
        return Snapshot(Block(metagraph.block if at is None else at), neurons)

    async def _metagraph(self, at: Block | None) -> bt.Metagraph | None:
        view = await self._subtensor.client.at(at)
        return await view.subnets.metagraph(self._subtensor.netuid)

    def _note_stale(self, error: ChainError) -> None:
        if not self._is_stale:
            self._is_stale = True
            log.warning("the register stays as it was read last: %s", error)

    def _note_fresh(self) -> None:
        if self._is_stale:
            self._is_stale = False
            log.info("the register can be read again")


def register_block(opens: Block) -> Block:
    """Return the block whose register counts for a window, the last multiple of `REGISTER_BLOCKS` before it opens.

    Args:
        opens: first block of the window.
    """
    return Block(max(0, opens - 1) // REGISTER_BLOCKS * REGISTER_BLOCKS)


def next_register_block(now: Block) -> Block:
    """Return the next block whose register will count for windows."""
    return Block((now // REGISTER_BLOCKS + 1) * REGISTER_BLOCKS)


def _neuron(neuron: bt.MetagraphNeuron) -> Neuron:
    commitment = neuron.commitment
    peer = Peer(
        uid=Uid(neuron.uid),
        hotkey=Hotkey(neuron.hotkey),
        public_key=Keypair(ss58_address=neuron.hotkey).public_key,
        address=commitment.value or "" if commitment is not None else "",
    )
    # .rao, since .tao refuses balances of a subnet's own token.
    return Neuron(peer, stake=neuron.total_stake.rao / 1e9, is_validator=neuron.validator_permit)
