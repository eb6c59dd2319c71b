"""Waiting for stores and chains that do not answer, for as long as a node is told to."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from templar_pl.errors import ChainError, FutureError, ObjectMissingError, StoreError
from templar_pl.exchange.record import SLICE_S
from templar_pl.exchange.store import retry_delay_s

T = TypeVar("T")

log = logging.getLogger(__name__)


class Patience:
    """Asks again until there is an answer; every wait ends when the process is asked to end."""

    def __init__(self, patience_s: float, check_interrupt: Callable[[], None]) -> None:
        """Store the settings.

        Args:
            patience_s: seconds after which a failure is taken for final.
            check_interrupt: asked once a second at least; raises what should end the wait.
        """
        self._patience_s, self.check_interrupt = patience_s, check_interrupt

    def insist(self, what: str, question: Callable[[], T]) -> T:
        """Return the answer to a question.

        Args:
            what: is asked, for the log: "the manifest of window 3 cannot be put".
            question: may be asked any number of times.

        Raises:
            ObjectMissingError: that is the answer.
            FutureError: it was asked too early.
            StoreError: the store failed for `patience_s`.
            ChainError: the chain did.
        """
        give_up, tries = time.monotonic() + self._patience_s, 0
        while True:
            try:
                return question()
            except (FutureError, ObjectMissingError):
                raise
            except (ChainError, StoreError) as error:
                if time.monotonic() >= give_up:
                    raise
                tries += 1
                if tries == 1:
                    log.warning("%s, trying again: %s", what, error)
            self.pause(retry_delay_s(tries, SLICE_S))

    def pause(self, seconds: float) -> None:
        """Wait so many seconds, none if below 0."""
        end = time.monotonic() + seconds
        while True:
            self.check_interrupt()
            if (left_s := end - time.monotonic()) <= 0:
                return
            threading.Event().wait(min(left_s, SLICE_S))
