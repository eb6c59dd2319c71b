"""The network of one machine: a chain in one file, and buckets in one folder or on an S3 store."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from templar_pl.chain import (
    LocalChain,
    LocalChainConfig,
    load_hotkey,
    load_or_create_hotkey,
    look_at_local_chain,
    new_hotkey,
    read_local_chain,
    verify,
)
from templar_pl.config import WindowConfig
from templar_pl.errors import ChainError, ConfigError, StoreError
from templar_pl.exchange import LocalBuckets, R2Buckets
from templar_pl.node_config import FollowConfig
from templar_pl.training.followed import followed
from templar_pl.training.network import Connection, refuse_late_uploads, refuse_short_gathers, warn_of_short_windows
from templar_pl.training.node_folder import NodeFolder
from templar_pl.training.outlook import LocalOutlook
from templar_pl.training.run_view import RunView, only_aggregator, peer_of
from templar_pl.units import Block, Hotkey, Window


@dataclass(frozen=True, kw_only=True)
class LocalView:
    """A run as somebody sees it who takes no part in it."""

    run: str
    """First part of every object key."""

    chain: LocalChain
    """Open; of a hotkey that is not registered."""

    buckets: LocalBuckets | R2Buckets
    hotkeys: Mapping[str, Hotkey]
    """Name -> hotkey of the keys that were asked for."""


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
        follow: FollowConfig | None = None,
    ) -> None:
        """Store where things are.

        Args:
            root: folder of all runs; made on first use.
            run: name of the run; 1 to 64 of a-z, 0-9, dot, dash and underscore, on an S3 store 1 to 50.
            hotkey: name of this node's key; made on first use in `root/hotkeys`.
            chain: pace and leases of the local chain.
            r2: the buckets of the run; folders below `root` if None.
            follow: whose word counts; nobody's if None.
        """
        self._root, self._run, self._hotkey = Path(root), run, hotkey
        self._folder = NodeFolder(self._root / run, hotkey)
        self._config, self._r2 = chain or LocalChainConfig(), r2
        self._follow = follow or FollowConfig()

    @property
    def run_dir(self) -> Path:
        """See `Network.run_dir`."""
        return self._folder.run_dir

    @property
    def node_dir(self) -> Path:
        """See `Network.node_dir`."""
        return self._folder.node_dir

    def open(self, digest: bytes, window: WindowConfig, *, sends: bool = True) -> Connection:
        """See `Network.open`."""
        if not self._config.record_windows:
            refuse_short_gathers(window)
        lock = self._folder.lock()
        try:
            return self._connect(digest, window, lock, sends=sends)
        except (ConfigError, ChainError, StoreError):
            lock.close()
            raise

    def look(self, digest: bytes, window: WindowConfig) -> LocalOutlook:
        """Say what `open` would find on the chain; nothing is made, changed or locked. Raises as `open` does."""
        signer = load_hotkey(self._hotkeys, self._hotkey)
        if signer is not None:  # its own key, which it may follow, is made when it joins
            followed(self._follow, self._hotkeys)
        peers = look_at_local_chain(self._chain_file, self._chain_config(window), run=digest.hex())
        return LocalOutlook(
            str(self._chain_file), peers, signer.hotkey if signer else None, self._hotkeys / self._hotkey
        )

    def view(self, digest: bytes, window: WindowConfig) -> RunView:
        """See `Network.view`; an aggregator that nobody named is the one node whose bucket has manifests."""
        named, validator = followed(self._follow, self._hotkeys)
        chain = read_local_chain(self._chain_file, run=digest.hex())
        run, buckets = self._place(chain.born_at, Hotkey("nobody"))
        return RunView(
            run=run,
            buckets=buckets,
            register=lambda _: chain.peers,
            candidates=chain.candidates,
            ends_at=chain.ends_at,
            open_window=lambda: read_local_chain(self._chain_file, run=digest.hex()).open_window(time.time()),
            aggregator=peer_of(chain.peers, named) or only_aggregator(chain.peers, buckets, run),
            validator=peer_of(chain.peers, validator),
            start_window=Window(0),
            verify=verify,
            close=lambda: None,
        )

    def found(
        self, digest: bytes, window: WindowConfig, *, nodes: Mapping[str, bool | None], wait_s: float
    ) -> LocalView:
        """Make the chain and the keys of a run whose nodes are still to be started, and look on.

        Window 0, in which nobody can send, lasts `wait_s` seconds longer than the others, so that all can be there for
        the first window that counts. Whoever looks on closes the chain.

        Args:
            digest: 32 bytes, of the settings and parameter shapes all nodes of the run share.
            window: length of a window and its exchange.
            nodes: name of each hotkey -> whether it sends payloads; they get uids in this order, from 0 on. None: it
                registers when it comes.
            wait_s: seconds, 0 or more.

        Raises:
            ConfigError: there is a chain already, its windows do not end by the clock, or buckets are no folders.
            ChainError: the disk fails.
        """
        config = self._chain_config(window)
        if config.pace != "wall" or self._r2 is not None:
            raise ConfigError("to wait for nodes a run needs chain.pace wall and store.kind local")
        if self._chain_file.exists():
            raise ConfigError(f"{self._chain_file} is there already: name another folder by --store.root")

        signers = {name: load_or_create_hotkey(self._hotkeys, name) for name in nodes}
        for name, sends in nodes.items():
            if sends is None:
                continue
            # Its genesis is that of the clock of whoever makes it.
            later = LocalChain(
                self._chain_file, signers[name], config, run=digest.hex(), now=lambda: time.time() + wait_s
            )
            try:
                later.open()
                later.register(sends=sends)
            finally:
                later.close()
        return self._view(digest, config, {name: signer.hotkey for name, signer in signers.items()})

    def _connect(self, digest: bytes, window: WindowConfig, lock: IO[str], *, sends: bool) -> Connection:
        signer = load_or_create_hotkey(self._hotkeys, self._hotkey)
        aggregator, validator = followed(self._follow, self._hotkeys)
        chain = LocalChain(self._chain_file, signer, self._chain_config(window), run=digest.hex())
        chain.open()
        try:
            run, address, buckets = self._store(chain, signer.hotkey)
            uid = chain.register(sends=sends)
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
            address=address,
            start_window=Window(0),
            lock=lock,
            aggregator=aggregator,
            validator=validator,
            manifest_wait_s=self._follow.wait_s,
        )

    def _view(self, digest: bytes, config: LocalChainConfig, hotkeys: Mapping[str, Hotkey]) -> LocalView:
        nobody = new_hotkey()
        chain = LocalChain(self._chain_file, nobody, config, run=digest.hex())
        chain.open()
        run, buckets = self._place(chain.timestamp(Block(0)), nobody.hotkey)
        return LocalView(run=run, chain=chain, buckets=buckets, hotkeys=hotkeys)

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
        if config.pace == "wall":
            window_s = config.seconds_per_block * config.blocks_per_window
            refuse_late_uploads(config.delta_s, window_s)
            if not config.record_windows:
                warn_of_short_windows(config.delta_s, window_s)
        return config

    def _store(self, chain: LocalChain, hotkey: Hotkey) -> tuple[str, str, LocalBuckets | R2Buckets]:
        """Return the first part of every key, the address of the own bucket, and all buckets."""
        run, buckets = self._place(chain.timestamp(Block(0)), hotkey)
        if self._r2 is None:
            return run, hotkey, buckets
        self._r2.own().check()
        return run, self._r2.own_address(), buckets

    def _place(self, born_at: float, hotkey: Hotkey) -> tuple[str, LocalBuckets | R2Buckets]:
        """Return the first part of every key, and all buckets, of which that of `hotkey` is the own one.

        Payloads of a chain that was deleted must not pass for those of the one that took its place: the time of birth
        tells them apart.
        """
        birth_ms = int(1000 * born_at)
        if self._r2 is None:
            return self._run, LocalBuckets(self.run_dir / f"store-{birth_ms}", hotkey)
        return f"{self._run}-{birth_ms}", self._r2
