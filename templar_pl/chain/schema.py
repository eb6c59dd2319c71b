"""Tables of a local chain's file, and the settings it was made with."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from templar_pl.errors import ConfigError

APPLICATION_ID = 0x746D706C  # "tmpl", so that no other program's database is written to
FORMAT = "3"
"""Version of the tables; a file of another version is refused."""

TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE neurons (
    uid INTEGER PRIMARY KEY, hotkey TEXT NOT NULL UNIQUE, public_key BLOB NOT NULL, address TEXT NOT NULL,
    since INTEGER NOT NULL, sends INTEGER NOT NULL);
CREATE TABLE live (uid INTEGER PRIMARY KEY, session TEXT NOT NULL, expires REAL NOT NULL);
CREATE TABLE windows (window INTEGER PRIMARY KEY, opened_at REAL NOT NULL, closed_at REAL);
CREATE TABLE announcements (
    window INTEGER NOT NULL, uid INTEGER NOT NULL, sha256 BLOB NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (window, uid)) WITHOUT ROWID;
CREATE TABLE weights (
    validator INTEGER NOT NULL, uid INTEGER NOT NULL, share REAL NOT NULL,
    PRIMARY KEY (validator, uid)) WITHOUT ROWID
"""


@contextmanager
def transaction(connection: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[sqlite3.Connection]:
    """Commit at the end, or roll back if anything rises.

    IMMEDIATE takes the write lock at once: a reader that turns writer half-way cannot wait for it, only fail.
    """
    connection.execute(f"BEGIN {kind}")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def refuse_foreign(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a database that another program made, before anything is written to it.

    Raises:
        ConfigError: it holds tables and is not a chain.
    """
    with transaction(connection, kind="DEFERRED"):
        application_id = connection.execute("PRAGMA application_id").fetchone()[0]
        num_tables = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
    if application_id != APPLICATION_ID and num_tables > 0:
        raise ConfigError(f"{path} is a database of another program; name another path for the chain")


def create_or_compare(
    connection: sqlite3.Connection, path: Path, settings: Mapping[str, str], created_at: float
) -> None:
    """Make the tables of a new file, or compare the settings of an old one, in one transaction.

    Args:
        connection: to a file that `refuse_foreign` let pass.
        path: of the file, for messages.
        settings: name -> value.
        created_at: UTC seconds to store as the genesis of a new file.

    Raises:
        ConfigError: the file was made with other settings.
    """
    with transaction(connection):
        if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            for statement in TABLES.split(";"):
                connection.execute(statement)
            rows = [("format", FORMAT), *settings.items(), ("genesis", repr(created_at))]
            connection.executemany("INSERT INTO meta VALUES (?, ?)", rows)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        compare(connection, path, settings)


def compare(connection: sqlite3.Connection, path: Path, settings: Mapping[str, str]) -> None:
    """Compare the settings of a file that has the tables.

    Args:
        connection: to the file.
        path: of the file, for messages.
        settings: name -> value.

    Raises:
        ConfigError: the file was made with other settings.
    """
    stored = dict(connection.execute("SELECT name, value FROM meta"))
    for name, value in {"format": FORMAT, **settings}.items():
        if stored.get(name) != value:
            raise ConfigError(
                f"chain file {path} was made with {name} = {stored.get(name)}, but {name} = {value} is asked for; "
                f"use {stored.get(name)}, or name another path, or delete the file to start anew"
            )
