"""What of a run must still be there: its nodes delete what is old, also while it is audited."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from templar_pl.protocol import manifest_keys
from templar_pl.training.run_view import RunView
from templar_pl.units import Window

DELETION_S = 10.0
"""Seconds to wait for a deletion that is under way: one request, of whose keys a store may take any first."""

_SLICE_S = 0.2


class Kept:
    """Asks the store what is there now, for the windows in question may be the next to be deleted."""

    def __init__(
        self, view: RunView, keep_windows: int, check_interrupt: Callable[[], None], patience_s: float = DELETION_S
    ) -> None:
        """Store where to look.

        Args:
            view: of the run.
            keep_windows: windows that miners keep their payloads for.
            check_interrupt: asked while a deletion is waited for; raises what should end the audit.
            patience_s: seconds to wait for a deletion that is under way.
        """
        self._view, self._check_interrupt, self._patience_s = view, check_interrupt, patience_s
        self.keep_windows = keep_windows
        self._standing: set[Window] = set()
        self._newest = Window(-1)

    def windows(self) -> list[Window]:
        """Return the windows that have a manifest, ascending. Raises `StoreError`."""
        keys, aggregator = manifest_keys(self._view.run), self._view.aggregator
        listed = (keys.window_of(key) for key in self._view.buckets.of(aggregator.address).list(keys.prefix))
        return sorted(window for window in listed if window is not None)

    def has_newer(self, window: Window) -> bool:
        """Return whether this window or a later one has a manifest. Raises `StoreError`."""
        return max(self.windows(), default=-1) >= window

    def must_have_payloads(self, window: Window) -> bool:
        """Return whether payloads of a window must still be there, by what the newest one with a manifest is.

        A manifest of a window to come, by the clock of the chain, says nothing.

        Raises:
            StoreError: the bucket of the aggregator cannot be read.
            ChainError: nobody says which window is open.
        """
        if self._newest < window + self.keep_windows:  # it only grows
            listed, now = self.windows(), self._view.open_window()
            self._newest = max((newer for newer in listed if newer <= now), default=Window(-1))
        return self._newest < window + self.keep_windows  # miners may be a window ahead

    def is_deleted(self, window: Window) -> bool:
        """Return whether the aggregator has deleted a window and all before it.

        A deletion may be under way of which no manifest tells yet: it is waited for, once for each window.

        Raises:
            StoreError: the bucket of the aggregator cannot be read.
        """
        give_up = time.monotonic() + self._patience_s
        while True:
            listed = self.windows()
            if listed and listed[0] > window:
                return True
            if window in self._standing or time.monotonic() >= give_up:
                self._standing.add(window)
                return False
            self._check_interrupt()
            threading.Event().wait(_SLICE_S)
