"""Which parameters the validator had in which window, to tell how old those are that a miner used."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from templar_pl.scoring.records import SyncObservation
from templar_pl.units import Uid, Window

MAX_WINDOWS = 1024
"""Windows that are remembered at most; a fingerprint is 32 bytes."""

AGREEING = 2
"""Miners who must agree on other parameters before the validator doubts its own."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """Fingerprints of the parameters before each of the last windows; never changed, only followed by another one."""

    start_window: Window
    """First window of the run."""

    prints: Mapping[Window, bytes]
    """Window -> 32 bytes; windows that the validator had no parameters of are not in it."""

    def seen(self, window: Window, fingerprint: bytes, max_steps: float) -> Lineage:
        """Return the lineage with one more window, without those that no score looks back to.

        Args:
            window: the next one.
            fingerprint: of the parameters before it; 32 bytes.
            max_steps: steps behind at which the sync score is 0.
        """
        oldest = window - _reach(max_steps)
        kept = {when: known for when, known in self.prints.items() if oldest <= when < window}
        return Lineage(self.start_window, {**kept, window: fingerprint})

    def observe(self, uid: Uid, fingerprint: bytes, window: Window, max_steps: float) -> SyncObservation | None:
        """Tell how far behind a gradient of a window was taken.

        Args:
            uid: of the miner.
            fingerprint: of the parameters that its payload names.
            window: of the payload.
            max_steps: steps behind at which the sync score is 0.

        Returns:
            What was seen; None if nobody can tell: parameters of this window or of one that counts are not known, and
            the miner's are none of the known ones.
        """
        equal = [when for when, known in self.prints.items() if known == fingerprint and when <= window]
        if equal:
            return SyncObservation(uid=uid, steps_behind=float(window - max(equal)))
        oldest = max(self.start_window, window - _reach(max_steps))
        is_complete = all(Window(when) in self.prints for when in range(oldest, window + 1))
        return SyncObservation(uid=uid, steps_behind=None) if is_complete else None

    def contradicted_by(self, window: Window, named: Mapping[Uid, bytes]) -> tuple[Uid, ...]:
        """Return the miners by whose word the validator's own parameters are wrong; empty if they need not be.

        So they are where at least two miners agree on parameters that the validator never had, and nobody has its own:
        as miners judge themselves by one another. Who names parameters of an earlier window is only behind.

        Args:
            window: of the payloads.
            named: the fingerprint that each miner's payload names.

        Returns:
            All who name the parameters that most of them agree on, in uid order.
        """
        own = self.prints.get(window)
        if own is None or own in named.values():
            return ()
        known = set(self.prints.values())
        votes = Counter(seen for seen in named.values() if seen not in known)
        most = max(votes, key=lambda seen: (votes[seen], seen), default=own)
        return tuple(sorted(uid for uid, seen in named.items() if seen == most)) if votes[most] >= AGREEING else ()

    def forgotten(self) -> Lineage:
        """Return the lineage with nothing known: of whoever is lost, nobody can tell since when."""
        return Lineage(self.start_window, {})


def _reach(max_steps: float) -> int:
    """Return how many windows before one are looked at: none further back earns anything."""
    return min(MAX_WINDOWS - 1, math.ceil(max_steps))
