"""Where the time of a window goes: phases that never overlap and add up to the whole."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum


class Phase(StrEnum):
    """What a node is doing; always exactly one of these inside a window."""

    PEER_UPDATE = "peer_update"
    DATA_LOADING = "data_loading"
    TRAINING = "training"
    COMPRESSION = "compression"
    PUT = "put"
    GATHER = "gather"
    MODEL_UPDATE = "model_update"


class PhaseClock:
    """A stopwatch that is in one phase at a time."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """Store the time source, in seconds; it must never run backwards."""
        self._now = now
        self._seconds = dict.fromkeys(Phase, 0.0)
        self._phase: Phase | None = None
        self._since = 0.0

    @property
    def phase(self) -> Phase | None:
        """The phase that runs, or None outside of windows."""
        return self._phase

    def start(self, phase: Phase) -> None:
        """Forget what was measured and start a window in `phase`."""
        self._seconds = dict.fromkeys(Phase, 0.0)
        self._phase, self._since = phase, self._now()

    def enter(self, phase: Phase) -> None:
        """Book the time since the last change and go on in `phase`; nothing happens outside of windows."""
        if self._phase is not None:
            self._book()
            self._phase = phase

    def stop(self) -> dict[Phase, float]:
        """End the window and return the seconds of every phase."""
        if self._phase is not None:
            self._book()
            self._phase = None
        return dict(self._seconds)

    def _book(self) -> None:
        assert self._phase is not None
        now = self._now()
        self._seconds[self._phase] += now - self._since
        self._since = now
