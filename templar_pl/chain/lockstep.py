"""The pace of miners that wait for one another: a window ends when every live one has announced its payload."""

from __future__ import annotations

import logging
import math
import sqlite3

from templar_pl.chain.local_config import LocalChainConfig
from templar_pl.chain.pace import closed_at
from templar_pl.chain.rising_time import RisingTime
from templar_pl.errors import FutureError
from templar_pl.units import Block, Window

logger = logging.getLogger(__name__)

_FIRST = Window(0)

_SILENT = """SELECT uid FROM live WHERE expires > :now
    AND uid NOT IN (SELECT uid FROM announcements WHERE window = :window) ORDER BY uid"""

_LAPSED = """SELECT uid FROM live WHERE expires <= :now
    AND uid NOT IN (SELECT uid FROM announcements WHERE window = :window) ORDER BY uid"""

_JOINED = """SELECT COUNT(*) FROM (SELECT uid FROM live WHERE expires > :now
    UNION SELECT uid FROM announcements WHERE window = :window)"""


class LockstepPace:
    """Windows that last as long as their miners need.

    A window closes when there is an announcement for it and none is missing from a miner whose lease holds. The first
    window also waits until `min_miners` have joined. The blocks of a window are spread evenly over its time.
    """

    def __init__(self, config: LocalChainConfig, time: RisingTime) -> None:
        self._config, self._time = config, time

    def start(self, connection: sqlite3.Connection) -> None:
        """Open the first window of a new chain."""
        connection.execute("INSERT OR IGNORE INTO windows VALUES (?, ?, NULL)", (_FIRST, self._time.read()))

    def window(self, connection: sqlite3.Connection) -> Window:
        """Return the newest window in the record: the one that is open."""
        return Window(connection.execute("SELECT MAX(window) FROM windows").fetchone()[0])

    def block(self, connection: sqlite3.Connection) -> Block:
        """Return the first block of the open window: its others have no time before it ends."""
        return Block(self.window(connection) * self._config.blocks_per_window)

    def timestamp(self, connection: sqlite3.Connection, block: Block) -> float:
        """Return the UTC seconds of a block: linear between opening and closing of its window."""
        window, place = divmod(block, self._config.blocks_per_window)
        row = connection.execute("SELECT opened_at, closed_at FROM windows WHERE window = ?", (window,)).fetchone()
        if row is None or (row[1] is None and place > 0):
            raise FutureError(f"block {block} is not made yet; the newest is {self.block(connection)}")
        opened, closed = row[0], row[0] if row[1] is None else row[1]
        return opened + (closed - opened) * place / self._config.blocks_per_window

    def seconds_left(self, connection: sqlite3.Connection, window: Window) -> float:
        """Return 0 for a closed window, `math.inf` for any other."""
        return math.inf if closed_at(connection, window) is None else 0.0

    def upload_interval(self, connection: sqlite3.Connection, window: Window) -> tuple[float, float]:
        """Return when the window opened and closed; `math.inf` for the latter while it is open."""
        row = connection.execute("SELECT opened_at, closed_at FROM windows WHERE window = ?", (window,)).fetchone()
        if row is None:
            raise FutureError(f"window {window} is not open yet; the open one is {self.window(connection)}")
        return row[0], math.inf if row[1] is None else row[1]

    def is_due(self, connection: sqlite3.Connection, window: Window) -> bool:
        """Say whether somebody announced for the window, which only an open one allows, and nobody is waited for."""
        names = {"now": self._time.read(), "window": window}
        announced = connection.execute("SELECT 1 FROM announcements WHERE window = ? LIMIT 1", (window,)).fetchone()
        if announced is None or connection.execute(_SILENT + " LIMIT 1", names).fetchone() is not None:
            return False
        return window != _FIRST or connection.execute(_JOINED, names).fetchone()[0] >= self._config.min_miners

    def close(self, connection: sqlite3.Connection, window: Window) -> None:
        """Stamp the window, drop the miners whose lease ran out in silence, and open the next window."""
        now = self._time.read()
        for (uid,) in connection.execute(_LAPSED, {"now": now, "window": window}).fetchall():
            connection.execute("DELETE FROM live WHERE uid = ?", (uid,))
            logger.warning("window %d goes on without uid %d: silent for %g s", window, uid, self._config.lease_s)
        connection.execute("UPDATE windows SET closed_at = max(opened_at, ?) WHERE window = ?", (now, window))
        opening = "INSERT INTO windows SELECT window + 1, closed_at, NULL FROM windows WHERE window = ?"
        connection.execute(opening, (window,))

    def waits_for(self, connection: sqlite3.Connection, window: Window) -> str:
        """Name the uids that have not announced, or what else is missing."""
        opened = self.window(connection)
        if window != opened:
            return f"it is not open yet, the open one is {opened}"
        names = {"now": self._time.read(), "window": window}
        if silent := [row[0] for row in connection.execute(_SILENT, names)]:
            return f"uids {silent} have not announced a payload"
        if window == _FIRST and (joined := connection.execute(_JOINED, names).fetchone()[0]) < self._config.min_miners:
            return f"{joined} of {self._config.min_miners} miners have joined (min_miners)"
        return "nobody has announced a payload"
