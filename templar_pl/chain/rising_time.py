"""UTC seconds that never run backwards."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class SteadyTime:
    """UTC as the system clock has it, but going on at the pace of the monotonic clock when that is set back.

    The monotonic clock alone would stand still while a laptop sleeps and so fall behind processes started later; the
    system clock alone may be set back. The later of the two has neither fault.
    """

    def __init__(self, now: Callable[[], float] = time.time, elapsed: Callable[[], float] = time.monotonic) -> None:
        self._now, self._elapsed = now, elapsed
        self._last: tuple[float, float] | None = None
        self._lock = threading.Lock()

    def __call__(self) -> float:
        """Return UTC seconds, never less than before."""
        with self._lock:
            now, tick = self._now(), self._elapsed()
            if self._last is not None:
                now = max(now, self._last[0] + tick - self._last[1])
            self._last = now, tick
            return now


class RisingTime:
    """Any source of UTC seconds, held at the latest moment known to have passed."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._latest = 0.0
        self._lock = threading.Lock()

    def read(self) -> float:
        """Return UTC seconds, never less than before."""
        now = self._now()
        self.observe(now)
        return self._latest

    def observe(self, utc: float) -> None:
        """Learn that `utc` seconds have passed, from the record of another process."""
        with self._lock:
            self._latest = max(self._latest, utc)
