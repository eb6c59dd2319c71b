"""The network of many machines: a subnet of Bittensor as clock and register, and a bucket for each node.

Imported only where such a network is asked for: the bittensor package takes its time to load.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import IO

from templar_pl.chain import HotkeySigner, verify
from templar_pl.chain.bittensor_chain import BittensorChain
from templar_pl.chain.bittensor_config import BittensorConfig
from templar_pl.chain.metagraph_register import Neuron
from templar_pl.chain.subtensor import OpenSubstrate
from templar_pl.config import WindowConfig
from templar_pl.errors import ChainError, ConfigError, DocumentError, ObjectMissingError, StoreError, TransientError
from templar_pl.exchange import Buckets, LocalBuckets, R2Buckets, fetch_run_file, publish_run_file
from templar_pl.protocol import RunFile
from templar_pl.training.network import Connection, Outlook, refuse_late_uploads, refuse_short_gathers
from templar_pl.training.node_folder import NodeFolder
from templar_pl.units import Hotkey, Uid, Window

log = logging.getLogger(__name__)

MAX_LEADERS = 5
"""Validators whose run file is asked for, by stake, where no leader is named."""


@dataclass(frozen=True)
class OwnHotkey:
    """The hotkey a node signs with."""

    load: Callable[[], HotkeySigner]
    """Reads it from its wallet; may ask for a password."""

    register_command: str
    """What a user types to register it on the subnet."""


class BittensorNetwork:
    """Nodes find each other by the register of a subnet: whoever committed the address of a bucket there takes part."""

    def __init__(
        self,
        netuid: int,
        config: BittensorConfig,
        hotkey: OwnHotkey,
        *,
        folder: NodeFolder,
        r2: R2Buckets | None = None,
        open_substrate: OpenSubstrate | None = None,
    ) -> None:
        """Store the settings; nothing is read or connected.

        Args:
            netuid: number of the subnet.
            config: which chain, and how patiently.
            hotkey: of this node.
            folder: of this node in this run; its name is the name of the run, 1 to 49 of a-z, 0-9, dot, dash and
                underscore.
            r2: the buckets of the run; folders on this machine if None.
            open_substrate: makes connections to the chain; to the network of the settings if None.
        """
        self._netuid, self._config, self._hotkey = netuid, config, hotkey
        self._folder, self._r2 = folder, r2
        self._open_substrate = open_substrate

    @property
    def run_dir(self) -> Path:
        """See `Network.run_dir`."""
        return self._folder.run_dir

    @property
    def node_dir(self) -> Path:
        """See `Network.node_dir`."""
        return self._folder.node_dir

    def open(self, digest: bytes, window: WindowConfig) -> Connection:
        """See `Network.open`.

        Raises:
            ConfigError: also if the hotkey cannot be used or is not registered, or nobody tells where the run began.
        """
        refuse_short_gathers(window)
        lock = self._folder.lock()
        try:
            return self._connect(digest, window, lock)
        except (ConfigError, ChainError, StoreError):
            lock.close()
            raise

    def look(self, digest: bytes, window: WindowConfig) -> Outlook:
        """See `Network.look`. Raises `ConfigError` if the hotkey is not registered."""
        refuse_short_gathers(window)
        signer = self._hotkey.load()
        chain = self._chain(signer, window)
        chain.open()
        try:
            refuse_late_uploads(window.time_window_delta_seconds, window.blocks_per_window * chain.block_s)
            chain.register()
            self._start_window(chain, self._buckets(signer.hotkey), digest, window)
            where = f"subnet {self._netuid} of {chain.network} at block {chain.block()}"
            return Outlook(where, chain.peers(), signer.hotkey, self.node_dir)
        finally:
            chain.close()

    def _connect(self, digest: bytes, window: WindowConfig, lock: IO[str]) -> Connection:
        signer = self._hotkey.load()
        chain = self._chain(signer, window)
        chain.open()
        try:
            refuse_late_uploads(window.time_window_delta_seconds, window.blocks_per_window * chain.block_s)
            uid = chain.register()
            buckets = self._buckets(signer.hotkey)
            address = signer.hotkey
            if self._r2 is not None:
                self._r2.own().check()
                address = self._r2.own_address()
            chain.commit(address)
            start_window = self._start_window(chain, buckets, digest, window)
            if self._config.start_window is not None:
                run_file = self._run_file(digest, window, start_window)
                publish_run_file(buckets.own(), run_file, signer, verify)
            self._say_when_it_counts(chain, uid)
        except (ConfigError, ChainError, StoreError):
            chain.close()
            raise
        return Connection(
            # Payloads of the same numbers that begin elsewhere are of another run.
            run=f"{self._run}-{start_window}",
            chain=chain,
            agreement=None,
            buckets=buckets,
            signer=signer,
            verify=verify,
            hotkey=signer.hotkey,
            uid=uid,
            start_window=start_window,
            lock=lock,
        )

    @property
    def _run(self) -> str:
        return self.run_dir.name

    def _chain(self, signer: HotkeySigner, window: WindowConfig) -> BittensorChain:
        """Return the chain as this node sees it, not open yet."""
        config = replace(
            self._config, blocks_per_window=window.blocks_per_window, delta_s=window.time_window_delta_seconds
        )
        return BittensorChain(
            self._netuid,
            signer,
            config,
            register_command=self._hotkey.register_command,
            open_substrate=self._open_substrate,
        )

    def _buckets(self, hotkey: Hotkey) -> Buckets:
        return self._r2 if self._r2 is not None else LocalBuckets(self.run_dir / "store", hotkey)

    def _run_file(self, digest: bytes, window: WindowConfig, start_window: Window) -> RunFile:
        return RunFile(
            run=self._run,
            digest=digest,
            netuid=self._netuid,
            start_window=start_window,
            blocks_per_window=window.blocks_per_window,
            version=version("templar_pl"),
        )

    def _start_window(self, chain: BittensorChain, buckets: Buckets, digest: bytes, window: WindowConfig) -> Window:
        """Return where the run began, by the own settings or by the word of a leader.

        Raises:
            ConfigError: nobody tells, or the leader's run has other settings.
            StoreError: a bucket that may tell does not answer.
        """
        if self._config.start_window is not None:
            return Window(self._config.start_window)
        missing: list[str] = []
        for uid, neuron in self._leaders(chain):
            try:
                told = fetch_run_file(buckets, neuron.peer, self._run, verify)
            except TransientError:
                raise  # it may well have one: an outage must not decide whose word counts
            except (DocumentError, StoreError) as error:
                missing.append(f"uid {uid}: {'has none' if isinstance(error, ObjectMissingError) else error}")
                continue
            expected = self._run_file(digest, window, told.start_window)
            if (told.digest, told.netuid, told.blocks_per_window) != (digest, self._netuid, window.blocks_per_window):
                raise ConfigError(
                    f"the run file of uid {uid} is of a run with other settings: {_words(told)}; this node has "
                    f"{_words(expected)}. "
                    "Use the numbers of the run, or another --store.run"
                )
            log.info("uid %d says that the run began with window %d", uid, told.start_window)
            return told.start_window
        asked = "; ".join(missing) or "no validator of the subnet has committed a bucket"
        raise ConfigError(
            f"nobody tells where run {self._run} began ({asked}). To begin it, give --bittensor.start_window a window "
            f"to come, such as {chain.window() + 2}; to join it, name by --bittensor.leader who publishes its run file"
        )

    def _leaders(self, chain: BittensorChain) -> list[tuple[Uid, Neuron]]:
        """Return whose word is asked for, the first one's first."""
        neurons = chain.snapshot().neurons
        leader = self._config.leader
        if leader is not None:
            if leader not in neurons:
                raise ConfigError(f"bittensor.leader must be a uid of the subnet, which has none of number {leader}")
            return [(Uid(leader), neurons[Uid(leader)])]
        able = [(uid, neuron) for uid, neuron in neurons.items() if neuron.is_validator and neuron.peer.address]
        return sorted(able, key=lambda item: (-item[1].stake, item[0]))[:MAX_LEADERS]

    def _say_when_it_counts(self, chain: BittensorChain, uid: Uid) -> None:
        """Tell a newcomer why its first windows go on without it."""
        if uid not in chain.candidates(Window(chain.window() + 1)):
            minutes = chain.seconds_to_next_register() / 60
            log.info("uid %d is new: its payloads count in %.1f min, when all nodes know of it", uid, minutes)


def _words(run_file: RunFile) -> str:
    return (
        f"digest {run_file.digest.hex()[:16]}, subnet {run_file.netuid}, {run_file.blocks_per_window} blocks a window"
    )
