"""Checkpoints of the network, as they are published: in the background, complete before anything names them.

    <folder>/<window>/model.safetensors, optimizer.safetensors   the snapshot
    <folder>/<window>/checkpoint.json                            when it is hashed and signed: from here on a killed
                                                                 process publishes it in its next life

The snapshot is the file: it is written while training waits, at the speed of the disk's cache and without a second copy
of the model in memory. Hashing, uploads and deletions follow in a thread.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from pathlib import Path

from templar_pl.errors import (
    CheckpointError,
    ConfigError,
    DocumentError,
    StoreError,
)
from templar_pl.exchange.checkpoint_files import NOT_STORABLE, write_snapshot
from templar_pl.exchange.checkpoint_upload import (
    Author,
    CheckpointBucket,
    Moment,
    delete_old,
    publish_sealed,
    publish_snapshot,
)
from templar_pl.exchange.disk import explained
from templar_pl.protocol.checkpoint import (
    CHECKPOINT_FILE,
    Checkpoint,
)
from templar_pl.protocol.model_state import ModelState, describe
from templar_pl.units import Window

log = logging.getLogger(__name__)


class CheckpointPublisher:
    """Publishes checkpoints one at a time, and deletes all but the last ones."""

    def __init__(self, bucket: CheckpointBucket, author: Author, folder: Path, *, keep: int) -> None:
        """Store the settings; nothing is read or written before the first call.

        Args:
            bucket: the own bucket.
            author: who signs.
            folder: for snapshots on their way, of this process alone; made if there is none. It takes as much room as
                one checkpoint.
            keep: newest checkpoints that stay in the bucket, at least 1. The one that `latest.json` names and that of
                the start of the run, which the run file may name, stay in any case.

        Raises:
            ValueError: keep is below 1.
        """
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self._bucket, self._author, self._folder, self._keep = bucket, author, folder, keep
        self._running: Future[Checkpoint | None] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a checkpoint is on its way."""
        return self._running is not None and not self._running.done()

    def offer(self, moment: Moment, state: ModelState) -> bool:
        """Take a snapshot and publish it in the background; return when it is taken.

        If the last one is still on its way, none is taken, which is logged.

        Args:
            moment: when this is.
            state: the model, which must not change during the call.

        Returns:
            Whether a snapshot was taken.

        Raises:
            ConfigError: the model has something that cannot be stored.
            StoreError: the disk failed; nothing is published.
        """
        if self._is_busy_at(moment.window):
            return False
        try:
            description = describe(state)
        except ValueError as error:
            raise ConfigError(f"{NOT_STORABLE}: {error}; publish no checkpoints") from error
        self._remove()
        folder = self._folder / f"{moment.window:09d}"
        with explained("write", folder):
            folder.mkdir(parents=True)
        write_snapshot(folder, state)
        self._begin(lambda: publish_snapshot(self._bucket, self._author, folder, moment, description))
        return True

    def resume(self) -> bool:
        """Publish in the background what an earlier life of this process had ready; return whether there was anything.

        Call it before the first `offer`, which throws away what is left of earlier ones.
        """
        sealed = [path.parent for path in self._leftovers() if path.name == CHECKPOINT_FILE]
        if not sealed or self.is_busy:
            return False
        self._begin(lambda: publish_sealed(self._bucket, self._author, max(sealed)))
        return True

    def wait(self, timeout_s: float) -> Checkpoint | None:
        """Wait for the checkpoint on its way; return it, or None if it failed, there is none, or time is over.

        One that is published counts, also where older ones could not be deleted.
        """
        if self._running is not None:
            wait([self._running], timeout_s)
        return self._running.result() if self._running is not None and self._running.done() else None

    def _is_busy_at(self, window: Window) -> bool:
        if not self.is_busy:
            self.wait(0)  # a bug that ended the last thread rises here
            return False
        log.warning("window %d: no checkpoint is published, since the last one is still on its way", window)
        return True

    def _begin(self, publish: Callable[[], Checkpoint]) -> None:
        found: Future[Checkpoint | None] = Future()
        self._running = found
        # A daemon: an upload that hangs must not keep the process from ending.
        threading.Thread(target=self._work, args=(publish, found), name="checkpoint", daemon=True).start()

    def _work(self, publish: Callable[[], Checkpoint], found: Future[Checkpoint | None]) -> None:
        try:
            checkpoint = publish()
            self._clean_up(checkpoint)
            found.set_result(checkpoint)
        except (StoreError, CheckpointError, DocumentError) as error:
            log.warning("a checkpoint could not be published: %s", error)
            found.set_result(None)
        except BaseException as error:  # noqa: BLE001 - a bug must rise in the caller, not die with this thread
            found.set_exception(error)

    def _clean_up(self, checkpoint: Checkpoint) -> None:
        """Delete the snapshot and what is too old in the bucket; what cannot be deleted now is behind the next one."""
        for clean in (
            self._remove,
            lambda: delete_old(self._bucket, self._author, self._keep, checkpoint.start_window),
        ):
            try:
                clean()
            except StoreError as error:
                log.warning(
                    "window %d: the checkpoint is out, what it makes needless is not: %s", checkpoint.window, error
                )

    def _leftovers(self) -> Iterator[Path]:
        with explained("list", self._folder):
            yield from sorted(self._folder.glob("[0-9]" * 9 + "/*"))

    def _remove(self) -> None:
        """Delete all snapshots. Raises `StoreError`."""
        with explained("delete", self._folder):
            for folder in self._folder.glob("[0-9]" * 9):
                shutil.rmtree(folder)
