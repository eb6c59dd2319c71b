"""What an aggregator publishes of each window: the manifest at once, the aggregate behind it in the background."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from templar_pl.errors import ConfigError, DocumentError, ObjectMissingError, StoreError, TransientError
from templar_pl.exchange import AggregatePublisher, AggregateSource, StandingManifest, read_aggregate
from templar_pl.exchange.aggregates import MEND_MANIFEST
from templar_pl.protocol import AggregateNotice, Manifest, Shapes, Verify
from templar_pl.training.patience import Patience
from templar_pl.units import Window

T = TypeVar("T")

log = logging.getLogger(__name__)

Update = Callable[[], Iterable[tuple[str, Tensor]]]
"""Makes the update of a window, tensor by tensor, by name; may be called again after a failure."""

_POLL_S = 0.2
_MEND = "delete that object, or give the run another name"


class Outbox:
    """Publishes manifests and aggregates of one run, and reads what stands already."""

    def __init__(
        self,
        publisher: AggregatePublisher,
        own: AggregateSource,
        shapes: Shapes,
        *,
        folder: Path,
        verify: Verify,
        patience: Patience,
    ) -> None:
        """Store the parts.

        Args:
            publisher: writes the own bucket.
            own: reads it.
            shapes: of all parameters.
            folder: for an aggregate that is read; of this process alone; must exist.
            verify: checks a signature.
            patience: with the own bucket.
        """
        self._publisher, self._own, self._shapes = publisher, own, shapes
        self._folder, self._verify, self._patience = folder, verify, patience
        self._running: Future[AggregateNotice] | None = None

    def standing(self, window: Window) -> StandingManifest | None:
        """Return the manifest of a window that was published before, None if there is none.

        Raises:
            ConfigError: what is in its place is none of this hotkey, run and window.
            StoreError: the store failed.
        """
        what = f"the own manifest of window {window} cannot be read"
        return self._read_own(what, lambda: self._own.fetch_manifest(window), MEND_MANIFEST)

    def newest(self) -> Window | None:
        """Return the last window whose manifest was published, None if none was. Raises `StoreError`."""
        return self._patience.insist("the own manifests cannot be listed", self._publisher.newest_manifest)

    def publish(self, manifest: Manifest) -> StandingManifest:
        """Publish the manifest of a window.

        Raises:
            ConfigError: another one stands, which another process with this hotkey has just published.
            StoreError: the store failed.
        """
        standing = self._patience.insist(
            f"the manifest of window {manifest.window} cannot be put",
            lambda: self._publisher.publish_manifest(manifest),
        )
        if standing.manifest != manifest:
            raise ConfigError(
                f"another manifest of window {manifest.window} was published meanwhile: another process runs with this "
                "hotkey. Stop one of them, and start the other again: it follows what was published"
            )
        return standing

    def send(self, standing: StandingManifest, update: Update, then: Callable[[], None]) -> None:
        """Publish the aggregate of a window in the background, when that of the window before is out.

        Args:
            standing: the manifest of the window.
            update: makes it.
            then: called when its notice is out.

        Raises:
            ConfigError, StoreError: the one before could not be published.
        """
        self.flush()
        found: Future[AggregateNotice] = Future()
        self._running = found
        # A daemon: an upload that hangs must not keep the process from ending. What is cut off is made again.
        threading.Thread(target=self._work, args=(standing, update, then, found), name="aggregate", daemon=True).start()

    def check(self) -> None:
        """Raise what ended the last upload, if it failed."""
        if self._running is not None and self._running.done():
            self._running.result()

    def flush(self) -> None:
        """Wait until the last aggregate is out. Raises what ended it, or what ends the process."""
        while self._running is not None and not self._running.done():
            self._patience.pause(_POLL_S)
        self.check()
        self._running = None

    def has_aggregate(self, standing: StandingManifest) -> bool:
        """Whether the aggregate of a window is complete. Raises `StoreError` or `ConfigError` as `standing`."""
        return self._notice(standing) is not None

    def fetch(self, standing: StandingManifest) -> Path | None:
        """Fetch the own aggregate of a window into a file; None if it was not completed, or is not what it was.

        Raises:
            ConfigError: what is in the place of its notice is none of this hotkey, run and window.
            StoreError: the store failed.
        """
        notice, path = self._notice(standing), self._folder / "aggregate.bin"
        if notice is None:
            return None
        error = self._patience.insist(
            f"the own aggregate of window {notice.window} cannot be fetched", lambda: self._fault_of(notice, path)
        )
        if error is not None:
            log.warning("window %d: the own aggregate cannot be used: %s", notice.window, error)
        return path if error is None else None

    def _fault_of(self, notice: AggregateNotice, path: Path) -> StoreError | DocumentError | None:
        """Fetch an own aggregate; return what no later try can mend, if so. Raises `TransientError`."""
        try:
            self._own.fetch_aggregate(notice, self._shapes, path)
        except TransientError:
            raise
        except (StoreError, DocumentError) as error:
            return error
        return None

    def _notice(self, standing: StandingManifest) -> AggregateNotice | None:
        what = f"the notice of the own aggregate of window {standing.manifest.window} cannot be read"
        return self._read_own(what, lambda: self._own.fetch_notice(standing), _MEND)

    def _read_own(self, what: str, read: Callable[[], T], mend: str) -> T | None:
        """Return a document from the own bucket, None if it is not there."""
        try:
            return self._patience.insist(what, read)
        except ObjectMissingError:
            return None
        except DocumentError as error:
            raise ConfigError(f"the own bucket cannot be used: {error}; {mend}") from error

    def read(self, path: Path, standing: StandingManifest) -> Iterator[tuple[str, Tensor]]:
        """Read an aggregate that was fetched, tensor by tensor. Raises `AggregateError`, also at the end."""
        return read_aggregate(path, self._shapes, standing.head, self._verify)

    def _work(
        self, standing: StandingManifest, update: Update, then: Callable[[], None], found: Future[AggregateNotice]
    ) -> None:
        try:
            notice = self._patience.insist(
                f"the aggregate of window {standing.manifest.window} cannot be put",
                lambda: self._publisher.publish_aggregate(standing, update(), self._shapes),
            )
            then()
            found.set_result(notice)
        except BaseException as error:  # noqa: BLE001 - whatever it was must rise in the caller, not die with this thread
            found.set_exception(error)
