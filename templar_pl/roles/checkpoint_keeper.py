"""Checkpoints of the network every so many windows, and the deletion of what they make needless."""

from __future__ import annotations

import logging

from templar_pl.errors import StoreError
from templar_pl.exchange import Retention
from templar_pl.exchange.checkpoint_publisher import CheckpointPublisher
from templar_pl.exchange.checkpoint_upload import Moment
from templar_pl.protocol.model_state import ModelState
from templar_pl.units import Window

log = logging.getLogger(__name__)


class CheckpointKeeper:
    """Publishes checkpoints; what is older than they need is deleted only when a new one is complete."""

    def __init__(
        self, publisher: CheckpointPublisher, retention: Retention, *, start_window: Window, frequency: int
    ) -> None:
        """Store the parts.

        Args:
            publisher: of checkpoints.
            retention: of what leads from one to the next.
            start_window: the first window of the run.
            frequency: windows between two checkpoints; at least 1.
        """
        self._publisher, self._retention = publisher, retention
        self._start_window, self._frequency = start_window, frequency
        self._unsaid: list[Window] = []
        self._newest = start_window

    def note(self, applied: int, state: ModelState) -> None:
        """Take a checkpoint if it is time for one. A disk or store that fails costs the checkpoint, and is logged.

        Args:
            applied: windows of the run applied to the model.
            state: the model, which must not change during the call.

        Raises:
            ConfigError: the model has something that cannot be stored.
        """
        window = Window(self._start_window + applied)
        self._unsaid.append(window)
        if applied % self._frequency == 0:
            try:
                self._publisher.offer(Moment(window, applied), state)
            except StoreError as error:
                log.warning("window %d: no checkpoint is published: %s", window, error)
        self._delete_needless()

    def close(self, timeout_s: float) -> None:
        """Finish what is on its way, for so many seconds at most."""
        self._publisher.wait(timeout_s)
        self._delete_needless()
        self._retention.close(timeout_s)

    def _delete_needless(self) -> None:
        published = self._publisher.wait(0)
        if published is None or published.window <= self._newest:
            return
        self._newest = published.window
        log.info("window %d: the checkpoint is published", published.window)
        for window in self._unsaid:
            if window <= published.window:
                self._retention.request(window)
        self._unsaid = [window for window in self._unsaid if window > published.window]
