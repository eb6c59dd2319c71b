"""How a run begins, and how whoever leads it comes back: its parameters and its run file."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from templar_pl.errors import ConfigError, StoreError
from templar_pl.exchange import publish_run_file
from templar_pl.exchange.checkpoint_upload import CheckpointBucket, Moment
from templar_pl.exchange.network_checkpoints import Source, Wanted, load_latest
from templar_pl.exchange.window_values import Identity
from templar_pl.protocol import RunFile
from templar_pl.protocol.checkpoint import CHECKPOINT_FILE, Checkpoint
from templar_pl.protocol.keys import checkpoint_keys, checkpoint_prefix
from templar_pl.training.network_checkpoint import NetworkCheckpoints
from templar_pl.training.patience import Patience
from templar_pl.training.replica import Replica
from templar_pl.units import Window

log = logging.getLogger(__name__)

_SLICE_S = 0.2


@dataclass(frozen=True, slots=True)
class Leader:
    """Who leads a run, and where it keeps what it publishes."""

    identity: Identity
    bucket: CheckpointBucket
    start_window: Window
    blocks_per_window: int
    netuid: int
    """Number of the subnet, or of the folder of local runs."""


class Beginning:
    """Publishes what a run begins with, or takes up a run that was begun."""

    def __init__(self, leader: Leader, replica: Replica, checkpoints: NetworkCheckpoints, patience: Patience) -> None:
        """Store the parts.

        Args:
            leader: this node.
            replica: the model, as it was drawn.
            checkpoints: of the network, which this node publishes.
            patience: with the own bucket.
        """
        self._leader, self._replica = leader, replica
        self._checkpoints, self._patience = checkpoints, patience

    def take_up(self, folder: Path) -> None:
        """Load the own newest checkpoint, or begin the run; then publish the run file, if it is not there.

        Args:
            folder: for a checkpoint that is fetched, of this process alone.

        Raises:
            ConfigError: the run file in the own bucket says something else.
            CheckpointError: there are own checkpoints, and none of them can be loaded.
            StoreError: the store failed.
        """
        if self._has_checkpoint():
            self._load(folder)
        if self._replica.applied > 0:
            self._checkpoints.resume()
            return
        checkpoint = self._patience.insist("the initial checkpoint cannot be published", self._publish_initial)
        run_file = self._run_file(checkpoint)
        identity = self._leader.identity
        self._patience.insist(
            "the run file cannot be published",
            lambda: publish_run_file(self._leader.bucket, run_file, identity.signer, identity.verify),
        )
        log.info(
            "run %s begins with window %d; its parameters are published (%d bytes)",
            identity.run,
            self._leader.start_window,
            checkpoint.model.size,
        )

    def _has_checkpoint(self) -> bool:
        """Whether the own bucket has a complete checkpoint. Raises `StoreError`."""
        run, bucket = self._leader.identity.run, self._leader.bucket
        keys = checkpoint_keys(run, CHECKPOINT_FILE)
        listed = self._patience.insist(
            "the own bucket does not answer", lambda: list(bucket.list(checkpoint_prefix(run)))
        )
        return any(keys.window_of(key) is not None for key in listed)

    def _load(self, folder: Path) -> None:
        leader = self._leader
        identity = leader.identity
        source = Source("this node", identity.signer.public_key, leader.bucket)
        wanted = Wanted(identity.run, identity.digest, leader.start_window, self._replica.state, identity.verify)
        fetched = self._patience.insist(
            "the own checkpoint cannot be fetched", lambda: load_latest(source, wanted, folder)
        )
        self._replica.applied = fetched.checkpoint.applied
        fetched.discard()
        log.info("going on from the own checkpoint of window %d", fetched.checkpoint.window)

    def _publish_initial(self) -> Checkpoint:
        """Publish the parameters as they are. Raises `StoreError`."""
        publisher = self._checkpoints.publisher
        if not publisher.offer(Moment(self._leader.start_window, 0), self._replica.state):
            raise ConfigError("the initial checkpoint must be the first one")
        while publisher.is_busy:
            self._patience.pause(_SLICE_S)
        checkpoint = self._checkpoints.newest
        if checkpoint is None:
            raise StoreError("the checkpoint of the start of the run could not be published")
        return checkpoint

    def _run_file(self, checkpoint: Checkpoint) -> RunFile:
        return RunFile(
            run=self._leader.identity.run,
            digest=self._leader.identity.digest,
            netuid=self._leader.netuid,
            start_window=self._leader.start_window,
            blocks_per_window=self._leader.blocks_per_window,
            version=version("templar_pl"),
            checkpoint=checkpoint.model,
        )
