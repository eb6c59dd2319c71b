"""Checkpoints of the network that a node publishes as it goes, for those who join or have lost their way."""

from __future__ import annotations

import logging
from pathlib import Path

from templar_pl.errors import StoreError
from templar_pl.exchange.checkpoint_publisher import CheckpointPublisher
from templar_pl.exchange.checkpoint_upload import Author, CheckpointBucket, Moment
from templar_pl.protocol.checkpoint import Checkpoint
from templar_pl.protocol.model_state import ModelState
from templar_pl.training.network import Connection
from templar_pl.units import Window

log = logging.getLogger(__name__)

KEPT_NETWORK_CHECKPOINTS = 3
"""Newest ones that stay in the bucket, if nothing else is asked for."""


def network_checkpoints(
    connection: Connection, digest: bytes, folder: Path, *, frequency: int, keep: int = KEPT_NETWORK_CHECKPOINTS
) -> NetworkCheckpoints:
    """Return what publishes checkpoints in the own bucket of an open network.

    Args:
        connection: the open network.
        digest: 32 bytes, of the settings and parameter shapes all nodes of the run share.
        folder: for snapshots on their way, of this process alone.
        frequency: windows between two checkpoints; at least 1.
        keep: newest ones that stay in the bucket, at least 1.
    """
    author = Author.of(connection.identity(digest))
    bucket, start = connection.buckets.own(), connection.start_window
    return NetworkCheckpoints(bucket, author, folder, start_window=start, frequency=frequency, keep=keep)


class NetworkCheckpoints:
    """Publishes the model every so many windows, in the background; a failure costs that checkpoint only."""

    def __init__(
        self,
        bucket: CheckpointBucket,
        author: Author,
        folder: Path,
        *,
        start_window: Window,
        frequency: int,
        keep: int = KEPT_NETWORK_CHECKPOINTS,
    ) -> None:
        """Store the settings; nothing is read or written before the first call.

        Args:
            bucket: the own bucket.
            author: who signs.
            folder: for snapshots on their way, of this process alone.
            start_window: the first window of the run.
            frequency: windows between two checkpoints; at least 1.
            keep: newest ones that stay in the bucket, at least 1; that of the start of the run stays besides.

        Raises:
            ValueError: a number is out of range.
        """
        if frequency < 1:
            raise ValueError(f"frequency must be at least 1, got {frequency}")
        self.publisher = CheckpointPublisher(bucket, author, folder, keep=keep)
        """Puts them; for whoever wants one at another time."""

        self._start_window, self._frequency = start_window, frequency
        self._offered = -1

    def resume(self) -> None:
        """Publish what an earlier life of this process had ready, before the first `offer`."""
        try:
            self.publisher.resume()
        except StoreError as error:
            log.warning("what was left of a checkpoint cannot be published: %s", error)

    def offer(self, applied: int, state: ModelState) -> bool:
        """Take a snapshot if it is time for one, and none was taken at this place.

        Args:
            applied: windows of the run applied to the model.
            state: the model between two windows, which must not change during the call.

        Returns:
            Whether one was taken.

        Raises:
            ConfigError: the model has something that cannot be stored.
        """
        if applied % self._frequency or applied == self._offered:
            return False
        self._offered = applied
        try:
            return self.publisher.offer(Moment(Window(self._start_window + applied), applied), state)
        except StoreError as error:
            log.warning("window %d: no checkpoint is published: %s", self._start_window + applied, error)
            return False

    @property
    def newest(self) -> Checkpoint | None:
        """The checkpoint that was begun last, if it is published by now; else None."""
        return self.publisher.wait(0)

    def close(self, timeout_s: float) -> None:
        """Wait for what is on its way, for so many seconds at most; what is not out by then is in the next life."""
        self.publisher.wait(timeout_s)
