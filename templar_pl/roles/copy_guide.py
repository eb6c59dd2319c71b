"""What brings a validator's own copy of the model through the windows of a run, and back to it when it is lost."""

from __future__ import annotations

from collections.abc import Callable

from templar_pl.training.catch_up import CatchUp
from templar_pl.training.trail import Trail, said_before
from templar_pl.units import Window


class CopyGuide:
    """The catch-up of all nodes, for a model that is held against what miners say."""

    def __init__(self, catch_up: CatchUp, trail: Trail, oldest_payloads: Callable[[], Window]) -> None:
        """Store the parts.

        Args:
            catch_up: of the model.
            trail: where past windows are found.
            oldest_payloads: returns the first window whose payloads are not deleted yet.
        """
        self._catch_up, self._trail, self._oldest_payloads = catch_up, trail, oldest_payloads

    @property
    def window(self) -> Window:
        """The window to be applied next."""
        return self._catch_up.window

    def follow(self, now: Callable[[], Window]) -> None:
        """Apply all windows before the one that `now` returns. Raises `OutOfSyncError` if that is impossible."""
        self._catch_up.follow(now)

    def said_before(self, window: Window) -> bytes | None:
        """Return the fingerprint before a window by the manifests that are followed; None if none says it."""
        aggregates = self._trail.aggregates()
        return None if aggregates is None else said_before(aggregates, window, self._trail.start_window)

    def start(self) -> str:
        """Go to the newest checkpoint from which the run can be followed, if there is one.

        Returns:
            Why the run cannot be followed from here, in at most 120 characters; empty if it may be.

        Raises:
            OutOfSyncError: as `recover`.
        """
        since = self._since()
        if self._catch_up.restart(since=since) or since <= self.window:
            return ""
        return f"no checkpoint leads on: payloads before window {since}, and manifests of then, are gone"

    def recover(self, until: Window, *, is_vain: bool) -> str:
        """Go to a checkpoint from which the windows up to one can be applied.

        Args:
            until: window of the newest checkpoint that is taken.
            is_vain: whether the one that was loaded last led to wrong parameters, so that it is not taken again.

        Returns:
            Why none can be used; empty if one was loaded.

        Raises:
            OutOfSyncError: loading failed half-way, and no other can be used.
        """
        if is_vain:
            self._catch_up.distrust_checkpoint()
        is_loaded = self._catch_up.restart(is_lost=True, since=self._since(), until=until)
        return "" if is_loaded else self._catch_up.reasons

    def _since(self) -> Window:
        """Return the window of the oldest checkpoint from which all windows can be applied.

        Manifests have no gaps, but may have ended long ago. Where they do not reach the oldest payloads, what lies
        between cannot be had, so a checkpoint that is older than those is of no use.
        """
        oldest = self._oldest_payloads()
        return oldest if self.said_before(oldest) is None else self._trail.start_window
