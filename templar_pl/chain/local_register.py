"""Register and purse of a local chain."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping

from templar_pl.chain.database import Database
from templar_pl.chain.hotkeys import HotkeySigner
from templar_pl.chain.pace import Pace
from templar_pl.chain.purse import shares_of
from templar_pl.errors import ChainError, ConfigError
from templar_pl.protocol.peer import Peer
from templar_pl.units import Hotkey, Uid, Window


def own_uid(connection: sqlite3.Connection, hotkey: Hotkey) -> Uid:
    """Return the uid of a hotkey. Raises `ChainError` if it has none."""
    row = connection.execute("SELECT uid FROM neurons WHERE hotkey = ?", (hotkey,)).fetchone()
    if row is None:
        raise ChainError(f"hotkey {hotkey} is not registered on this chain; call register() first")
    return Uid(row[0])


def read_peers(connection: sqlite3.Connection) -> dict[Uid, Peer]:
    """Return every registered hotkey, in uid order."""
    return _peers(connection.execute("SELECT uid, hotkey, public_key, address FROM neurons ORDER BY uid"))


def read_senders(connection: sqlite3.Connection) -> dict[Uid, Window]:
    """Return the first window in which the payload of each hotkey that sends may count, in uid order."""
    rows = connection.execute("SELECT uid, since FROM neurons WHERE sends ORDER BY uid")
    return {Uid(uid): Window(since) for uid, since in rows}


def _peers(rows: Iterable[tuple[int, str, bytes, str]]) -> dict[Uid, Peer]:
    return {Uid(uid): Peer(Uid(uid), Hotkey(hotkey), public_key, address) for uid, hotkey, public_key, address in rows}


class LocalRegister:
    """`Register` and `Purse` in the file of a local chain. Uids are given in order, from 0, and never again."""

    def __init__(self, database: Database, signer: HotkeySigner, pace: Pace) -> None:
        """Store the parts.

        Args:
            database: the file; opened and closed by the chain.
            signer: hotkey of this node.
            pace: says in which window a hotkey is registered.
        """
        self._database, self._signer, self._pace = database, signer, pace

    def register(self, *, sends: bool = True) -> Uid:
        """Return the uid of the own hotkey, giving it the next free one if it has none.

        A hotkey that sent nothing so far and does from now on counts from the next window on.

        Raises:
            ConfigError: the hotkey is registered as one that sends: its payloads count for all who replay its windows.
        """
        with self._database.write() as connection:
            since = self._pace.window(connection) + 1
            connection.execute(
                "INSERT INTO neurons SELECT COUNT(*), ?, ?, '', ?, ? FROM neurons WHERE true "
                "ON CONFLICT (hotkey) DO UPDATE SET sends = 1, since = excluded.since "
                "WHERE excluded.sends AND NOT neurons.sends",
                (self._signer.hotkey, self._signer.public_key, since, sends),
            )
            uid = own_uid(connection, self._signer.hotkey)
            if connection.execute("SELECT sends FROM neurons WHERE uid = ?", (uid,)).fetchone()[0] > sends:
                raise ConfigError(
                    f"hotkey {self._signer.hotkey} takes part in this run as a miner; give this command a hotkey of "
                    "its own, by --wallet.hotkey"
                )
            return uid

    def commit(self, address: str) -> None:
        """Publish where the own bucket is. Raises `ChainError` if the own hotkey is not registered."""
        with self._database.write() as connection:
            uid = own_uid(connection, self._signer.hotkey)
            connection.execute("UPDATE neurons SET address = ? WHERE uid = ?", (address, uid))

    def peers(self, needed: Collection[Uid] = ()) -> dict[Uid, Peer]:  # noqa: ARG002 - every answer is the newest
        """Return every registered hotkey, the own one among them, in uid order."""
        with self._database.read() as connection:
            return read_peers(connection)

    def candidates(self, window: Window) -> dict[Uid, Peer]:
        """Return the hotkeys that send and were registered before the window opened, in uid order."""
        query = "SELECT uid, hotkey, public_key, address FROM neurons WHERE sends AND since <= ? ORDER BY uid"
        with self._database.read() as connection:
            return _peers(connection.execute(query, (window,)))

    def set_weights(self, weights: Mapping[Uid, float]) -> None:
        """Replace what the own hotkey says each miner deserves; the weights are scaled so that they sum to 1.

        Raises:
            ValueError: a weight is below 0 or not finite, or their sum is not above 0.
            ChainError: the own hotkey or one of the uids is not registered.
        """
        shares = shares_of(weights)
        with self._database.write() as connection:
            validator = own_uid(connection, self._signer.hotkey)
            known = {row[0] for row in connection.execute("SELECT uid FROM neurons")}
            if unknown := sorted(set(weights) - known):
                raise ChainError(f"cannot set weights of uids {unknown}: they are not registered on this chain")
            connection.execute("DELETE FROM weights WHERE validator = ?", (validator,))
            rows = [(validator, uid, share) for uid, share in shares.items()]
            connection.executemany("INSERT INTO weights VALUES (?, ?, ?)", rows)

    def weights(self) -> dict[Uid, dict[Uid, float]]:
        """Return validator -> miner -> share, both in uid order. The shares of one validator sum to 1."""
        shares: dict[Uid, dict[Uid, float]] = {}
        with self._database.read() as connection:
            rows = connection.execute("SELECT validator, uid, share FROM weights ORDER BY validator, uid").fetchall()
        for validator, uid, share in rows:
            shares.setdefault(Uid(validator), {})[Uid(uid)] = share
        return shares
