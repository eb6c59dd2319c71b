"""What decides when the windows of a local chain open and close. There are two: `lockstep` and `wall`."""

from __future__ import annotations

import sqlite3
from typing import Protocol

from templar_pl.units import Block, Window


class Pace(Protocol):
    """A rule of time. It keeps no state of its own: the connection it is lent holds the record all processes share."""

    def start(self, connection: sqlite3.Connection) -> None:
        """Write what the record must hold before the first window, if it is not there. Inside a transaction."""
        ...

    def window(self, connection: sqlite3.Connection) -> Window:
        """Return the open window."""
        ...

    def block(self, connection: sqlite3.Connection) -> Block:
        """Return the newest block; it lies in the open window."""
        ...

    def timestamp(self, connection: sqlite3.Connection, block: Block) -> float:
        """Return the UTC seconds of a block. Raises `ChainError` if it lies in the future."""
        ...

    def seconds_left(self, connection: sqlite3.Connection, window: Window) -> float:
        """Return the seconds until the window is over: 0 or less when it is, `math.inf` when no clock ends it."""
        ...

    def upload_interval(self, connection: sqlite3.Connection, window: Window) -> tuple[float, float]:
        """Return the UTC seconds (first, last) in which payloads may land. Raises `FutureError` if unknown as yet."""
        ...

    def is_due(self, connection: sqlite3.Connection, window: Window) -> bool:
        """Say whether the window, which is not closed in the record, can be closed now."""
        ...

    def close(self, connection: sqlite3.Connection, window: Window) -> None:
        """Close in the record a window that is due. Inside a transaction, in which `is_due` was asked."""
        ...

    def waits_for(self, connection: sqlite3.Connection, window: Window) -> str:
        """Say in words what keeps the window from closing."""
        ...


def closed_at(connection: sqlite3.Connection, window: Window) -> float | None:
    """Return the UTC seconds at which the record closed the window; `None` if it did not."""
    row = connection.execute("SELECT closed_at FROM windows WHERE window = ?", (window,)).fetchone()
    return row[0] if row else None
