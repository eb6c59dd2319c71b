"""The pace of a real chain: blocks of so many seconds each, whoever takes part."""

from __future__ import annotations

import math
import sqlite3

from templar_pl.chain.local_config import LocalChainConfig
from templar_pl.chain.rising_time import RisingTime
from templar_pl.errors import FutureError
from templar_pl.units import Block, Window


def block_at(utc: float, *, genesis: float, seconds_per_block: float) -> Block:
    """Return the newest block whose time has come, 0 before the genesis.

    It agrees to the last bit with `genesis + block * seconds_per_block`, which a quotient rounded down does not.
    """
    block = max(0, math.floor((utc - genesis) / seconds_per_block))
    if genesis + (block + 1) * seconds_per_block <= utc:
        block += 1
    if block > 0 and genesis + block * seconds_per_block > utc:
        block -= 1
    return Block(block)


class WallPace:
    """Windows that last `blocks_per_window` blocks of `seconds_per_block` seconds since the chain was made.

    Payloads of a window may land from its end until `delta_s` later; after that the first to ask closes it in the
    record, with whoever announced by then; maybe nobody.
    """

    def __init__(self, config: LocalChainConfig, time: RisingTime) -> None:
        self._config, self._time = config, time

    def start(self, connection: sqlite3.Connection) -> None:
        """Do nothing: the genesis is all the record needs."""

    def window(self, connection: sqlite3.Connection) -> Window:
        """Return the window of the newest block."""
        return Window(self.block(connection) // self._config.blocks_per_window)

    def block(self, connection: sqlite3.Connection) -> Block:
        """Return the newest block whose time has come."""
        return block_at(
            self._time.read(), genesis=_genesis(connection), seconds_per_block=self._config.seconds_per_block
        )

    def timestamp(self, connection: sqlite3.Connection, block: Block) -> float:
        """Return the UTC seconds of a block."""
        newest = self.block(connection)
        if not 0 <= block <= newest:
            raise FutureError(f"block {block} is not made yet; the newest is {newest}")
        return _genesis(connection) + block * self._config.seconds_per_block

    def seconds_left(self, connection: sqlite3.Connection, window: Window) -> float:
        """Return the seconds until the first block after the window."""
        return self._end(connection, window) - self._time.read()

    def upload_interval(self, connection: sqlite3.Connection, window: Window) -> tuple[float, float]:
        """Return the end of the window, and `delta_s` later; known for the future too."""
        end = self._end(connection, window)
        return end, end + self._config.delta_s

    def is_due(self, connection: sqlite3.Connection, window: Window) -> bool:
        """Say whether the time for uploads is over."""
        return self._time.read() > self.upload_interval(connection, window)[1]

    def close(self, connection: sqlite3.Connection, window: Window) -> None:
        """Write down the interval in which payloads could land."""
        connection.execute("INSERT INTO windows VALUES (?, ?, ?)", (window, *self.upload_interval(connection, window)))

    def waits_for(self, connection: sqlite3.Connection, window: Window) -> str:
        """Say how long payloads may still land."""
        left = self.upload_interval(connection, window)[1] - self._time.read()
        return f"its payloads may land for another {left:.1f} s"

    def _end(self, connection: sqlite3.Connection, window: Window) -> float:
        last = (window + 1) * self._config.blocks_per_window
        return _genesis(connection) + last * self._config.seconds_per_block


def _genesis(connection: sqlite3.Connection) -> float:
    """Return the UTC seconds of block 0."""
    return float(connection.execute("SELECT value FROM meta WHERE name = 'genesis'").fetchone()[0])
