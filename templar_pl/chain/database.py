"""One SQLite file that several processes read and write at once.

Write-ahead logging lets readers go on while one process writes. It needs shared memory, so all processes must run on
one machine and the file must not lie on a network share. No kill of a process loses a commit. A power cut may lose
those since the last fsync, so the commit that closes a window asks for one (`write(synchronous="FULL")`): it makes all
before it durable too, and a chain never falls behind the checkpoints of its miners, who could not join it again. One
fsync a window is 0.5 ms on an idle SSD and 6 ms on a busy one, where one a commit would be several times that.

One connection serves all threads of a process, under a lock: a transaction is short, and closing one connection is
sure to close all. A connection must not be used in a forked child.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from templar_pl.chain.schema import create_or_compare, refuse_foreign, transaction
from templar_pl.errors import ChainError, ConfigError, TemplarError

BUSY_TIMEOUT_S = 10.0
"""Seconds to wait for the write lock of another process; transactions take milliseconds."""

_MEANINGS: dict[int, tuple[type[TemplarError], str]] = {
    sqlite3.SQLITE_BUSY: (ChainError, f"another process has kept it locked for {BUSY_TIMEOUT_S:g} s; end that process"),
    sqlite3.SQLITE_LOCKED: (ChainError, "another connection has kept it locked; end that process"),
    sqlite3.SQLITE_FULL: (ChainError, "the disk is full; free some space there"),
    sqlite3.SQLITE_IOERR: (ChainError, "the disk cannot be read or written; check its space and health"),
    sqlite3.SQLITE_READONLY: (ConfigError, "it is read-only; make the file and its folder writable"),
    sqlite3.SQLITE_PERM: (ConfigError, "access is denied; make the file and its folder writable"),
    sqlite3.SQLITE_CANTOPEN: (ConfigError, "it cannot be opened; name a file in a folder that can be written to"),
    sqlite3.SQLITE_NOTADB: (ConfigError, "it is not a chain file; name another path, or delete it to start anew"),
    sqlite3.SQLITE_CORRUPT: (ConfigError, "it is damaged; put a copy back, or delete it to start anew"),
}


def explain(error: sqlite3.Error, path: Path) -> TemplarError | None:
    """Say what an error of SQLite means for the user: what, where, how to mend it; `None` if it is our own bug."""
    meaning = _MEANINGS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
    if meaning is None:
        return None
    kind, remedy = meaning
    return kind(f"chain file {path}: {remedy} (SQLite says: {error})")


class Database:
    """The file of a local chain. `open` it before anything else. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def open(self, settings: Mapping[str, str], created_at: float) -> None:
        """Connect, and make the file if there is none. Does nothing if open.

        Args:
            settings: name -> value; those the file was made with must be the same.
            created_at: UTC seconds to store as the genesis if the file is new.

        Raises:
            ConfigError: the file is no chain, was made with other settings, or cannot be used.
            ChainError: the file stays locked, or the disk fails.
        """
        with self._held():
            if self._connection is not None:
                return
            connection = _connect(self._path)
            try:
                refuse_foreign(connection, self._path)
                _use_write_ahead_log(connection)
                create_or_compare(connection, self._path, settings, created_at)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
            self._closed.clear()

    def close(self) -> None:
        """Close the connection, if there is one, and end all pauses."""
        self._closed.set()
        with self._held():
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def pause(self, seconds: float) -> None:
        """Let time pass between two looks at the file. Raises `ChainError` as soon as it is closed."""
        if self._closed.wait(seconds):
            raise ChainError(f"chain file {self._path} was closed while a thread waited for a change of it")

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection for queries. Each query sees the newest commit of any process."""
        with self._held():
            yield self._opened()

    @contextmanager
    def write(self, synchronous: Literal["NORMAL", "FULL"] = "NORMAL") -> Iterator[sqlite3.Connection]:
        """Lend the connection for one transaction: all of it happens, or nothing; nobody else writes meanwhile.

        Args:
            synchronous: `FULL` if it, and all before it, must outlive a power cut.
        """
        with self._held():
            self._opened().execute(f"PRAGMA synchronous = {synchronous}")
            with transaction(self._opened()) as connection:
                yield connection

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Keep other threads out, and turn errors of SQLite into ours."""
        limit_s = 2 * BUSY_TIMEOUT_S
        if not self._lock.acquire(timeout=limit_s):
            raise ChainError(f"chain file {self._path}: another thread has used it for {limit_s:g} s")
        try:
            yield
        except sqlite3.Error as error:
            explained = explain(error, self._path)
            if explained is None:
                raise
            raise explained from error
        finally:
            self._lock.release()

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise ChainError(f"chain file {self._path} is not open; call open() first")
        return self._connection


def _connect(path: Path) -> sqlite3.Connection:
    """Open the file, making it and its folders. Raises `ConfigError` if a folder cannot be made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder of the chain file {path}: {error.strerror}") from error
    # isolation_level=None: transactions begin and end where the code says, nowhere else.
    return sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Switch to write-ahead logging, which the file then keeps.

    SQLite does not wait for other processes here but fails at once, so this asks again.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    pause = threading.Event()  # never set: a wait with a time-out
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            pause.wait(0.01)
