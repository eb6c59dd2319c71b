"""What the exchange asks of object storage, whatever stands behind it.

An object is a string of bytes under a key. It appears whole or not at all, and whoever reads it sees one version.
All methods may be called from several threads at once. No call waits for ever: a store that talks to a network
takes its time-outs in its constructor. What the store does wrong is a `StoreError`; a malformed key is a `ValueError`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from templar_pl.exchange.growing import GrowingBody

MAX_KEY_LENGTH = 512
"""Characters of a key; S3 allows 1024 bytes, and the bucket's name counts where it is part of the path."""

MAX_SEGMENT_LENGTH = 200
"""Characters between two slashes; file systems allow 255 bytes a name."""

_SEGMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_BACKOFF_GROWTH, _BACKOFF_LIMIT, _JITTER = 1.5, 4.0, 0.25


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store tells about an object without handing it over."""

    size: int
    """Bytes of the object."""

    modified: float
    """UTC seconds at which the object was written, by the store's clock and as finely as the store keeps it."""

    answered_at: float | None = None
    """UTC seconds by the same clock when the store told this, to a second at worst; None if it does not tell."""


class BucketReader(Protocol):
    """A bucket that may be read, such as another peer's."""

    def head(self, key: str) -> ObjectInfo:
        """Describe an object. Raises `ObjectMissingError`, with the store's time if it tells it, if there is none."""
        ...

    def get(self, key: str, *, max_bytes: int) -> bytes:
        """Read a whole object.

        Raises:
            ObjectMissingError: there is no object under this key.
            OversizedError: the object is larger than `max_bytes`, found out before that much is read.
            StoreError: the store failed.
        """
        ...

    def list(self, prefix: str) -> Iterator[str]:
        """Name the objects whose keys start with `prefix` (empty for all), in ascending order of code points."""
        ...


class Bucket(BucketReader, Protocol):
    """The bucket that is ours to write.

    A key must not be the folder of another one (`a` and `a/b`): not every store can hold both.
    """

    def put(self, key: str, data: bytes) -> None:
        """Write an object, in place of what was there; on disk for good when this returns."""
        ...

    def put_once(self, key: str, data: bytes) -> bool:
        """Write an object unless there is one; return whether this call wrote it.

        Of several callers at once exactly one gets True. After a `StoreError` the object may be there or not.
        """
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Delete any number of objects, in as few requests as the store allows; absent ones are no error."""
        ...


@runtime_checkable
class StreamingBucket(Bucket, Protocol):
    """A bucket that takes an object while it is still being made."""

    def put_growing_once(self, key: str, body: GrowingBody) -> bool:
        """Do what `put_once` does, and read the bytes as they come.

        Raises:
            StoreError: as `put_once`, or the bytes did not come.
        """
        ...


class PeerBuckets(Protocol):
    """The buckets of a run, as somebody sees them who has none."""

    def of(self, address: str) -> BucketReader:
        """Return the bucket a peer committed to, without asking it anything.

        Raises:
            StoreError: the address is malformed, so that this peer cannot be reached.
        """
        ...


class Buckets(PeerBuckets, Protocol):
    """All the buckets of a run."""

    def own(self) -> Bucket:
        """Return the bucket of this node."""
        ...


def check_key(key: str) -> None:
    """Refuse a key that some store could not hold, or could take for a path out of the bucket.

    Raises:
        ValueError: the key is empty, too long, or not made of segments of `A-Z a-z 0-9 . _ -` between single
            slashes; a segment must not start with a dot.
    """
    if not 1 <= len(key) <= MAX_KEY_LENGTH:
        raise ValueError(f"a key must have 1..{MAX_KEY_LENGTH} characters, got {len(key)}: {key[:80]!r}")
    for segment in key.split("/"):
        if not is_segment(segment):
            raise ValueError(
                f"a key must be made of segments of 1..{MAX_SEGMENT_LENGTH} letters, digits, '.', '_' and '-' (no dot "
                f"first) between single slashes, got {segment!r} in {key[:80]!r}"
            )


def check_prefix(prefix: str) -> None:
    """Refuse a prefix that no key can have. Raises `ValueError`."""
    if prefix:
        check_key(prefix.removesuffix("/"))


def is_segment(text: str) -> bool:
    """Tell whether `text` may stand between two slashes of a key."""
    return len(text) <= MAX_SEGMENT_LENGTH and _SEGMENT.fullmatch(text) is not None


def retry_delay_s(tries: int, shortest_s: float) -> float:
    """Return how many seconds to wait before asking a store again.

    Args:
        tries: times it was asked in vain, at least 1.
        shortest_s: seconds before the second try at the earliest; later waits grow to four times that. Up to a
            quarter is added by chance, so that nodes that failed together do not come back together.
    """
    growth = min(_BACKOFF_GROWTH ** min(tries - 1, 16), _BACKOFF_LIMIT)
    return shortest_s * growth * (1 + _JITTER * random.SystemRandom().random())
