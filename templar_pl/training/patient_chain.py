"""The chain as a node asks it: again and again while it does not answer, and the register once a window."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

from templar_pl.chain import Chain
from templar_pl.exchange.gather import Interval
from templar_pl.exchange.record import SLICE_S
from templar_pl.protocol.peer import Peer
from templar_pl.training.patience import Patience
from templar_pl.training.phases import Phase, PhaseClock
from templar_pl.units import Uid, Window

log = logging.getLogger(__name__)

T = TypeVar("T")


class PatientChain:
    """Asks an open chain for a node that trains."""

    def __init__(
        self, chain: Chain, phases: PhaseClock, *, patience_s: float, check_interrupt: Callable[[], None]
    ) -> None:
        """Store the parts.

        Args:
            chain: an open one.
            phases: where the time goes.
            patience_s: seconds for which it is asked again.
            check_interrupt: asked once a second while waiting; raises what should end the wait.
        """
        self._chain, self._phases = chain, phases
        self._patience = Patience(patience_s, check_interrupt)
        self._peers: dict[Uid, Peer] = {}
        self._says_start = False

    def ask(self, question: Callable[[], T]) -> T:
        """Ask, again and again for `patience_s` if there is no answer. Raises `ChainError` after that."""
        return self._patience.insist("the chain does not answer", question)

    def window(self) -> Window:
        """Return the window now open. Raises as `ask`."""
        return self.ask(self._chain.window)

    def seconds_left(self, window: Window) -> float:
        """Return the seconds until a window is over, as `WindowClock.seconds_left`. Raises as `ask`."""
        return self.ask(lambda: self._chain.seconds_left(window))

    def upload_interval(self, window: Window) -> Interval:
        """Return the UTC seconds (first, last) in which payloads of a window may land. Raises as `ask`."""
        return self.ask(lambda: self._chain.upload_interval(window))

    def candidates(self, window: Window) -> dict[Uid, Peer]:
        """Return the peers whose payloads of a window may count. Raises as `ask`."""
        return self.ask(lambda: self._chain.candidates(window))

    def read_register(self) -> None:
        """Read the register anew. Raises as `ask`."""
        self._peers = self.ask(self._chain.peers)

    def register(self, uids: Collection[Uid]) -> Mapping[Uid, Peer]:
        """Return the register as it was last read, or anew if it lacks one of `uids` or its address."""
        if any(uid not in self._peers or not self._peers[uid].address for uid in uids):
            before = self._phases.phase
            self._phases.enter(Phase.PEER_UPDATE)
            self._peers = self.ask(lambda: self._chain.peers(uids))
            if before is not None:
                self._phases.enter(before)
        return self._peers

    def wait_for_uploads(self, seconds_left: Callable[[], float]) -> None:
        """Wait until a window that ends by the clock is over; not for one that ends otherwise."""
        while not math.isinf(left := seconds_left()) and left > 0:
            self._patience.check_interrupt()
            threading.Event().wait(min(left, SLICE_S))

    def wait_for_start(self, opened: Window, first: Window) -> None:
        """Wait for a while until the first window of the run opens, while an earlier one is open."""
        left_s = self.seconds_left(Window(first - 1))
        if not self._says_start:
            self._says_start = True
            log.info("window %d is open; the run begins with window %d, in %.0f s", opened, first, left_s)
        threading.Event().wait(min(max(left_s, 0.0), SLICE_S))
