"""A chain in one SQLite file, for any number of processes on one machine."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from templar_pl.chain.database import Database
from templar_pl.chain.hotkeys import HotkeySigner
from templar_pl.chain.local_agreement import LocalAgreement
from templar_pl.chain.local_config import LocalChainConfig, chain_settings
from templar_pl.chain.local_register import LocalRegister
from templar_pl.chain.lockstep import LockstepPace
from templar_pl.chain.pace import Pace
from templar_pl.chain.rising_time import RisingTime, SteadyTime
from templar_pl.chain.wall import WallPace
from templar_pl.units import Block, Window

_LATEST = "SELECT max(max(opened_at), coalesce(max(closed_at), 0)) FROM windows"


class LocalChain(LocalRegister):
    """Clock, register, purse and record in one file. Its hotkey is registered by asking.

    `kill -9` at any moment leaves a file that the others go on with: every change is one transaction. Not for use in
    forked children: a data loader's worker must be handed values, not the chain.
    """

    def __init__(
        self,
        path: Path,
        signer: HotkeySigner,
        config: LocalChainConfig,
        *,
        run: str,
        now: Callable[[], float] | None = None,
    ) -> None:
        """Store the settings; nothing is opened.

        Args:
            path: of the file, on a local disk; made on first use, folders included.
            signer: hotkey of this node.
            config: how the chain keeps time; the same in all processes.
            run: digest of the numbers the nodes agree on, in hex; a file of another run is refused.
            now: source of UTC seconds; the clock of the machine if `None`.
        """
        self._time = RisingTime(SteadyTime() if now is None else now)
        pace: Pace
        if config.pace == "lockstep":
            pace, lease_s = LockstepPace(config, self._time), config.lease_s
        else:
            pace, lease_s = WallPace(config, self._time), math.inf
        super().__init__(Database(path), signer, pace)
        self._pace = pace
        self._settings = chain_settings(config, run)
        self._agreement = LocalAgreement(self._database, pace, self._time, signer.hotkey, lease_s)

    def open(self) -> None:
        """Open the file, or make it. Does nothing if it is open.

        Raises:
            ConfigError: the file was made with other settings, is no chain, or cannot be read and written.
            ChainError: the file stays locked by another process, or the disk fails.
        """
        self._database.open(self._settings, self._time.read())
        with self._database.write() as connection:
            # The clock of the machine may have been set back since: what is closed must stay in the past.
            self._time.observe(connection.execute(_LATEST).fetchone()[0] or 0.0)
            self._pace.start(connection)

    def close(self) -> None:
        """Close the file; waits in other threads end with `ChainError`. May be called twice, and opened again."""
        self._database.close()

    @property
    def agreement(self) -> LocalAgreement:
        """The record of what each window consisted of."""
        return self._agreement

    def window(self) -> Window:
        """Return the window now open. It never runs backwards."""
        with self._database.read() as connection:
            return self._pace.window(connection)

    def seconds_left(self, window: Window) -> float:
        """Return the seconds until `window` is over: 0 or less when it is, `math.inf` when its miners end it."""
        with self._database.read() as connection:
            return self._pace.seconds_left(connection, window)

    def upload_interval(self, window: Window) -> tuple[float, float]:
        """Return the UTC seconds (first, last) in which payloads of `window` may land.

        Raises:
            ChainError: on `lockstep`, the window is not open yet.
        """
        with self._database.read() as connection:
            return self._pace.upload_interval(connection, window)

    def block(self) -> Block:
        """Return the newest block. It never runs backwards."""
        with self._database.read() as connection:
            return self._pace.block(connection)

    def timestamp(self, block: Block) -> float:
        """Return the UTC seconds of a block. Raises `ChainError` if it lies in the future."""
        with self._database.read() as connection:
            return self._pace.timestamp(connection, block)
