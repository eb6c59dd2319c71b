"""Collect the payloads of one window from many buckets at once, by a deadline.

A peer is asked in three steps: HEAD says whether its object is there, of the right size and landed in time; GET
brings it, once; `decode` turns it into a value, in the caller's thread, while other peers are still downloading. An
object that is not there yet is asked for again, with growing pauses, and so is a store that failed. It is asked for no
more once the store's own clock says that it would be late now.
"""

from __future__ import annotations

import hashlib
import heapq
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from templar_pl.errors import Fault, ObjectMissingError, OversizedError, PayloadError, StoreError
from templar_pl.exchange.store import BucketReader, retry_delay_s
from templar_pl.units import Uid, Window

T = TypeVar("T")

CLOCK_SLACK_S = 1.0
"""Seconds after the end of uploads for which an object is still waited for: stores tell their time and stamp objects in
whole seconds, and an object may appear a little after the moment it is stamped with."""

Interval = tuple[float, float]
"""(time_min, time_max): UTC seconds, by the store's clock, between which an object must have been written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One object of one peer."""

    open_bucket: Callable[[], BucketReader]
    """Returns the peer's bucket without asking it anything; a `StoreError` says that its address is malformed, so that
    nothing of it can be had: MISSING."""

    key: str
    size: int
    """Exact bytes of the object; any other size is refused before it is downloaded."""

    peer: Uid
    window: Window
    sha256: bytes | None = None
    """32 bytes that the object must hash to, or None if nothing is known of its content."""

    may_come: bool = True
    """Whether an object that is missing may still come; if not, it was there, so that it is gone for good."""


@dataclass(frozen=True, slots=True)
class Gathered(Generic[T]):
    """What one window brought in. Every asked peer is in exactly one of the two maps."""

    payloads: dict[Uid, T]
    """In uid order, so that every node sums in the same order."""

    skipped: dict[Uid, PayloadError | StoreError]
    """In uid order. `PayloadError` is the peer's fault, `StoreError` that of the store or of the way to it."""

    bytes_down: int
    """Bytes downloaded, those of peers skipped afterwards included."""


def miss_of(modified: float, interval: Interval) -> tuple[Fault, str] | None:
    """Say how an object misses the time for uploads, as a fault and a reason; None if it landed in it.

    Many stores tell the time of an object in whole seconds, rounded down, so the interval begins at a whole second.
    """
    early_s, late_s = math.floor(interval[0]) - modified, modified - interval[1]
    if early_s > 0:
        return Fault.EARLY, f"written {early_s:.3f} s before uploads were accepted"
    if late_s > 0:
        return Fault.LATE, f"written {late_s:.3f} s after uploads were accepted"
    return None


def gather(
    requests: Mapping[Uid, Request],
    *,
    decode: Callable[[Uid, bytes], T],
    interval: Interval | None,
    deadline: float,
    poll_s: float = 1.0,
    max_threads: int = 32,
) -> Gathered[T]:
    """Fetch and decode one object of every peer.

    Returns when every peer has answered for good, at the deadline at the latest (and after decoding what is in by
    then), even if calls to a store hang: those peers are skipped, and what they bring later is dropped. At most
    `size` bytes are held per peer.

    Args:
        requests: what to fetch, by uid.
        decode: turns the bytes of a peer into a value, or raises `PayloadError`.
        interval: when the objects must have been written, or None if that is settled otherwise. What is missing, or
            was written too early (its owner may write it again), is asked for until the store's clock is past the end
            by `CLOCK_SLACK_S`; until the deadline without an interval, or if the store does not tell its time.
        deadline: in seconds of `time.monotonic()`.
        poll_s: seconds between two questions to one peer at least; above 0. A peer that could only be asked again
            after the deadline is skipped at once.
        max_threads: downloads at the same time, at least 1.

    Raises:
        ValueError: an argument is out of range.
    """
    _check(requests, poll_s, max_threads)
    downloads = _Downloads(requests, interval=interval, deadline=deadline, poll_s=poll_s)
    try:
        downloads.start(min(max_threads, len(requests)))
        payloads, skipped = _decoded(downloads.answers(), decode)
    finally:
        downloads.close()
    skipped |= downloads.unanswered(set(requests) - set(payloads) - set(skipped))
    return Gathered(dict(sorted(payloads.items())), dict(sorted(skipped.items())), downloads.bytes_down)


_Answer = bytes | PayloadError | StoreError


