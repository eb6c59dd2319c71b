"""The record of a local chain: who takes part, what each announced, and the one list per window."""

from __future__ import annotations

import math
import secrets
import sqlite3
import time

from templar_pl.chain.database import Database
from templar_pl.chain.local_register import own_uid
from templar_pl.chain.pace import Pace, closed_at
from templar_pl.chain.rising_time import RisingTime
from templar_pl.errors import ChainError
from templar_pl.protocol.agreement import Settlement
from templar_pl.units import Hotkey, Uid, Window

SHA256_BYTES = 32

_FIRST_PAUSE_S = 0.002
_LONGEST_PAUSE_S = 0.02  # a look costs some 0.1 ms, so waiting costs 0.5 % of a core and at most 20 ms of a window
_TOUCHES_PER_LEASE = 10


ABSTAINED = b""
"""What stands in the place of the hash when a node sends nothing."""


class LocalAgreement:
    """`LeasedAgreement` in the file of a local chain.

    A node that has joined holds a lease, which each of its calls renews. A node whose lease ran out is dropped when the
    others close a window without it; then it must catch up and join again. While nobody closes anything it may come
    back late.
    """

    def __init__(self, database: Database, pace: Pace, utc: RisingTime, hotkey: Hotkey, lease_s: float) -> None:
        """Store the parts.

        Args:
            database: the file; opened and closed by the chain.
            pace: when windows open and close.
            utc: the clock of the chain.
            hotkey: of this node.
            lease_s: seconds a lease holds; `math.inf` where nobody is waited for.
        """
        self._database, self._pace, self._utc = database, pace, utc
        self._hotkey, self._lease_s = hotkey, lease_s
        # Tells this process from another one with the same hotkey.
        self._session = secrets.token_hex(8)
        self._next_touch = math.inf

    def join(self, window: Window) -> Window:
        """Take part from `window` on, if that is the window now open; return the window that is open.

        When the answer is not `window`, nothing was joined: catch up to the answer first and ask again. A process that
        joins takes the place of any other with the same hotkey.

        Raises:
            ChainError: the own hotkey is not registered, or the record cannot be reached.
        """
        with self._database.write() as connection:
            uid = own_uid(connection, self._hotkey)
            opened = self._pace.window(connection)
            if opened == window:
                row = (uid, self._session, self._utc.read() + self._lease_s)
                connection.execute("INSERT OR REPLACE INTO live VALUES (?, ?, ?)", row)
        if opened == window:
            self._touched()
        return opened

    def announce(self, window: Window, sha256: bytes | None) -> None:
        """Say that the own payload of `window` is in the own bucket; saying it again replaces the hash.

        None says that this node sends nothing, so that the others need not wait for it.

        Raises:
            ValueError: the hash is not 32 bytes long.
            ChainError: the window takes no payloads now, or this node has not joined or was dropped.
        """
        if sha256 is not None and len(sha256) != SHA256_BYTES:
            raise ValueError(f"sha256 must be {SHA256_BYTES} bytes, got {len(sha256)}")
        with self._database.write() as connection:
            uid = own_uid(connection, self._hotkey)
            now = self._utc.read()
            self._refuse_out_of_time(connection, window, now)
            self._renew(connection, uid, now)
            row = (window, uid, ABSTAINED if sha256 is None else sha256, now)
            connection.execute("INSERT OR REPLACE INTO announcements VALUES (?, ?, ?, ?)", row)
        self._touched()

    def settle(self, window: Window, timeout_s: float) -> Settlement:
        """Wait until `window` is closed and return its list; close it if that is what is missing.

        Raises:
            ValueError: the window is below 0.
            ChainError: it did not close within `timeout_s` seconds, or the chain was closed meanwhile.
        """
        if window < 0:
            raise ValueError(f"window must be 0 or more, got {window}")
        deadline = time.monotonic() + timeout_s
        pause_s = _FIRST_PAUSE_S
        while True:
            self.touch()
            if (settlement := self._try_settle(window)) is not None:
                return settlement
            left_s = deadline - time.monotonic()
            if not left_s > 0:
                with self._database.read() as connection:
                    reason = self._pace.waits_for(connection, window)
                raise ChainError(f"window {window} did not close within {timeout_s:g} s: {reason}")
            self._database.pause(min(pause_s, left_s))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def leave(self) -> None:
        """Take part no more, so that nobody waits for this node. What it announced stays."""
        self._next_touch = math.inf
        with self._database.write() as connection:
            connection.execute("DELETE FROM live WHERE session = ?", (self._session,))

    def touch(self) -> None:
        """Renew the lease, if this node has joined. Writes no more than ten times a lease, so call it every batch."""
        now = self._utc.read()
        if now < self._next_touch:
            return
        with self._database.write() as connection:
            row = (now + self._lease_s, self._session)
            connection.execute("UPDATE live SET expires = max(expires, ?) WHERE session = ?", row)
        self._touched()

    def _touched(self) -> None:
        self._next_touch = self._utc.read() + self._lease_s / _TOUCHES_PER_LEASE

    def _refuse_out_of_time(self, connection: sqlite3.Connection, window: Window, now: float) -> None:
        """Raise `ChainError` unless payloads of the window may land now."""
        first, last = self._pace.upload_interval(connection, window)
        closed = closed_at(connection, window)
        if closed is not None or now > last:
            over = now - (last if closed is None else closed)
            raise ChainError(
                f"window {window} is closed since {over:.3f} s; catch up and join the open window "
                f"{self._pace.window(connection)}"
            )
        if now < first:
            raise ChainError(f"payloads of window {window} may land only in {first - now:.3f} s; announce it then")

    def _renew(self, connection: sqlite3.Connection, uid: Uid, now: float) -> None:
        """Renew the own lease. Raises `ChainError` if there is none."""
        row = connection.execute("SELECT session FROM live WHERE uid = ?", (uid,)).fetchone()
        if row is None:
            raise ChainError(
                f"uid {uid} does not take part: it never joined, or was silent for {self._lease_s:g} s and the others "
                "went on; catch up and join the open window"
            )
        if row[0] != self._session:
            raise ChainError(
                f"this process has not joined as uid {uid}, another one with the same hotkey {self._hotkey} has; "
                "stop that one if it still runs, catch up and join the open window"
            )
        connection.execute("UPDATE live SET expires = ? WHERE uid = ?", (now + self._lease_s, uid))

    def _try_settle(self, window: Window) -> Settlement | None:
        """Return the list of a closed window, closing it first if it is due; `None` if it must stay open."""
        with self._database.read() as connection:
            if closed_at(connection, window) is not None:
                return _settlement(connection, window)
            if not self._pace.is_due(connection, window):
                return None
        with self._database.write(synchronous="FULL") as connection:
            # Another process may have closed it, or announced or joined, since the look without the lock.
            if closed_at(connection, window) is None:
                if not self._pace.is_due(connection, window):
                    return None
                self._pace.close(connection, window)
            return _settlement(connection, window)


def _settlement(connection: sqlite3.Connection, window: Window) -> Settlement:
    """Read the list of a closed window."""
    times = "SELECT opened_at, closed_at FROM windows WHERE window = ?"
    opened, closed = connection.execute(times, (window,)).fetchone()
    payloads = "SELECT uid, sha256 FROM announcements WHERE window = ? AND sha256 != ? ORDER BY uid"
    rows = connection.execute(payloads, (window, ABSTAINED)).fetchall()
    return Settlement(window, {Uid(uid): sha256 for uid, sha256 in rows}, opened, closed)
