"""Look at the file of a local chain without making, changing or locking it."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from templar_pl.chain.database import BUSY_TIMEOUT_S, explain
from templar_pl.chain.local_config import LocalChainConfig, chain_settings
from templar_pl.chain.local_register import read_peers
from templar_pl.chain.schema import APPLICATION_ID, compare, refuse_foreign
from templar_pl.protocol.peer import Peer
from templar_pl.units import Uid


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
    try:
        with closing(
            sqlite3.connect(_read_only(path), uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        ) as connection:
            return _read(connection, path, chain_settings(config, run))
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
    refuse_foreign(connection, path)
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        return None  # an empty file: whoever opens it makes a chain of it
    compare(connection, path, settings)
    return read_peers(connection)
