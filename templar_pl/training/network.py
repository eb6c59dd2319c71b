"""How a node reaches the others: what the strategy asks for, and the network of one machine."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Protocol

from templar_pl.chain import (
    Chain,
    LeasedAgreement,
    LocalChain,
    LocalChainConfig,
    load_hotkey,
    load_or_create_hotkey,
    look_at_local_chain,
    verify,
)
from templar_pl.config import WindowConfig
from templar_pl.errors import ChainError, ConfigError, StoreError
from templar_pl.exchange import Buckets, LocalBuckets, R2Buckets
from templar_pl.protocol.peer import Peer
from templar_pl.protocol.signing import Signer, Verify
from templar_pl.units import Block, Hotkey, Uid, Window

log = logging.getLogger(__name__)

LOOK_S = 2.5
"""Seconds after the end of uploads in which every peer is asked once more: a second for stores that tell whole seconds,
one between two questions to a peer, and the time of an answer."""


@dataclass(frozen=True)
class Connection:
    """An open network, and who this node is in it."""

    run: str
    """Name of the run, first part of every object key."""

    chain: Chain
    agreement: LeasedAgreement | None
    """Who writes down what each window consists of; None if nobody does."""

    buckets: Buckets
    signer: Signer
    verify: Verify
    hotkey: Hotkey
    uid: Uid
    start_window: Window
    """Window whose update is the first of the run."""

    lock: IO[str]
    """Held as long as this node runs, so that no other process runs as the same node."""

    def close(self) -> None:
        """Take part no more and let go of the chain."""
        try:
            if self.agreement is not None:
                self.agreement.leave()
        except ChainError as error:
            log.warning("could not leave the chain; the others wait until the lease ends: %s", error)
        finally:
            self.chain.close()
            self.lock.close()


@dataclass(frozen=True)
class Outlook:
    """What a node would find if it joined."""

    chain: Path
    """File of the chain."""

    peers: Mapping[Uid, Peer] | None
    """Who is registered; None if the chain is made by the first node to join."""

    hotkey: Hotkey | None
    """Of this node; None if it is made when the node joins."""

    hotkey_file: Path


class Network(Protocol):
    """Connects a node to a run; keeps no connection itself."""

    def open(self, digest: bytes, window: WindowConfig) -> Connection:
        """Connect, register the own hotkey and publish where the own bucket is.

        Args:
            digest: 32 bytes, of the settings and parameter shapes all nodes of the run share.
            window: length of a window and its exchange.

        Raises:
            ConfigError: the chain belongs to a run with other settings, or a key of the own bucket is not set.
            ChainError: the chain cannot be reached.
            StoreError: the own bucket cannot be reached.
        """
        ...


class LocalNetwork:
    """Several processes of one machine: a chain in one file, and buckets in one folder or on an S3 store.

    Processes that name the same root and run find each other; each needs a hotkey name of its own, and on an S3 store a
    bucket of its own.
    """

    def __init__(
        self,
        root: str = "runs",
        run: str = "local",
        hotkey: str = "miner",
        chain: LocalChainConfig | None = None,
        r2: R2Buckets | None = None,
    ) -> None:
        """Store where things are.

        Args:
            root: folder of all runs; made on first use.
            run: name of the run; 1 to 64 of a-z, 0-9, dot, dash and underscore, on an S3 store 1 to 50.
            hotkey: name of this node's key; made on first use in `root/hotkeys`.
            chain: pace and leases of the local chain.
            r2: the buckets of the run; folders below `root` if None.
        """
        self._root, self._run, self._hotkey = Path(root), run, hotkey
        self._config, self._r2 = chain or LocalChainConfig(), r2

    @property
    def node_dir(self) -> Path:
        """Folder of what only this node writes: its log, its metrics, its checkpoints."""
        return self.run_dir / "nodes" / self._hotkey

    @property
    def run_dir(self) -> Path:
        """Folder of what the nodes of the run share."""
        return self._root / self._run

    def open(self, digest: bytes, window: WindowConfig) -> Connection:
        """See `Network.open`."""
        if not self._config.record_windows:
            _refuse_short_gathers(window)
        lock = self._lock()
        try:
            return self._connect(digest, window, lock)
        except (ConfigError, ChainError, StoreError):
            lock.close()
            raise

    def look(self, digest: bytes, window: WindowConfig) -> Outlook:
        """Say what `open` would find on the chain; nothing is made, changed or locked. Raises as `open` does."""
        signer = load_hotkey(self._hotkeys, self._hotkey)
        peers = look_at_local_chain(self._chain_file, self._chain_config(window), run=digest.hex())
        return Outlook(self._chain_file, peers, signer.hotkey if signer else None, self._hotkeys / self._hotkey)

    def _connect(self, digest: bytes, window: WindowConfig, lock: IO[str]) -> Connection:
        signer = load_or_create_hotkey(self._hotkeys, self._hotkey)
        chain = LocalChain(self._chain_file, signer, self._chain_config(window), run=digest.hex())
        chain.open()
        try:
            run, address, buckets = self._store(chain, signer.hotkey)
            uid = chain.register()
            chain.commit(address)
        except (ConfigError, ChainError, StoreError):
            chain.close()
            raise
        return Connection(
            run=run,
            chain=chain,
            agreement=chain.agreement if self._config.record_windows else None,
            buckets=buckets,
            signer=signer,
            verify=verify,
            hotkey=signer.hotkey,
            uid=uid,
            start_window=Window(0),
            lock=lock,
        )

    @property
    def _hotkeys(self) -> Path:
        return self._root / "hotkeys"

    @property
    def _chain_file(self) -> Path:
        return self.run_dir / "chain.sqlite"

    def _chain_config(self, window: WindowConfig) -> LocalChainConfig:
        config = replace(
            self._config, blocks_per_window=window.blocks_per_window, delta_s=window.time_window_delta_seconds
        )
        _refuse_late_uploads(config)
        return config

    def _store(self, chain: LocalChain, hotkey: Hotkey) -> tuple[str, str, Buckets]:
        """Return the first part of every key, the address of the own bucket, and all buckets.

        Payloads of a chain that was deleted must not pass for those of the one that took its place: the time of birth
        tells them apart.
        """
        birth_ms = int(1000 * chain.timestamp(Block(0)))
        if self._r2 is None:
            return self._run, hotkey, LocalBuckets(self.run_dir / f"store-{birth_ms}", hotkey)
        self._r2.own().check()
        return f"{self._run}-{birth_ms}", self._r2.own_address(), self._r2

    def _lock(self) -> IO[str]:
        self.node_dir.mkdir(parents=True, exist_ok=True)
        lock = (self.node_dir / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise ConfigError(
                f"another process runs as hotkey {self._hotkey!r} in {self.node_dir}; "
                "give this one another --wallet.hotkey, or stop the other"
            ) from error
        return lock


def _refuse_short_gathers(window: WindowConfig) -> None:
    """Nodes that stop looking before uploads are over would not all see the same."""
    least_s = window.time_window_delta_seconds + LOOK_S
    if window.gather_timeout_seconds < least_s:
        raise ConfigError(
            f"gather_timeout_seconds must be at least {least_s:g} where nobody records windows, {LOOK_S:g} s more than "
            f"time_window_delta_seconds, got {window.gather_timeout_seconds:g}: a gather would end before the last "
            "payload may land"
        )


def _refuse_late_uploads(config: LocalChainConfig) -> None:
    window_s = config.seconds_per_block * config.blocks_per_window
    if config.pace == "wall" and config.delta_s >= window_s:
        raise ConfigError(
            f"time_window_delta_seconds must be below the length of a window, {window_s:g} s, got {config.delta_s:g}: "
            "a node would wait for payloads of one window beyond the end of the next"
        )
