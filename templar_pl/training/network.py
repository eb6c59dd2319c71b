"""How a node reaches the others: what the strategy asks for, and the network of one machine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from templar_pl.chain import Chain, LeasedAgreement, LocalChain, LocalChainConfig, load_or_create_hotkey, verify
from templar_pl.config import WindowConfig
from templar_pl.exchange import Buckets, LocalBuckets
from templar_pl.protocol.signing import Signer, Verify
from templar_pl.units import Hotkey, Uid, Window


@dataclass(frozen=True)
class Connection:
    """An open network, and who this node is in it."""

    run: str
    """Name of the run, first part of every object key."""

    chain: Chain
    agreement: LeasedAgreement
    buckets: Buckets
    signer: Signer
    verify: Verify
    hotkey: Hotkey
    uid: Uid
    start_window: Window
    """Window whose update is the first of the run."""

    def close(self) -> None:
        """Take part no more and let go of the chain."""
        self.agreement.leave()
        self.chain.close()


class Network(Protocol):
    """Connects a node to a run; keeps no connection itself."""

    def open(self, digest: bytes, window: WindowConfig) -> Connection:
        """Connect, register the own hotkey and publish where the own bucket is.

        Args:
            digest: 32 bytes, of the settings and parameter shapes all nodes of the run share.
            window: length of a window and its exchange.

        Raises:
            ConfigError: the chain belongs to a run with other settings.
            ChainError: the chain cannot be reached.
        """
        ...


class LocalNetwork:
    """Several processes of one machine: a chain in one file and a bucket per hotkey in one folder.

    Processes that name the same root and run find each other; each needs a hotkey name of its own.
    """

    def __init__(
        self, root: str = "runs", run: str = "local", hotkey: str = "miner", chain: LocalChainConfig | None = None
    ) -> None:
        """Store where things are.

        Args:
            root: folder of all runs; made on first use.
            run: name of the run; 1 to 64 of a-z, 0-9, dot, dash and underscore.
            hotkey: name of this node's key; made on first use in `root/hotkeys`.
            chain: pace and leases of the local chain.
        """
        self._root, self._run, self._hotkey = Path(root), run, hotkey
        self._config = chain or LocalChainConfig()

    @property
    def node_dir(self) -> Path:
        """Folder of what only this node writes: its log, its metrics, its checkpoints."""
        return self._root / self._run / "nodes" / self._hotkey

    def open(self, digest: bytes, window: WindowConfig) -> Connection:
        """See `Network.open`."""
        signer = load_or_create_hotkey(self._root / "hotkeys", self._hotkey)
        config = replace(
            self._config, blocks_per_window=window.blocks_per_window, delta_s=window.time_window_delta_seconds
        )
        chain = LocalChain(self._root / self._run / "chain.sqlite", signer, config, run=digest.hex())
        chain.open()
        uid = chain.register()
        chain.commit(signer.hotkey)
        return Connection(
            run=self._run,
            chain=chain,
            agreement=chain.agreement,
            buckets=LocalBuckets(self._root / self._run / "store", signer.hotkey),
            signer=signer,
            verify=verify,
            hotkey=signer.hotkey,
            uid=uid,
            start_window=Window(0),
        )
