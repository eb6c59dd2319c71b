"""Put an object into the own bucket, once."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

from templar_pl.errors import StoreError
from templar_pl.exchange.store import Bucket, ObjectInfo, retry_delay_s


@dataclass(frozen=True, slots=True)
class Published:
    """What the bucket holds now."""

    sha256: bytes
    """32 bytes: hash of the object that others will read."""

    modified: float
    """UTC seconds at which the object was written, by the store's clock."""

    bytes_up: int
    """Bytes of the object if this call put it there, 0 if it was found there."""

    existing: bytes | None
    """The object that an earlier life of this process had put there and that stands, if it differs from what was to
    be put. None if the bucket holds what was to be put."""


def publish(bucket: Bucket, key: str, data: bytes, *, deadline: float, retry_s: float = 0.5) -> Published:
    """Put an object unless there is one, and see that it is there.

    What was published once is never changed: others may have applied it. Whoever calls adopts what `existing` says.

    Args:
        bucket: the own bucket.
        key: of the object.
        data: the whole object.
        deadline: in seconds of `time.monotonic()`; there is one try at least.
        retry_s: seconds before the second try at the earliest; later pauses grow.

    Raises:
        StoreError: the object could not be put by the deadline, or one of another size is in its place. In the first
            case it may still be in the bucket; publishing it again finds out.
    """
    tries = 0
    was_put = False
    while True:
        tries += 1
        try:
            was_put = bucket.put_once(key, data) or was_put
            info = bucket.head(key)
            _check_size(info, key, len(data))
            found = data if was_put else bucket.get(key, max_bytes=len(data))
        except _InTheWayError:
            raise
        except StoreError as error:
            delay = retry_delay_s(tries, retry_s)
            if time.monotonic() + delay >= deadline:
                raise StoreError(f"{key} could not be published in {tries} tries by the deadline: {error}") from error
            time.sleep(delay)  # nothing can happen meanwhile that would be worth waking up for
        else:
            is_ours = found == data
            sha256, existing = hashlib.sha256(found).digest(), None if is_ours else found
            return Published(sha256, info.modified, len(data) if was_put else 0, existing)


class _InTheWayError(StoreError):
    """Another object is under the key, and trying again will not change that."""


def _check_size(info: ObjectInfo, key: str, size: int) -> None:
    if info.size != size:
        raise _InTheWayError(
            f"{key} in the own bucket has {info.size} bytes, must have {size}: it is not of this run and model. "
            "Delete it, or give the run another name."
        )