def _check(requests: Mapping[Uid, Request], poll_s: float, max_threads: int) -> None:
    """Raise `ValueError` if an argument of `gather` is out of range."""
    if poll_s <= 0 or max_threads < 1:
        raise ValueError(f"poll_s must be above 0 and max_threads at least 1, got {poll_s} and {max_threads}")
    if wrong := [uid for uid, request in requests.items() if request.peer != uid]:
        raise ValueError(f"each request must be filed under the uid of its peer, got others for {wrong}")


def _decoded(
    answers: Iterable[tuple[Uid, _Answer]], decode: Callable[[Uid, bytes], T]
) -> tuple[dict[Uid, T], dict[Uid, PayloadError | StoreError]]:
    """Return the payloads that could be decoded, and why the others could not."""
    payloads: dict[Uid, T] = {}
    skipped: dict[Uid, PayloadError | StoreError] = {}
    for uid, answer in answers:
        if not isinstance(answer, bytes):
            skipped[uid] = answer
            continue
        try:
            payloads[uid] = decode(uid, answer)
        except PayloadError as error:
            # A traceback would keep the frames alive, and with them everybody's payloads.
            skipped[uid] = error.with_traceback(None)
    return payloads, skipped


@dataclass(frozen=True, slots=True)
class _NotYet:
    """What is not there may still come."""

    fault: Fault
    reason: str
    answered_at: float | None
    """UTC seconds by the store's clock; None if it does not tell."""


