"""Delete the own objects nobody needs any more, and write down what was done, in the background."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

from templar_pl.errors import StoreError
from templar_pl.exchange.store import Bucket
from templar_pl.protocol.keys import WindowKeys
from templar_pl.units import Window

log = logging.getLogger(__name__)

_IDLE_S = 60.0  # a thread without work looks up once a minute; requests wake it at once


class Retention:
    """Keeps own objects of the last windows, deletes older ones of the same kind, and nothing else.

    The bucket is listed once, at the first request; after that the keys are known. Objects of one window are deleted in
    one request.
    """

    def __init__(self, bucket: Bucket, keep_windows: Mapping[WindowKeys, int]) -> None:
        """Store the settings; nothing runs before the first request.

        Args:
            bucket: the own bucket.
            keep_windows: windows an object stays, for each kind of them; 0 or more.

        Raises:
            ValueError: a number is below 0.
        """
        if (fewest := min(keep_windows.values(), default=0)) < 0:
            raise ValueError(f"keep_windows must be 0 or more, got {fewest}")
        self._bucket, self._keep_windows = bucket, dict(keep_windows)
        self._changed = threading.Condition()  # guards the next three
        self._requested: dict[Window, Mapping[str, bytes]] = {}
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._known: dict[WindowKeys, set[Window]] = {
            keys: set() for keys in keep_windows
        }  # these belong to the thread
        self._is_listed = False
        self._is_failing = False

    def request(self, window: Window, notes: Mapping[str, bytes] | None = None) -> None:
        """Have what is too old at `window` deleted; returns at once.

        The own objects of `window` are taken to exist from now on.

        Args:
            window: the newest window.
            notes: objects to write first, by key; lost if the store fails.

        Raises:
            ValueError: `close` was called.
        """
        with self._changed:
            if self._is_closed:
                raise ValueError("retention was closed; no more requests are taken")
            self._requested[window] = notes or {}
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="retention", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def close(self, timeout_s: float) -> None:
        """Finish what was requested, for `timeout_s` seconds at most; deletions that failed are not tried again."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(timeout_s)

    def _work(self) -> None:
        while requested := self._take():
            for windows in self._known.values():
                windows.update(requested)
            try:
                for notes in requested.values():
                    for key, data in notes.items():
                        self._bucket.put(key, data)
                self._delete_before(max(requested))
            except StoreError as error:
                if not self._is_failing:
                    log.warning("old objects cannot be deleted, next try with the next window: %s", error)
                self._is_failing = True
            else:
                self._is_failing = False

    def _take(self) -> dict[Window, Mapping[str, bytes]]:
        """Wait for requests and return them; empty when there will be no more."""
        with self._changed:
            while not (self._requested or self._is_closed):
                self._changed.wait(_IDLE_S)
            requested, self._requested = self._requested, {}
            return requested

    def _delete_before(self, newest: Window) -> None:
        """Delete what is too old. Raises `StoreError`; what was not deleted then is known the next time."""
        if not self._is_listed:
            for keys, windows in self._known.items():
                windows |= {
                    window for key in self._bucket.list(keys.prefix) if (window := keys.window_of(key)) is not None
                }
            self._is_listed = True
        stale = {
            keys: {window for window in windows if window < newest - self._keep_windows[keys]}
            for keys, windows in self._known.items()
        }
        if any(stale.values()):
            self._bucket.delete([keys.key(window) for keys, windows in stale.items() for window in sorted(windows)])
        for keys, windows in stale.items():
            self._known[keys] -= windows
