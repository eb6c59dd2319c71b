"""Put an object into the own bucket, once."""

from __future__ import annotations

import hashlib
import math
import threading
import time
from concurrent.futures import Future, wait
from dataclasses import dataclass
from itertools import count

from templar_pl.errors import StoreError
from templar_pl.exchange.growing import GrowingBody
from templar_pl.exchange.store import Bucket, ObjectInfo, StreamingBucket, retry_delay_s


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

    Returns or raises at the deadline at the latest, even if the store hangs: what is under way then is left to itself.

    Args:
        bucket: the own bucket.
        key: of the object.
        data: the whole object.
        deadline: in seconds of `time.monotonic()`.
        retry_s: seconds before the second try at the earliest; later pauses grow.

    Raises:
        StoreError: the object could not be put by the deadline, or one of another size is in its place. In the first
            case it may be in the bucket all the same, or land there later; publishing it again finds out.
    """
    return Publication(bucket, key, GrowingBody(len(data), data), retry_s=retry_s).finish(deadline)


class Publication:
    """An object on its way into the own bucket, which may still be in the making."""

    def __init__(self, bucket: Bucket, key: str, body: GrowingBody, *, retry_s: float = 0.5) -> None:
        """Begin to put the object; a bucket that takes whole objects only waits until it is whole.

        Args:
            bucket: the own bucket.
            key: of the object.
            body: the object; whoever makes it appends to it, or gives it up.
            retry_s: seconds before the second try at the earliest; later pauses grow.
        """
        self._key = key
        self._tries = _Tries(bucket, key, body, retry_s)
        self._found: Future[Published] = Future()
        # A daemon: a call that hangs must not keep the process from ending.
        threading.Thread(target=self._tries.run, args=(self._found,), name="publish", daemon=True).start()

    def finish(self, deadline: float) -> Published:
        """Wait for the end; see `publish`. No try begins after `deadline`."""
        self._tries.deadline = deadline
        wait([self._found], max(0.0, deadline - time.monotonic()))
        if not self._found.done():
            raise StoreError(f"{self._key} could not be published by the deadline: {self._tries.reason}")
        return self._found.result()

    def stop(self) -> None:
        """Begin no more tries."""
        self._tries.deadline = -math.inf


class _Tries:
    """Publishes an object, again and again until the deadline."""

    def __init__(self, bucket: Bucket, key: str, body: GrowingBody, retry_s: float) -> None:
        self._bucket, self._key, self._body, self._retry_s = bucket, key, body, retry_s
        self.deadline = math.inf
        """In seconds of `time.monotonic()`; set when it is known."""

        self.reason = "the store has not answered"
        """What the last try that ended came to."""

    def run(self, found: Future[Published]) -> None:
        try:
            found.set_result(self._publish())
        except BaseException as error:  # noqa: BLE001 - a bug must rise in the caller, not die with this thread
            found.set_exception(error)

    def _publish(self) -> Published:
        was_put = False
        for tries in count(1):
            try:
                was_put = self._put() or was_put
                return self._look(was_put, self._body.whole())
            except _InTheWayError:
                raise
            except StoreError as error:
                self.reason = str(error)
            delay = retry_delay_s(tries, self._retry_s)
            if time.monotonic() + delay >= self.deadline:
                raise StoreError(f"{self._key} could not be published by the deadline: {self.reason}")
            time.sleep(delay)  # nothing can happen meanwhile that would be worth waking up for
        raise AssertionError("unreachable: counting does not end")

    def _put(self) -> bool:
        if isinstance(self._bucket, StreamingBucket) and not self._body.is_complete:
            return self._bucket.put_growing_once(self._key, self._body)
        return self._bucket.put_once(self._key, self._body.whole())

    def _look(self, was_put: bool, data: bytes) -> Published:
        """See what is in the bucket."""
        info = self._bucket.head(self._key)
        _check_size(info, self._key, len(data))
        found = data if was_put else self._bucket.get(self._key, max_bytes=len(data))
        sha256, existing = hashlib.sha256(found).digest(), None if found == data else found
        return Published(sha256, info.modified, len(data) if was_put else 0, existing)


class _InTheWayError(StoreError):
    """Another object is under the key, and trying again will not change that."""


def _check_size(info: ObjectInfo, key: str, size: int) -> None:
    if info.size != size:
        raise _InTheWayError(
            f"{key} in the own bucket has {info.size} bytes, must have {size}: it is not of this run and model. "
            "Delete it, or give the run another name."
        )
