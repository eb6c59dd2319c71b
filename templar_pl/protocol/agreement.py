"""What the nodes of a run agree on for one window, and who writes it down.

On a local chain the chain itself records it; on a public one the manifest of the aggregator does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from templar_pl.units import Uid, Window


@dataclass(frozen=True, slots=True)
class Settlement:
    """The exact list of payloads that make up one closed window."""

    window: Window
    payloads: dict[Uid, bytes]
    """SHA-256 (32 bytes) of the payload object of each uid that took part, in uid order."""

    opened_at: float
    """UTC seconds at which uploads for the window were first accepted."""

    closed_at: float
    """UTC seconds at which the last accepted upload may have landed."""


class Agreement(Protocol):
    """The one list of payloads per window that all nodes apply.

    All methods may be called from several threads; all raise `ChainError` when the record cannot be reached.
    """

    def join(self, window: Window) -> Window:
        """Take part from `window` on, if that is the window now open; return the window that is open.

        When the answer is not `window`, nothing was joined: catch up to the answer first and ask again.
        """
        ...

    def announce(self, window: Window, sha256: bytes | None) -> None:
        """Say that the own payload of `window` is in the own bucket, or by None that there will be none.

        Raises `ChainError` if the window is closed.
        """
        ...

    def settle(self, window: Window, timeout_s: float) -> Settlement:
        """Wait until `window` is closed and return its list. Raises `ChainError` after `timeout_s` seconds."""
        ...

    def leave(self) -> None:
        """Take part no more, so that nobody waits for this node."""
        ...
