"""`aggregate`: says what each window of a run consisted of, so that anybody can follow, check or catch up."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from templar_pl.config import check_ranges
from templar_pl.errors import ConfigError
from templar_pl.exchange import AggregatePublisher, AggregateSource, Retention
from templar_pl.exchange.window_values import Limits
from templar_pl.protocol import aggregate_keys, manifest_keys, notice_keys
from templar_pl.roles.aggregate_outbox import Outbox
from templar_pl.roles.aggregator import Aggregator
from templar_pl.roles.checkpoint_keeper import CheckpointKeeper
from templar_pl.roles.kept_payloads import KeptPayloads
from templar_pl.roles.node import Node
from templar_pl.roles.peer_lists import PeerLists
from templar_pl.roles.run_beginning import Beginning, Leader
from templar_pl.roles.window_payloads import WindowPayloads
from templar_pl.training import Connection
from templar_pl.training.network_checkpoint import NetworkCheckpoints, network_checkpoints
from templar_pl.training.patience import Patience
from templar_pl.training.replica import Replica

log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 5.0
"""Seconds for what is on its way when the process is asked to end; what is not out by then is in its next life."""


@dataclass(frozen=True, kw_only=True)
class AggregateConfig:
    """What an aggregator keeps of what it publishes."""

    keep_windows: int = 1000
    """Windows for which manifests and aggregates stay, counted back from the newest checkpoint; 1..10**9, and at least
    keep_checkpoints * window.checkpoint_frequency, or an older checkpoint would lead nowhere."""

    keep_checkpoints: int = 3
    """Newest checkpoints that stay; 1..1000. That of the start of the run stays besides."""

    def __post_init__(self) -> None:
        check_ranges(self, keep_windows=(1, 10**9), keep_checkpoints=(1, 1000))

    def refuse_gaps(self, checkpoint_frequency: int) -> None:
        """Refuse to delete what leads on from a checkpoint that is kept. Raises `ConfigError`."""
        least = self.keep_checkpoints * checkpoint_frequency
        if self.keep_windows < least:
            raise ConfigError(
                f"aggregate.keep_windows must be at least {least}, keep_checkpoints ({self.keep_checkpoints}) times "
                f"checkpoint_frequency ({checkpoint_frequency}), got {self.keep_windows}: who takes the oldest "
                "checkpoint could not catch up from it"
            )


def run_aggregate(node: Node) -> int:
    """Write down what the windows of a run were until it is over; return the exit code.

    Args:
        node: this node; its own options are `aggregate` (`AggregateConfig`), `netuid` and `windows`: stop when so many
            windows of the run are applied; None for never.

    Raises:
        ConfigError: the settings do not fit each other, the run, or what was published with this hotkey.
        OutOfSyncError: what a window was cannot be had any more.
        StoreError: the store did not answer for too long.
        ChainError: the chain did not.
    """
    config: AggregateConfig = node.options["aggregate"]
    config.refuse_gaps(node.hparams.window.checkpoint_frequency)
    replica = node.replica()
    connection = node.network.open(replica.digest, node.hparams.window, sends=False)
    try:
        if connection.agreement is not None:
            raise ConfigError(
                "this chain writes down itself what each window consisted of: give all nodes --chain.pace wall "
                "--chain.record_windows false and another --store.run, or do without an aggregator"
            )
        _Desk(node, config, connection, replica).run(node.options["windows"])
    finally:
        connection.close()
    return 0


class _Desk:
    """Puts the parts of an aggregator together, and lets go of them."""

    def __init__(self, node: Node, config: AggregateConfig, connection: Connection, replica: Replica) -> None:
        self._node, self._config = node, config
        self._connection, self._replica = connection, replica
        self._folder = node.network.node_dir / "aggregate"
        self._bucket = connection.buckets.own()
        self._patience = Patience(node.recovery.patience_s, node.check_interrupt)
        self._identity = connection.identity(replica.digest)

    def run(self, max_applied: int | None) -> None:
        """Begin or take up the run, and go through its windows."""
        self._folder.mkdir(parents=True, exist_ok=True)
        connection, window = self._connection, self._node.hparams.window
        checkpoints = self._checkpoints()
        leader = Leader(
            self._identity,
            self._bucket,
            connection.start_window,
            window.blocks_per_window,
            self._node.options["netuid"],
        )
        Beginning(leader, self._replica, checkpoints, self._patience).take_up(self._folder / "fetched")
        keeper = CheckpointKeeper(checkpoints, self._retention(), connection.start_window)
        aggregator = Aggregator(
            self._replica,
            self._identity.digest,
            payloads=self._payloads(),
            outbox=self._outbox(),
            keeper=keeper,
            patience=self._patience,
        )
        timeout_s = CLOSE_TIMEOUT_S
        try:
            aggregator.run(connection.start_window, max_applied)
            timeout_s = self._node.recovery.patience_s
        finally:
            keeper.close(timeout_s)

    def _checkpoints(self) -> NetworkCheckpoints:
        return network_checkpoints(
            self._connection,
            self._identity.digest,
            self._folder / "checkpoints",
            frequency=self._node.hparams.window.checkpoint_frequency,
            keep=self._config.keep_checkpoints,
        )

    def _retention(self) -> Retention:
        keep, run = self._config.keep_windows, self._identity.run
        return Retention(self._bucket, {keys(run): keep for keys in (manifest_keys, aggregate_keys, notice_keys)})

    def _payloads(self) -> WindowPayloads:
        window, recovery = self._node.hparams.window, self._node.recovery
        limits = Limits(
            timeout_s=window.gather_timeout_seconds,
            patience_s=recovery.patience_s,
            max_peers=self._node.hparams.peers.max_topk_peers,
            keep_windows=window.stale_retention,
            check_interrupt=self._node.check_interrupt,
        )
        connection, own = self._connection, self._identity
        lists = PeerLists(connection.chain, connection.buckets, connection.validator, own.run, own.verify)
        kept = KeptPayloads(self._folder / "kept", own.run)
        return WindowPayloads(self._replica.codec, own, connection, limits, peer_lists=lists, kept=kept)

    def _outbox(self) -> Outbox:
        own, connection = self._identity, self._connection
        shapes = self._replica.shapes
        publisher = AggregatePublisher(self._bucket, own.run, self._folder, own.signer, own.verify)
        source = AggregateSource(connection.buckets, connection.peer, own.run, own.digest, own.verify)
        return Outbox(publisher, source, shapes, folder=self._folder, verify=own.verify, patience=self._patience)
