"""What every chain is to the rest of the package: a clock, a register of peers, a purse and a record.

All methods may be called from several threads, wait no longer than a documented time, and raise `ChainError` when
the chain does not answer or refuses.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from templar_pl.protocol.agreement import Agreement
from templar_pl.protocol.peer import Peer
from templar_pl.units import Block, Hotkey, Uid, Window


class WindowClock(Protocol):
    """Which window it is, and how long it lasts."""

    def window(self) -> Window:
        """Return the window now open. It never runs backwards."""
        ...

    def seconds_left(self, window: Window) -> float:
        """Return the seconds until `window` is over.

        0 or less when it is over; `math.inf` when it ends by agreement of the miners, not by time.
        """
        ...

    def upload_interval(self, window: Window) -> tuple[float, float]:
        """Return the UTC seconds (first, last) in which payloads of `window` may land.

        The last is `math.inf` while nobody can know it.

        Raises:
            FutureError: the window lies in a future that the chain cannot date yet.
        """
        ...


class BlockTimes(Protocol):
    """When each block was made."""

    def block(self) -> Block:
        """Return the newest block. It never runs backwards; `block() // blocks_per_window` is the open window."""
        ...

    def timestamp(self, block: Block) -> float:
        """Return the UTC seconds of a block. Raises `ChainError` if there is no such block yet."""
        ...


class Register(Protocol):
    """Who takes part, and where each one's bucket is."""

    def register(self, *, sends: bool = True) -> Uid:
        """Return the uid of the own hotkey; a local chain gives it one if it has none.

        Args:
            sends: whether this node sends payloads. Who does not is no candidate on a local chain, so that nobody asks
                for what never comes; a public chain cannot know it.

        Raises:
            ConfigError: the hotkey has no uid and the chain does not give one for the asking; says how to get one. Or
                it is known to send, and does not any more.
        """
        ...

    def commit(self, address: str) -> None:
        """Publish where the own bucket is. Raises `ChainError` if the own hotkey is not registered."""
        ...

    def peers(self, needed: Collection[Uid] = ()) -> dict[Uid, Peer]:
        """Return every registered hotkey, this node's own among them, in uid order.

        A public chain may answer with what it read some minutes ago.

        Args:
            needed: uids that the answer must have, with their addresses, if the chain knows them by now.
        """
        ...

    def candidates(self, window: Window) -> dict[Uid, Peer]:
        """Return the hotkeys whose payloads of `window` may count, in uid order: the same ones on every node.

        Who registers, or moves to another bucket, takes part from a later window on, since all must know of it. Who
        said that it does not send is left out where the chain can know it.
        """
        ...


class Purse(Protocol):
    """What validators say each miner deserves."""

    def set_weights(self, weights: Mapping[Uid, float]) -> None:
        """Replace what the own hotkey says; the weights are scaled so that they sum to 1.

        Args:
            weights: finite, 0 or more, at least one above 0; a uid left out gets nothing.

        Raises:
            ValueError: a weight is out of range, or none is above 0.
            ChainError: the own hotkey or one of the uids is not registered.
        """
        ...

    def weights(self) -> dict[Uid, dict[Uid, float]]:
        """Return validator -> miner -> share, both in uid order. The shares of one validator sum to 1."""
        ...


class LeasedAgreement(Agreement, Protocol):
    """An agreement that waits for live miners, and so must know that this one is alive."""

    def touch(self) -> None:
        """Say that this node is alive. Cheap enough for every batch: nearly all calls touch no file."""
        ...


class Chain(WindowClock, BlockTimes, Register, Purse, Protocol):
    """A whole chain. Constructors only store arguments; everything else needs `open()` first."""

    def open(self) -> None:
        """Connect. Does nothing if open.

        Raises:
            ConfigError: the chain is not the one that was asked for, or cannot be used by this node.
        """
        ...

    def close(self) -> None:
        """Let go of every connection and thread; waits in other threads end with `ChainError`. May be called twice."""
        ...

    @property
    def agreement(self) -> LeasedAgreement | None:
        """The record of what each window consisted of; `None` if the chain keeps none."""
        ...


def find_peer(register: Register, hotkey: Hotkey) -> Peer | None:
    """Return who a hotkey is by the register of now, and where its bucket is; None if it is not registered.

    Raises:
        ChainError: the chain does not answer.
    """
    return next((peer for peer in register.peers().values() if peer.hotkey == hotkey), None)
