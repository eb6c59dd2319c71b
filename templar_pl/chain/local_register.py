"""Register and purse of a local chain."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping

from templar_pl.chain.database import Database
from templar_pl.chain.hotkeys import HotkeySigner
from templar_pl.chain.pace import Pace
from templar_pl.errors import ChainError
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
    columns = "uid, hotkey, public_key, address, since"
    rows = connection.execute(f"SELECT {columns} FROM neurons ORDER BY uid").fetchall()  # noqa: S608 - no input
    return {
        Uid(uid): Peer(Uid(uid), Hotkey(hotkey), public_key, address, Window(since))
        for uid, hotkey, public_key, address, since in rows
    }


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

    def register(self) -> Uid:
        """Return the uid of the own hotkey, giving it the next free one if it has none."""
        with self._database.write() as connection:
            connection.execute(
                "INSERT INTO neurons SELECT COUNT(*), ?, ?, '', ? FROM neurons WHERE true "
                "ON CONFLICT (hotkey) DO NOTHING",
                (self._signer.hotkey, self._signer.public_key, self._pace.window(connection) + 1),
            )
            return own_uid(connection, self._signer.hotkey)

    def commit(self, address: str) -> None:
        """Publish where the own bucket is. Raises `ChainError` if the own hotkey is not registered."""
        with self._database.write() as connection:
            uid = own_uid(connection, self._signer.hotkey)
            connection.execute("UPDATE neurons SET address = ? WHERE uid = ?", (address, uid))

    def peers(self) -> dict[Uid, Peer]:
        """Return every registered hotkey, the own one among them, in uid order."""
        with self._database.read() as connection:
            return read_peers(connection)

    def set_weights(self, weights: Mapping[Uid, float]) -> None:
        """Replace what the own hotkey says each miner deserves; the weights are scaled so that they sum to 1.

        Raises:
            ValueError: a weight is below 0 or not finite, or their sum is not above 0.
            ChainError: the own hotkey or one of the uids is not registered.
        """
        for uid, weight in weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"the weight of uid {uid} must be finite and 0 or more, got {weight}")
        total = sum(weights.values())
        if not 0 < total < math.inf:
            raise ValueError(f"at least one weight must be above 0, and their sum finite, got the sum {total}")
        with self._database.write() as connection:
            validator = own_uid(connection, self._signer.hotkey)
            known = {row[0] for row in connection.execute("SELECT uid FROM neurons")}
            if unknown := sorted(set(weights) - known):
                raise ChainError(f"cannot set weights of uids {unknown}: they are not registered on this chain")
            connection.execute("DELETE FROM weights WHERE validator = ?", (validator,))
            rows = [(validator, uid, weight / total) for uid, weight in weights.items() if weight > 0]
            connection.executemany("INSERT INTO weights VALUES (?, ?, ?)", rows)

    def weights(self) -> dict[Uid, dict[Uid, float]]:
        """Return validator -> miner -> share, both in uid order. The shares of one validator sum to 1."""
        shares: dict[Uid, dict[Uid, float]] = {}
        with self._database.read() as connection:
            rows = connection.execute("SELECT validator, uid, share FROM weights ORDER BY validator, uid").fetchall()
        for validator, uid, share in rows:
            shares.setdefault(Uid(validator), {})[Uid(uid)] = share
        return shares
