"""Delete the own payloads nobody needs any more, in the background."""

from __future__ import annotations

import logging
import threading

from templar_pl.errors import StoreError
from templar_pl.exchange.store import Bucket
from templar_pl.protocol.keys import parse_payload_key, payload_key, payload_prefix
from templar_pl.units import Uid, Window

log = logging.getLogger(__name__)

_IDLE_S = 60.0  # a thread without work looks up once a minute; requests wake it at once


class Retention:
    """Keeps the payloads of the last windows and deletes older ones of the same run and uid, and nothing else.

    The bucket is listed once, at the first request; after that the keys are known.

    Args:
        bucket: the own bucket.
        run: name of the run.
        uid: whose payloads are deleted.
        keep_windows: windows a payload stays; at least 1.

    Raises:
        ValueError: keep_windows is less than 1.
    """

    def __init__(self, bucket: Bucket, run: str, uid: Uid, keep_windows: int) -> None:
        if keep_windows < 1:
            raise ValueError(f"keep_windows must be at least 1, got {keep_windows}")
        self._bucket, self._run, self._uid, self._keep_windows = bucket, run, uid, keep_windows
        self._changed = threading.Condition()  # guards the next three
        self._requested: set[Window] = set()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._known: set[Window] = set()  # these three belong to the thread
        self._is_listed = False
        self._is_failing = False

    def request(self, window: Window) -> None:
        """Have payloads older than `keep_windows` before `window` deleted; returns at once.

        The own payload of `window` is taken to exist from now on. Raises `ValueError` after `close`.
        """
        with self._changed:
            if self._is_closed:
                raise ValueError("retention was closed; no more requests are taken")
            self._requested.add(window)
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
        while windows := self._take():
            self._known |= windows
            self._delete_before(Window(max(windows) - self._keep_windows))

    def _take(self) -> set[Window]:
        """Wait for requests and return their windows; empty when there will be no more."""
        with self._changed:
            while not (self._requested or self._is_closed):
                self._changed.wait(_IDLE_S)
            windows, self._requested = self._requested, set()
            return windows

    def _delete_before(self, first_kept: Window) -> None:
        try:
            if not self._is_listed:
                self._known |= self._list()
                self._is_listed = True
            stale = {window for window in self._known if window < first_kept}
            if stale:
                self._bucket.delete([payload_key(self._run, window, self._uid) for window in sorted(stale)])
        except StoreError as error:
            if not self._is_failing:
                log.warning("old payloads cannot be deleted, next try with the next window: %s", error)
            self._is_failing = True
        else:
            self._known -= stale
            self._is_failing = False

    def _list(self) -> set[Window]:
        """Return the windows of the own payloads in the bucket."""
        windows = set()
        for key in self._bucket.list(payload_prefix(self._run)):
            try:
                parsed = parse_payload_key(key)
            except ValueError:
                continue  # not a payload: nothing of ours to delete
            if parsed.uid == self._uid:
                windows.add(parsed.window)
        return windows
