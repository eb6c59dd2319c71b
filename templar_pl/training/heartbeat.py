"""Keeps the lease of a node while it is busy with what is no batch: validation, checkpoints, a long batch."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from templar_pl.errors import ChainError

log = logging.getLogger(__name__)

BEAT_S = 1.0
"""Seconds between two beats; the chain writes less often than that."""


class Heartbeat:
    """Touches the lease from a thread, as long as training has made progress lately.

    A node that hangs stops beating after `patience_s`, so that the others do not wait for it for ever.
    """

    def __init__(self, touch: Callable[[], None], patience_s: float) -> None:
        """Store the parts; nothing runs before `start`.

        Args:
            touch: renews the lease; may raise `ChainError`.
            patience_s: seconds without progress after which it beats no more.
        """
        self._touch, self._patience_s = touch, patience_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._last_progress = time.monotonic()

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def progress(self) -> None:
        """Note that training goes on."""
        self._last_progress = time.monotonic()

    def stop(self, timeout_s: float) -> None:
        """Beat no more, and wait for the thread for so long."""
        self._stop.set()
        self._thread.join(timeout_s)

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_S):
            if time.monotonic() - self._last_progress > self._patience_s:
                continue
            try:
                self._touch()
            except ChainError as error:
                log.debug("the lease could not be renewed: %s", error)
