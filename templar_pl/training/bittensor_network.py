"""The network of many machines: a subnet of Bittensor as clock and register, and a bucket for each node.

Imported only where such a network is asked for: the bittensor package takes its time to load.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from templar_pl.chain import HotkeySigner, new_hotkey, verify
from templar_pl.chain.bittensor_chain import BittensorChain
from templar_pl.chain.bittensor_config import BittensorConfig
from templar_pl.chain.subtensor import OpenSubstrate
from templar_pl.config import WindowConfig
from templar_pl.errors import ChainError, ConfigError, ObjectMissingError
from templar_pl.exchange import LocalBuckets, R2Buckets, publish_run_file
from templar_pl.exchange.run_files import own_run_file
from templar_pl.exchange.store import BucketReader
from templar_pl.node_config import FollowConfig
from templar_pl.protocol import RunFile
from templar_pl.training.followed import followed
from templar_pl.training.network import Connection, refuse_late_uploads, refuse_short_gathers, warn_of_short_windows
from templar_pl.training.node_folder import NodeFolder
from templar_pl.training.outlook import RunStart, SubnetOutlook, SubnetSeen
from templar_pl.training.run_start import RunTerms
from templar_pl.training.run_view import RunView, peer_of
from templar_pl.training.subnet_look import look_at_subnet
from templar_pl.units import Hotkey, Uid, Window

log = logging.getLogger(__name__)

MAX_AHEAD = 10_000
"""Windows that a run may begin ahead at most: ten days of windows of 84 s."""


@dataclass(frozen=True)
class OwnHotkey:
    """The hotkey a node signs with."""

    load: Callable[[], HotkeySigner]
    """Reads it from its wallet; may ask for a password."""

    file: Path
    """Where it is kept."""

    password_source: Callable[[], str]
    """Says where its password comes from; empty if it needs none."""

    register_command: str
    """What a user types to register it on the subnet."""

    cost_command: str
    """What tells what that costs."""


@dataclass(frozen=True)
class OwnNode:
    """What a machine chose for its node."""

    folder: NodeFolder
    """Of this node in this run; its name is the name of the run, 1 to 49 of a-z, 0-9, dot, dash and underscore."""

    r2: R2Buckets | None = None
    """The buckets of the run; folders on this machine if None."""

    follow: FollowConfig = field(default_factory=FollowConfig)
    """Whose word counts."""


class BittensorNetwork:
    """Nodes find each other by the register of a subnet: whoever committed the address of a bucket there takes part."""

    def __init__(
        self,
        netuid: int,
        config: BittensorConfig,
        hotkey: OwnHotkey,
        *,
        node: OwnNode,
        open_substrate: OpenSubstrate | None = None,
    ) -> None:
        """Store the settings; nothing is read or connected.

        Args:
            netuid: number of the subnet.
            config: which chain, and how patiently.
            hotkey: of this node.
            node: what this machine chose for itself.
            open_substrate: makes connections to the chain; to the network of the settings if None.
        """
        self._netuid, self._config, self._hotkey = netuid, config, hotkey
        self._folder, self._r2, self._follow = node.folder, node.r2, node.follow
        self._open_substrate = open_substrate

    @property
    def run_dir(self) -> Path:
        """See `Network.run_dir`."""
        return self._folder.run_dir

    @property
    def node_dir(self) -> Path:
        """See `Network.node_dir`."""
        return self._folder.node_dir

    def open(self, digest: bytes, window: WindowConfig, *, sends: bool = True) -> Connection:
        """See `Network.open`.

        Raises:
            ConfigError: also if the hotkey cannot be used or is not registered, or nobody tells where the run began.
        """
        refuse_short_gathers(window)
        lock = self._folder.lock()
        try:
            return self._connect(digest, window, lock, sends=sends)
        except BaseException:
            lock.close()
            raise

    def look(self, digest: bytes, window: WindowConfig) -> SubnetOutlook:
        """See `Network.look`."""
        followed(self._follow, None)
        try:
            hotkey: Hotkey | ConfigError = (signer := self._hotkey.load()).hotkey
        except ConfigError as error:
            signer, hotkey = new_hotkey(), error  # to see the chain all the same
        chain = self._chain(signer, window)
        try:
            chain.open()
            subnet: SubnetSeen | ChainError | ConfigError = look_at_subnet(
                chain, signer, self._terms(digest, window), self._buckets(signer.hotkey), self._address
            )
        except (ChainError, ConfigError) as error:
            subnet = error
        finally:
            chain.close()
        return SubnetOutlook(
            netuid=self._netuid,
            network=chain.network,
            hotkey_file=self._hotkey.file,
            password=self._hotkey.password_source(),
            hotkey=hotkey,
            register_command=self._hotkey.register_command,
            cost_command=self._hotkey.cost_command,
            has_local_buckets=self._r2 is None,
            subnet=subnet,
        )

    def view(self, digest: bytes, window: WindowConfig) -> RunView:
        """See `Network.view`; an aggregator that nobody named is who tells where the run began."""
        named, validator = followed(self._follow, None)
        chain, buckets = self._chain(new_hotkey(), window), self._buckets(Hotkey("nobody"))
        chain.open()
        try:
            start, peers = self._terms(digest, window).start(chain, buckets), chain.peers()
            aggregator = peer_of(peers, named or _hotkey_of(chain, start.teller))
            if aggregator is None:
                raise ConfigError("name whose manifests count, by --follow.aggregator")
            return RunView(
                run=f"{self._run}-{start.window}",
                buckets=buckets,
                register=chain.candidates,
                candidates=chain.candidates,
                # Only an archive node dates old blocks, and two nodes may have dated one a slot apart.
                ends_at=lambda _: None,
                open_window=chain.window,
                aggregator=aggregator,
                validator=peer_of(peers, validator),
                start_window=start.window,
                verify=verify,
                close=chain.close,
            )
        except BaseException:
            chain.close()
            raise

    def _connect(self, digest: bytes, window: WindowConfig, lock: IO[str], *, sends: bool) -> Connection:
        named, validator = followed(self._follow, None)
        signer = self._hotkey.load()
        chain = self._chain(signer, window)
        chain.open()
        try:
            refuse_late_uploads(window.time_window_delta_seconds, window.blocks_per_window * chain.block_s)
            warn_of_short_windows(window.time_window_delta_seconds, window.blocks_per_window * chain.block_s)
            uid = chain.register(sends=sends)
            buckets = self._buckets(signer.hotkey)
            if self._r2 is not None:
                self._r2.own().check()
            # Asked before anything is written: the chain takes few commitments in an epoch.
            terms, address = self._terms(digest, window), self._address(signer)
            start = _begin_or_join(chain, buckets, terms, signer)
            aggregator = named or _hotkey_of(chain, start.teller)
            chain.commit(address)
            if sends:
                _say_when_it_counts(chain, uid, address, signer)
        except BaseException:
            chain.close()
            raise
        return Connection(
            # Payloads of the same numbers that begin elsewhere are of another run.
            run=f"{self._run}-{start.window}",
            chain=chain,
            agreement=None,
            buckets=buckets,
            signer=signer,
            verify=verify,
            hotkey=signer.hotkey,
            uid=uid,
            address=address,
            start_window=start.window,
            lock=lock,
            aggregator=aggregator,
            validator=validator,
            manifest_wait_s=self._follow.wait_s,
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

    def _buckets(self, hotkey: Hotkey) -> LocalBuckets | R2Buckets:
        return self._r2 if self._r2 is not None else LocalBuckets(self.run_dir / "store", hotkey)

    def _address(self, signer: HotkeySigner) -> str:
        """Return what is committed to. Raises `ConfigError` if a key of the own bucket is not set."""
        return signer.hotkey if self._r2 is None else self._r2.own_address()

    def _terms(self, digest: bytes, window: WindowConfig) -> RunTerms:
        return RunTerms(
            name=self._run,
            digest=digest,
            netuid=self._netuid,
            blocks_per_window=window.blocks_per_window,
            start_window=self._config.start_window,
            leader=self._config.leader,
        )


def _begin_or_join(
    chain: BittensorChain, buckets: LocalBuckets | R2Buckets, terms: RunTerms, signer: HotkeySigner
) -> RunStart:
    """Return where the run began or, if that is for this node to say, publish it. Raises as `RunTerms.start`."""
    start = terms.start(chain, buckets)
    if start.teller is None:
        run_file = terms.file(start.window)
        _refuse_odd_start(chain, buckets.own(), run_file, signer.public_key)
        publish_run_file(buckets.own(), run_file, signer, verify)
    else:
        log.info("uid %d says that the run began with window %d", start.teller, start.window)
    return start


def _hotkey_of(chain: BittensorChain, uid: Uid | None) -> Hotkey | None:
    """Return the hotkey of a uid, if there is one."""
    if uid is None:
        return None
    peer = chain.peers([uid]).get(uid)
    return peer.hotkey if peer is not None else None


def _refuse_odd_start(chain: BittensorChain, bucket: BucketReader, run_file: RunFile, own_key: bytes) -> None:
    """Refuse a beginning that was mistyped: a run file stands for ever. Raises `ConfigError`."""
    try:
        own_run_file(bucket, run_file, own_key, verify)
    except ObjectMissingError:
        now, start = chain.window(), run_file.start_window
        if not now <= start <= now + MAX_AHEAD:
            raise ConfigError(
                f"bittensor.start_window must be a window to come, {now}..{now + MAX_AHEAD}, where a run begins; "
                f"got {start} (windows are numbered block // blocks_per_window)"
            ) from None


def _say_when_it_counts(chain: BittensorChain, uid: Uid, address: str, signer: HotkeySigner) -> None:
    """Tell a newcomer, or who has moved to another bucket, why the first windows go on without it."""
    known = chain.candidates(Window(chain.window() + 1)).get(uid)
    minutes = chain.seconds_to_next_register() / 60
    if known is None or known.public_key != signer.public_key or not known.address:
        log.info("uid %d is new: its payloads count in %.1f min, when all nodes know of it", uid, minutes)
    elif known.address != address:
        log.info(
            "uid %d moved to another bucket: its payloads count in %.1f min, when all nodes know of it", uid, minutes
        )
