"""What checkpoints of the network make needless, and its deletion when they are complete."""

from __future__ import annotations

import logging

from templar_pl.exchange import Retention
from templar_pl.protocol.model_state import ModelState
from templar_pl.training.network_checkpoint import NetworkCheckpoints
from templar_pl.units import Window

log = logging.getLogger(__name__)


class CheckpointKeeper:
    """Has checkpoints published; what is older than they need is deleted only when a new one is complete."""

    def __init__(self, checkpoints: NetworkCheckpoints, retention: Retention, start_window: Window) -> None:
        """Store the parts.

        Args:
            checkpoints: published at their time.
            retention: of what leads from one to the next.
            start_window: the first window of the run.
        """
        self._checkpoints, self._retention, self._start_window = checkpoints, retention, start_window
        self._unsaid: list[Window] = []
        self._newest = start_window

    def note(self, applied: int, state: ModelState) -> None:
        """Take a checkpoint if it is time for one; see `NetworkCheckpoints.offer`.

        Args:
            applied: windows of the run applied to the model.
            state: the model, which must not change during the call.

        Raises:
            ConfigError: the model has something that cannot be stored.
        """
        self._unsaid.append(Window(self._start_window + applied))
        self._checkpoints.offer(applied, state)
        self._delete_needless()

    def close(self, timeout_s: float) -> None:
        """Finish what is on its way, for so many seconds at most."""
        self._checkpoints.close(timeout_s)
        self._delete_needless()
        self._retention.close(timeout_s)

    def _delete_needless(self) -> None:
        published = self._checkpoints.newest
        if published is None or published.window <= self._newest:
            return
        self._newest = published.window
        log.info("window %d: the checkpoint is published", published.window)
        for window in self._unsaid:
            if window <= published.window:
                self._retention.request(window)
        self._unsaid = [window for window in self._unsaid if window > published.window]
