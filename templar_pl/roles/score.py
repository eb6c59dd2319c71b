"""`score`: judges what miners sent, says so in public, and sets weights."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from templar_pl.config import check_ranges
from templar_pl.errors import ConfigError
from templar_pl.exchange.record import PayloadSource
from templar_pl.exchange.window_values import Limits
from templar_pl.roles.copy_guide import CopyGuide
from templar_pl.roles.node import Node
from templar_pl.roles.own_copy import OwnCopy
from templar_pl.roles.score_journal import Journal
from templar_pl.roles.score_publisher import ScorePublisher
from templar_pl.roles.scorer import Parts, Run, Scorer
from templar_pl.roles.sightings import Lookout
from templar_pl.training import Connection, TemplarDataModule
from templar_pl.training.catch_up import CatchUp
from templar_pl.training.network_checkpoint import NetworkCheckpoints, network_checkpoints
from templar_pl.training.opening import open_record, open_trail
from templar_pl.training.patience import Patience
from templar_pl.training.patient_chain import PatientChain
from templar_pl.training.phases import PhaseClock
from templar_pl.training.replica import Replica
from templar_pl.training.trail import Trail
from templar_pl.units import Window

log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 30.0
"""Seconds for a checkpoint on its way when the process ends; what is not out by then is in its next life."""


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """What a validator publishes besides records, peers and weights."""

    keep_checkpoints: int = 3
    """Newest checkpoints of the network that stay in its bucket; 0..1000. With 0 it publishes none."""

    def __post_init__(self) -> None:
        check_ranges(self, keep_checkpoints=(0, 1000))


def run_score(node: Node) -> int:
    """Judge window after window until it is told to end; return the exit code.

    Args:
        node: this node; its own options are `score` (`ScoreConfig`) and `windows`: stop when so many windows are judged
            in this life; None for never.

    Raises:
        ConfigError: the settings do not fit each other, the run, or what is on the disk.
        OutOfSyncError: the own copy of the model cannot follow the run.
        StoreError: no store answered for too long.
        ChainError: the chain did not.
    """
    replica = node.replica()
    node.data.prepare_data()
    node.data.setup("fit")
    try:
        connection = node.network.open(replica.digest, node.hparams.window, sends=False)
        try:
            if connection.agreement is not None:
                raise ConfigError(
                    "a validator judges by the clock, and this chain closes windows by agreement: give all nodes "
                    "--chain.pace wall --chain.record_windows false, and another --store.run"
                )
            _Bench(node, connection, replica).run()
        finally:
            connection.close()
    finally:
        node.data.teardown("fit")
    return 0


class _Bench:
    """Puts the parts of a validator together, and lets go of them."""

    def __init__(self, node: Node, connection: Connection, replica: Replica) -> None:
        self._node, self._connection, self._replica = node, connection, replica
        self._numbers = node.hparams
        self._folder = node.network.node_dir / "score"
        self._patience = Patience(node.recovery.patience_s, node.check_interrupt)
        self._limits = Limits(
            timeout_s=self._numbers.window.gather_timeout_seconds,
            patience_s=node.recovery.patience_s,
            max_peers=self._numbers.peers.max_topk_peers,
            keep_windows=self._numbers.window.stale_retention,
            check_interrupt=node.check_interrupt,
        )
        self._identity = connection.identity(replica.digest)
        self._source = PayloadSource(replica.codec, self._identity, connection.buckets, self._limits)

    def run(self) -> None:
        """Bring the own copy to the run, and judge."""
        self._folder.mkdir(parents=True, exist_ok=True)
        checkpoints = self._checkpoints()
        trail = self._trail()
        catch_up = CatchUp(self._replica, self._replica.codec, trail, self._limits)
        guide = CopyGuide(catch_up, trail, self._oldest_payloads)
        lost = guide.start()
        copy = OwnCopy(self._replica, guide, self._loader(), self._numbers.scoring, self._patience)
        copy.lost = lost
        publisher, journal = self._publisher()
        own, connection = self._identity, self._connection
        run = Run(own.run, own.digest, connection.start_window, self._replica.codec.grids, self._numbers, own.signer)
        parts = Parts(connection.chain, copy, self._lookout(), journal, publisher, self._patience)

        def note() -> None:
            if checkpoints is not None and copy.is_proven:
                checkpoints.offer(self._replica.applied, self._replica.state)

        try:
            Scorer(run, parts, note).run(self._node.options["windows"])
        finally:
            publisher.close(CLOSE_TIMEOUT_S)
            if checkpoints is not None:
                checkpoints.close(CLOSE_TIMEOUT_S)

    def _lookout(self) -> Lookout:
        return Lookout(
            self._connection.chain,
            self._connection.buckets,
            self._identity.run,
            self._source,
            self._patience,
            doubt_span=self._numbers.peers.reset_inactivity_windows,
        )

    def _oldest_payloads(self) -> Window:
        """Return the first window whose payloads are still there when the next window opens."""
        opened = self._patience.insist("the chain does not answer", self._connection.chain.window)
        return Window(max(self._connection.start_window, opened + 1 - self._limits.keep_windows))

    def _publisher(self) -> tuple[ScorePublisher, Journal]:
        own, connection = self._identity, self._connection
        journal = Journal(self._folder, connection.start_window)
        publisher = ScorePublisher(
            connection.buckets.own(),
            connection.chain,
            own,
            journal=journal,
            keep_windows=self._numbers.window.stale_retention,
        )
        return publisher, journal

    def _loader(self) -> Iterable[Any]:
        """Return what gives the pages of any miner."""
        data = self._node.data
        return data.any_window_dataloader() if isinstance(data, TemplarDataModule) else data.train_dataloader()

    def _checkpoints(self) -> NetworkCheckpoints | None:
        config: ScoreConfig = self._node.options["score"]
        if config.keep_checkpoints == 0:
            return None
        checkpoints = network_checkpoints(
            self._connection,
            self._identity.digest,
            self._folder / "checkpoints",
            frequency=self._numbers.window.checkpoint_frequency,
            keep=config.keep_checkpoints,
        )
        checkpoints.resume()
        return checkpoints

    def _trail(self) -> Trail:
        """Return where past windows are found; besides whom this node follows its own checkpoints count."""
        own, connection = self._identity, self._connection
        chain = PatientChain(
            connection.chain,
            PhaseClock(),
            patience_s=self._limits.patience_s,
            check_interrupt=self._limits.check_interrupt,
        )
        record = open_record(self._source, own, connection, self._limits, chain=chain)
        trail = open_trail(connection, own.digest, chain, record, self._folder / "fetched")
        me = connection.peer
        return replace(trail, leaders=lambda: [*(peer for peer in trail.leaders() if peer.uid != me.uid), me])