class _Downloads:
    """Threads that ask the peers that are due, and the answers they brought."""

    def __init__(
        self, requests: Mapping[Uid, Request], *, interval: Interval | None, deadline: float, poll_s: float
    ) -> None:
        self._requests, self._interval, self._deadline, self._poll_s = requests, interval, deadline, poll_s
        self._lock = threading.Lock()  # guards all below
        # Two, since an answer that woke every idle thread would cost more than fetching it.
        self._answered, self._to_do = threading.Condition(self._lock), threading.Condition(self._lock)
        self._due: list[tuple[float, Uid]] = [(0.0, uid) for uid in sorted(requests)]  # a heap
        self._tries = dict.fromkeys(requests, 0)
        self._last: dict[Uid, PayloadError | StoreError] = {}
        self._answers: deque[tuple[Uid, _Answer]] = deque()
        self._unanswered = len(requests)
        self._bug: BaseException | None = None
        self._is_closed = False
        self.bytes_down = 0

    def start(self, num_threads: int) -> None:
        """Start the threads. They are daemons: a call that hangs must not keep the process from ending."""
        for number in range(num_threads):
            threading.Thread(target=self._work, name=f"gather-{number}", daemon=True).start()

    def answers(self) -> Iterator[tuple[Uid, _Answer]]:
        """Yield each peer's answer as it comes, until all are in or the deadline."""
        for _ in range(len(self._requests)):
            with self._answered:
                self._answered.wait_for(lambda: self._answers or self._bug, self._deadline - time.monotonic())
                if self._bug is not None:
                    raise self._bug
                if not self._answers:
                    return
                answer = self._answers.popleft()
            yield answer

    def close(self) -> None:
        """Take no more answers, and let the threads end."""
        with self._lock:
            self._is_closed = True
            self._answers.clear()
            self._to_do.notify_all()

    def unanswered(self, uids: set[Uid]) -> dict[Uid, PayloadError | StoreError]:
        """Say of peers that gave no answer what is known of them."""
        with self._lock:
            return {
                uid: self._last.get(uid)
                or StoreError(f"peer {uid}: the store did not answer for {self._requests[uid].key} by the deadline")
                for uid in uids
            }

    def _work(self) -> None:
        try:
            while (uid := self._take()) is not None:
                self._ask(uid)
        except BaseException as bug:  # noqa: BLE001 - a bug must rise in the caller, not die with this thread
            with self._lock:
                self._bug = bug
                self._answered.notify()

    def _take(self) -> Uid | None:
        """Wait for a peer that is due and return it; None when there will be no more."""
        with self._lock:
            while self._unanswered and not self._is_closed:
                now = time.monotonic()
                if now >= self._deadline:
                    break
                if self._due and self._due[0][0] <= now:
                    uid = heapq.heappop(self._due)[1]
                    self._to_do.notify()  # somebody else must watch for the next one
                    return uid
                until = min(self._due[0][0], self._deadline) if self._due else self._deadline
                self._to_do.wait(until - now)
        return None

    def _ask(self, uid: Uid) -> None:
        try:
            bucket = self._requests[uid].open_bucket()
        except StoreError as error:  # its address is malformed, which is its own doing and no outage
            self._settle(uid, _refusal(self._requests[uid], Fault.MISSING, str(error)))
            return
        try:
            answer = self._fetch(bucket, self._requests[uid])
        except OversizedError as error:
            self._settle(uid, _refusal(self._requests[uid], Fault.SIZE, str(error)))
        except StoreError as error:
            self._ask_later(uid, error)
        except PayloadError as error:
            self._settle(uid, error.with_traceback(None))  # the frames hold the bytes
        else:
            if isinstance(answer, _NotYet):
                self._wait_for(uid, answer)
            else:
                self._settle(uid, answer)

    def _fetch(self, bucket: BucketReader, request: Request) -> bytes | _NotYet:
        """Make one try. Raises `PayloadError` for what no later try can mend, `StoreError` if the store failed."""
        try:
            info = bucket.head(request.key)
            # What an early object holds is of no interest: it must be another to be accepted.
            miss = None if self._interval is None else miss_of(info.modified, self._interval)
            if miss is not None and miss[0] is Fault.EARLY:
                return _NotYet(*miss, info.answered_at)
            if info.size != request.size:
                raise _refusal(request, Fault.SIZE, f"the object has {info.size} bytes, must have {request.size}")
            if miss is not None:
                raise _refusal(request, *miss)
            data = bucket.get(request.key, max_bytes=request.size)
        except ObjectMissingError as error:
            return _NotYet(Fault.MISSING, str(error), error.answered_at)
        with self._lock:
            self.bytes_down += len(data)
        if len(data) != request.size:
            raise _refusal(request, Fault.SIZE, f"the object has {len(data)} bytes, must have {request.size}")
        if request.sha256 is not None and (found := hashlib.sha256(data).digest()) != request.sha256:
            raise _refusal(request, Fault.HASH, f"sha256 is {found.hex()}, must be {request.sha256.hex()}")
        return data

    def _settle(self, uid: Uid, answer: _Answer) -> None:
        with self._lock:
            self._unanswered -= 1
            if not self._is_closed and time.monotonic() < self._deadline:
                self._answers.append((uid, answer))
            elif not isinstance(answer, bytes):
                self._last[uid] = answer
            self._answered.notify()
            if not self._unanswered:
                self._to_do.notify_all()

    def _wait_for(self, uid: Uid, answer: _NotYet) -> None:
        """File a peer for another try, or settle it if nothing can come, or whatever came now would be late."""
        left_s = math.inf
        if not self._requests[uid].may_come:
            self._settle(uid, _refusal(self._requests[uid], answer.fault, answer.reason))
            return
        if self._interval is not None and answer.answered_at is not None:
            left_s = self._interval[1] + CLOCK_SLACK_S - answer.answered_at
        if left_s >= 0:
            self._ask_later(uid, _refusal(self._requests[uid], answer.fault, answer.reason), within_s=left_s)
            return
        ended = f"by the store's clock, uploads ended {CLOCK_SLACK_S - left_s:.3f} s before"
        self._settle(uid, _refusal(self._requests[uid], answer.fault, f"{answer.reason}; {ended}"))

    def _ask_later(self, uid: Uid, error: PayloadError | StoreError, *, within_s: float = math.inf) -> None:
        """File a peer for another try, or settle it if that would be after the deadline.

        Args:
            uid: the peer.
            error: what is recorded if nothing better comes.
            within_s: seconds to pause at most, if that is not below `poll_s`.
        """
        now = time.monotonic()
        with self._lock:
            self._last[uid] = error.with_traceback(None)
            self._tries[uid] += 1
            # Pauses that grow shrink again towards the deadline, or the last one would waste what is left.
            longest = max(self._poll_s, min((self._deadline - now) / 2, within_s))
            delay = min(retry_delay_s(self._tries[uid], self._poll_s), longest)
            if now + delay < self._deadline:
                heapq.heappush(self._due, (now + delay, uid))
                self._to_do.notify()
                return
        self._settle(uid, error)


def _refusal(request: Request, fault: Fault, reason: str) -> PayloadError:
    where = "" if request.key in reason else f"{request.key}: "  # stores name it in what they say
    return PayloadError(f"{where}{reason}", fault=fault, peer=request.peer, window=request.window)
