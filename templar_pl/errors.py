"""Every error the package raises, by whose fault it is."""

from __future__ import annotations

from enum import StrEnum

from templar_pl.units import Uid, Window


class TemplarError(Exception):
    """Base of all errors of this package."""


class ConfigError(TemplarError):
    """Our settings are wrong: the program stops before the first window."""


class StoreError(TemplarError):
    """The store did not do what was asked: retry until the deadline of the window."""


class ObjectMissingError(StoreError):
    """The store answered that there is no object under this key.

    `answered_at` is the store's own time when it said so: UTC seconds, None if it did not tell.
    """

    def __init__(self, message: str, *, answered_at: float | None = None) -> None:
        super().__init__(message)
        self.answered_at = answered_at


class TransientError(StoreError):
    """The same request may succeed if it is made again."""


class OversizedError(StoreError):
    """The object has more bytes than the caller takes; none of them were read."""


class ChainError(TemplarError):
    """The chain did not answer or refused: retry until the deadline of the window."""


class FutureError(ChainError):
    """The chain was asked about what lies in the future: it cannot know that before its time."""


class OutOfSyncError(TemplarError):
    """This node cannot reach the parameters the others agreed on; it must start from a checkpoint."""


class Fault(StrEnum):
    """What was wrong with what a peer published, as a word that can be counted."""

    MISSING = "missing"
    EARLY = "early"
    LATE = "late"
    SIZE = "size"
    FORMAT = "format"
    RUN = "run"
    WINDOW = "window"
    SENDER = "sender"
    SIGNATURE = "signature"
    HASH = "hash"
    CONTENT = "content"

    UNSEEN = "unseen"
    """Of a miner that a validator could not look at, so nobody's fault; no error has it."""


class PayloadError(TemplarError):
    """A peer broke the protocol: skip that peer for this window, keep training."""

    def __init__(self, reason: str, *, fault: Fault, peer: Uid, window: Window) -> None:
        super().__init__(f"peer {peer}, window {window}: {reason}")
        self.reason, self.fault, self.peer, self.window = reason, fault, peer, window


class DocumentError(TemplarError):
    """Bytes are not the signed document that was asked for: take nothing from them.

    `reason` says what is wrong, `fault` as one word: SIZE, FORMAT, SIGNATURE, CONTENT, SENDER, RUN, WINDOW or HASH.
    """

    def __init__(self, reason: str, *, fault: Fault) -> None:
        super().__init__(reason)
        self.reason, self.fault = reason, fault


class AggregateError(TemplarError):
    """Bytes are not the update that was asked for: what was read of it before counts for nothing.

    `reason` says what is wrong, `fault` as one word: SIZE, FORMAT, RUN, WINDOW, SENDER, HASH, CONTENT or SIGNATURE.
    """

    def __init__(self, reason: str, *, fault: Fault) -> None:
        super().__init__(reason)
        self.reason, self.fault = reason, fault


class CheckpointError(TemplarError):
    """A checkpoint of the network cannot be used: take the next older one, or that of another node.

    `reason` says what is wrong, `fault` as one word: MISSING, SIZE, FORMAT, RUN, WINDOW, SENDER, SIGNATURE, HASH or
    CONTENT.
    """

    def __init__(self, reason: str, *, fault: Fault) -> None:
        super().__init__(reason)
        self.reason, self.fault = reason, fault
