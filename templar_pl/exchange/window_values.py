"""What the exchange of one window is given, and what comes out of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from templar_pl.errors import OutOfSyncError, PayloadError, StoreError
from templar_pl.exchange.aggregates import StandingManifest
from templar_pl.protocol.agreement import Settlement
from templar_pl.protocol.payload import Payload
from templar_pl.protocol.signing import Signer, Verify
from templar_pl.units import Uid, Window


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this node is in a run."""

    run: str
    """Name of the run, first part of every object key."""

    digest: bytes
    """32 bytes: the settings and parameter shapes that all nodes of the run share."""

    uid: Uid

    address: str
    """Of the own bucket, as the register must have it for the own payloads to count."""

    signer: Signer
    verify: Verify


@dataclass(frozen=True, slots=True)
class Limits:
    """How long and how much."""

    timeout_s: float
    """Seconds for a put, and for a gather, of one window."""

    patience_s: float
    """Seconds to wait for a window to be closed by the others before this node gives up."""

    max_peers: int
    """Payloads applied in one window at most; 1..512."""

    keep_windows: int
    """Windows a payload stays in its bucket; at least 1."""

    check_interrupt: Callable[[], None]
    """Asked once a second while waiting for longer than GRACE_S; raises what should end the wait."""


@dataclass(frozen=True, slots=True)
class Training:
    """What the header of a payload says about the window's training."""

    pages: bytes
    """32 bytes: digest of the assigned pages; zeros if the data is not assigned."""

    fingerprint: bytes
    """32 bytes: the parameters the gradient was taken at."""

    loss: float
    batches: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An encoded payload and what it says."""

    window: Window
    data: bytes
    payload: Payload

    @property
    def sha256(self) -> bytes:
        """32 bytes: hash of the object."""
        return hashlib.sha256(self.data).digest()


@dataclass(frozen=True, slots=True)
class Collected:
    """What one window consists of, as far as this node is concerned."""

    settlement: Settlement
    payloads: dict[Uid, Payload]
    """In uid order."""

    skipped: dict[Uid, PayloadError | StoreError]
    bytes_down: int

    standing: StandingManifest | None = None
    """The manifest that says so; None where there is none."""

    gone: str = ""
    """Which of the listed payloads cannot be had and so lack in `payloads`; empty if they are all there. What lacks has
    no entry in `skipped`: it counts."""


class GoneError(OutOfSyncError):
    """Payloads that a manifest lists cannot be had; `collected` is what there is of the window."""

    def __init__(self, collected: Collected) -> None:
        super().__init__(collected.gone)
        self.collected = collected
