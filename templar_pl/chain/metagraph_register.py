"""Who takes part in a subnet, read from its metagraph and the commitments of its hotkeys.

What the register says of a window must be the same on all nodes, whenever each of them reads it. So it is read at a
block that the window determines, and that cannot be replaced any more when the window opens: the last multiple of
`REGISTER_BLOCKS` at least `FINAL_BLOCKS` before it. Whoever registers, or moves to another bucket, counts from the next
such block on.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import bittensor as bt
from bittensor_core import Keypair  # pyright: ignore[reportAttributeAccessIssue] - a compiled module

from templar_pl.chain.block_clock import BlockClock
from templar_pl.chain.block_times import FINAL_BLOCKS
from templar_pl.chain.commitments import COMMITMENTS, address_of
from templar_pl.chain.subtensor import Subtensor
from templar_pl.errors import ChainError
from templar_pl.protocol.peer import Peer
from templar_pl.units import Block, Hotkey, Uid

log = logging.getLogger(__name__)

REGISTER_BLOCKS = 50
"""Blocks between two registers that windows go by: 10 minutes. Part of the protocol: all nodes must have the same."""

NUM_KEPT = 8
"""Registers kept: those of the windows in work, and some of windows that are replayed."""


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

    def has(self, hotkey: Hotkey) -> bool:
        """Return whether a hotkey is registered."""
        return any(neuron.peer.hotkey == hotkey for neuron in self.neurons.values())


class MetagraphRegister:
    """Reads and keeps registers. Belongs to the event loop of its connection.

    Where something was read before and the chain does not answer, that is what counts, and at most once a head is the
    chain asked again, so that nobody waits twice for the same silence.
    """

    def __init__(self, subtensor: Subtensor, clock: BlockClock, timeout_s: float) -> None:
        """Store the parts.

        Args:
            subtensor: an open connection.
            clock: of blocks.
            timeout_s: seconds in which the chain must answer.
        """
        self._subtensor, self._clock, self._timeout_s = subtensor, clock, timeout_s
        self._newest: Snapshot | None = None
        self._asked_at: Block | None = None
        self._pinned: OrderedDict[Block, Snapshot] = OrderedDict()
        self._unsure: tuple[Block, Snapshot] | None = (
            None  # of a block that is not final, and at which head it was read
        )
        self._missing: OrderedDict[Block, Block] = (
            OrderedDict()
        )  # what could not be read, and at which head it was asked
        self._reading = asyncio.Lock()
        self._is_stale = False

    async def keep_fresh(self) -> None:
        """Read the register of the windows to come as soon as its block is final, until cancelled."""
        while True:
            opens = Block(self._clock.block() + 1)
            if not self._clock.is_lost:
                try:
                    await self.before(opens)
                    await self.newest()
                except ChainError as error:
                    self._note_stale(error)
            is_read = register_block(opens) in self._pinned
            wait_s = self._clock.seconds_until(next_counting_block(opens)) if is_read else 0.0
            await asyncio.sleep(max(wait_s, self._clock.block_s))

    async def newest(
        self, needed: Collection[Uid] = (), hotkey: Hotkey | None = None, *, anew: bool = False
    ) -> Snapshot:
        """Return the newest register read; read it if it is older than `REGISTER_BLOCKS`, or lacks what is needed.

        Args:
            needed: uids it must have, with their addresses, if the chain knows them by now.
            hotkey: that it must have, if the chain knows it by now.
            anew: whether to try to read it in any case.

        Raises:
            ChainError: none was ever read, and the chain does not answer.
        """
        if not anew and (known := self._enough(needed, hotkey)) is not None:
            return known
        async with self._reading:
            # Whoever waited here may find that another has read it, or tried to.
            if not anew and (known := self._enough(needed, hotkey)) is not None:
                return known
            try:
                self._newest = await self._read(None)
            except ChainError as error:
                if self._newest is None:
                    raise
                self._note_stale(error)
            else:
                self._note_fresh()
            self._asked_at = self._clock.newest()
            return self._newest

    async def before(self, block: Block) -> Snapshot:
        """Return the register that counts where a window opens with `block`.

        If the chain does not answer, or has forgotten its past, the newest register there is takes its place, with a
        warning: other nodes may then count others. So it does for a window whose register is not made yet.

        Raises:
            ChainError: none was ever read, and the chain does not answer.
        """
        at = register_block(block)
        if (known := self._pinned_or_missing(at)) is not None:
            return known
        async with self._reading:
            if (known := self._pinned_or_missing(at)) is not None:
                return known
            try:
                snapshot = await self._read(at)
            except ChainError as error:
                if self._newest is None:
                    raise
                return self._instead_of(at, str(error))
            self._missing.pop(at, None)
            self._keep(at, snapshot)
            if self._newest is None or snapshot.block > self._newest.block:
                self._newest = snapshot
            return snapshot

    def _keep(self, at: Block, snapshot: Snapshot) -> None:
        """Keep a register for good, or until the next head while its block may be replaced by another."""
        head = self._clock.newest() or Block(0)
        if head - at < FINAL_BLOCKS:
            self._unsure = head, snapshot
            return
        self._pinned[at] = snapshot
        if len(self._pinned) > NUM_KEPT:
            self._pinned.popitem(last=False)

    def _enough(self, needed: Collection[Uid], hotkey: Hotkey | None) -> Snapshot | None:
        """Return the newest register read, or None if it should be read again."""
        known, head = self._newest, self._clock.newest()
        if known is None or head is None:
            return None
        if self._clock.is_lost or head == self._asked_at:
            return known
        lacks = any(uid not in known.neurons or not known.neurons[uid].peer.address for uid in needed)
        lacks = lacks or (hotkey is not None and not known.has(hotkey))
        return None if lacks or head - known.block >= REGISTER_BLOCKS else known

    def _pinned_or_missing(self, at: Block) -> Snapshot | None:
        """Return what counts for windows of a register; None if it is to be read."""
        head = self._clock.newest()
        if at in self._pinned or self._newest is None or head is None:
            return self._pinned.get(at)
        if (
            self._unsure is not None
            and self._unsure[1].block == at
            and (self._clock.is_lost or self._unsure[0] == head)
        ):
            return self._unsure[1]
        if at > head and not self._clock.is_lost:
            return self._newest
        if self._clock.is_lost:
            return self._instead_of(at, "there is no connection")
        return self._newest if self._missing.get(at) == head else None

    def _instead_of(self, at: Block, reason: str) -> Snapshot:
        assert self._newest is not None, "callers have looked"
        if at not in self._missing:
            log.warning(
                "the register of block %d cannot be read, that of block %d counts: %s", at, self._newest.block, reason
            )
        if (head := self._clock.newest()) is not None:
            self._missing[at] = head
        if len(self._missing) > NUM_KEPT:
            self._missing.popitem(last=False)
        return self._newest

    async def _read(self, at: Block | None) -> Snapshot:
        subtensor, when = self._subtensor, "" if at is None else f" at block {at}"
        what = f"cannot read the register of subnet {subtensor.netuid} of {subtensor.network}{when}"
        return await subtensor.ask(self._snapshot(at), what, self._timeout_s)

    async def _snapshot(self, at: Block | None) -> Snapshot:
        netuid = self._subtensor.netuid
        view = await self._subtensor.client.at(at)
        # Not the package's own list of commitments: one that was sealed and is then revealed as text like "0x!" makes
        # it fail as a whole, so a single hotkey could hide all others.
        metagraph, commitments = await asyncio.gather(
            view.subnets.metagraph(netuid, commitments=False), view.query_map(COMMITMENTS, [netuid])
        )
        if metagraph is None:
            raise ChainError(f"{self._subtensor.network} has no subnet {netuid}")
        addresses = {str(hotkey): address_of(record) for hotkey, record in commitments}
        return Snapshot(Block(view.block), {Uid(each.uid): _neuron(each, addresses) for each in metagraph.neurons})

    def _note_stale(self, error: ChainError) -> None:
        if not self._is_stale:
            self._is_stale = True
            log.warning("the register stays as it was read last: %s", error)

    def _note_fresh(self) -> None:
        if self._is_stale:
            self._is_stale = False
            log.info("the register can be read again")


def register_block(opens: Block) -> Block:
    """Return the block whose register counts for a window.

    Args:
        opens: first block of the window.
    """
    return Block(max(0, opens - FINAL_BLOCKS) // REGISTER_BLOCKS * REGISTER_BLOCKS)


def next_register_block(now: Block) -> Block:
    """Return the next block whose register will count for windows."""
    return Block((now // REGISTER_BLOCKS + 1) * REGISTER_BLOCKS)


def next_counting_block(opens: Block) -> Block:
    """Return the first block such that a window which opens with it goes by a later register than one with `opens`."""
    return Block(register_block(opens) + REGISTER_BLOCKS + FINAL_BLOCKS)


def _neuron(neuron: bt.MetagraphNeuron, addresses: Mapping[str, str]) -> Neuron:
    peer = Peer(
        uid=Uid(neuron.uid),
        hotkey=Hotkey(neuron.hotkey),
        public_key=Keypair(ss58_address=neuron.hotkey).public_key,
        address=addresses.get(neuron.hotkey, ""),
    )
    # .rao, since .tao refuses balances of a subnet's own token.
    return Neuron(peer, stake=neuron.total_stake.rao / 1e9, is_validator=neuron.validator_permit)
