"""Look at the file of a local chain without making, changing or locking it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from templar_pl.chain.database import BUSY_TIMEOUT_S, explain
from templar_pl.chain.local_config import LocalChainConfig, chain_settings
from templar_pl.chain.local_register import read_peers, read_senders
from templar_pl.chain.schema import APPLICATION_ID, compare, refuse_foreign, transaction
from templar_pl.errors import ConfigError
from templar_pl.protocol.peer import Peer
from templar_pl.units import Uid, Window

T = TypeVar("T")


def look_at_local_chain(path: Path, config: LocalChainConfig, *, run: str) -> dict[Uid, Peer] | None:
    """Return who is registered on a chain, in uid order; None if there is no such chain yet.

    Args:
        path: of the file.
        config: how the chain would keep time.
        run: digest of the numbers the nodes agree on, in hex.

    Raises:
        ConfigError: `LocalChain.open` would refuse the file: it is no chain, or was made with other settings.
        ChainError: the disk fails.
    """
    if not path.exists():
        return None
    return _ask(path, lambda connection: _read(connection, path, chain_settings(config, run)))


@dataclass(frozen=True)
class LocalRecords:
    """What the file of a local chain has, however it keeps time."""

    peers: dict[Uid, Peer]
    """Who is registered, in uid order."""

    sends_from: dict[Uid, Window]
    """First window in which the payload of each of them may count; who never sends is missing."""

    born_at: float
    """UTC seconds of its first block."""

    window_s: float | None
    """Seconds of a window; None where its miners end it."""

    newest: Window
    """The newest window of its record."""

    def candidates(self, window: Window) -> dict[Uid, Peer]:
        """Return whose payloads of a window may count, in uid order; their addresses are those of now."""
        return {uid: self.peers[uid] for uid, first in self.sends_from.items() if first <= window}

    def ends_at(self, window: Window) -> float | None:
        """Return the UTC seconds of the first block after a window; None where its miners ended it."""
        return None if self.window_s is None else self.born_at + (window + 1) * self.window_s

    def open_window(self, utc: float) -> Window:
        """Return the window that is open at a time, in UTC seconds; the newest one where its miners end them."""
        return self.newest if self.window_s is None else Window(max(0, int((utc - self.born_at) // self.window_s)))


def read_local_chain(path: Path, *, run: str) -> LocalRecords:
    """Return what a chain has; nothing is changed.

    Args:
        path: of the file.
        run: digest of the numbers the nodes agree on, in hex.

    Raises:
        ConfigError: there is no such file, it is no chain, or one of a run with other numbers.
        ChainError: the disk fails.
    """
    found = _ask(path, lambda connection: _records(connection, path, run)) if path.exists() else None
    if found is None:
        raise ConfigError(f"there is no chain at {path}: give the folder, the name and the numbers of a run that began")
    return found


def _records(connection: sqlite3.Connection, path: Path, run: str) -> LocalRecords | None:
    if not _is_chain(connection, path):
        return None
    with transaction(connection, kind="DEFERRED"):  # all of it as of one moment
        compare(connection, path, {"run": run})
        meta = dict(connection.execute("SELECT name, value FROM meta"))
        peers, sends_from = read_peers(connection), read_senders(connection)
        newest = Window(connection.execute("SELECT MAX(window) FROM windows").fetchone()[0] or 0)
        if meta["pace"] == "wall":
            window_s = int(meta["blocks_per_window"]) * float(meta["seconds_per_block"])
            return LocalRecords(peers, sends_from, float(meta["genesis"]), window_s, newest)
        (opened_at,) = connection.execute("SELECT opened_at FROM windows WHERE window = 0").fetchone()
        return LocalRecords(peers, sends_from, float(opened_at), None, newest)


def _ask(path: Path, question: Callable[[sqlite3.Connection], T]) -> T:
    """Ask a file that is there. Raises `ConfigError` or `ChainError` for what SQLite says."""
    try:
        with closing(
            sqlite3.connect(_read_only(path), uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        ) as connection:
            return question(connection)
    except sqlite3.Error as error:
        explained = explain(error, path)
        if explained is None:
            raise
        raise explained from error


def _read_only(path: Path) -> str:
    """Return the address of a file that SQLite then neither changes nor leaves anything beside."""
    # With a log beside it the file is in use, or its last user was killed: the log belongs to what is read. Without one
    # SQLite would make it, even to read, so it is told that nobody writes.
    is_in_use = path.with_name(f"{path.name}-wal").exists()
    return f"{path.resolve().as_uri()}?mode=ro{'' if is_in_use else '&immutable=1'}"


def _read(connection: sqlite3.Connection, path: Path, settings: Mapping[str, str]) -> dict[Uid, Peer] | None:
    if not _is_chain(connection, path):
        return None
    compare(connection, path, settings)
    return read_peers(connection)


def _is_chain(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether a file has the tables; an empty one has not: whoever opens it makes a chain of it."""
    refuse_foreign(connection, path)
    return connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
