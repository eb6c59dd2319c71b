"""What is not there, or too early: how long it is asked for, and when it is final."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise

import pytest

from templar_pl.errors import Fault, ObjectMissingError, PayloadError
from templar_pl.exchange.gather import gather
from templar_pl.exchange.store import ObjectInfo
from templar_pl.units import Uid
from tests.exchange.fakes import Calls, MemoryBucket, MemoryDisk, Scripted
from tests.exchange.gathering import (
    GOOD,
    INTERVAL,
    KEY,
    LONG_S,
    POLL_S,
    SHORT_S,
    ask,
    collect,
    filled,
    upper,
)


class Clock:
    """A store's clock that goes on by some seconds with every look at it."""

    def __init__(self, now: float, step: float) -> None:
        self._now, self._step = now, step

    def __call__(self) -> float:
        self._now += self._step
        return self._now


WRITTEN: dict[str, float | None] = {"missing": None, "early": INTERVAL[0] - 0.5}


def clocked(now: float, step: float = 0.0, written: float | None = None) -> MemoryBucket:
    """Return a bucket of a store with a clock of its own; its object is stamped as given, None for no object."""
    disk = MemoryDisk()
    if written is not None:
        disk.objects["peer"] = {KEY: (GOOD, written)}
    return MemoryBucket(disk, "peer", Clock(now, step))


@pytest.mark.parametrize("fault", WRITTEN)
def test_what_could_only_come_late_is_not_waited_for(fault: str) -> None:
    calls = Calls()
    bucket = clocked(INTERVAL[1] + 1.01, written=WRITTEN[fault])
    started = time.monotonic()

    gathered = collect(ask(1, Scripted(bucket, calls)))

    error = gathered.skipped[Uid(1)]
    assert isinstance(error, PayloadError)
    assert error.fault == fault
    assert "by the store's clock, uploads ended 1.010 s before" in str(error)
    assert calls.names == ["head"]
    assert time.monotonic() - started < LONG_S / 2


@pytest.mark.parametrize("fault", WRITTEN)
def test_what_may_still_come_in_time_is_asked_for_until_the_stores_clock_says_no(fault: str) -> None:
    calls = Calls()
    bucket = clocked(INTERVAL[1] - 1.99, step=1.0, written=WRITTEN[fault])

    gathered = collect(ask(1, Scripted(bucket, calls)))

    assert calls.names == ["head"] * 3  # 0.99 s before the end, 0.01 s and 1.01 s after it
    assert "uploads ended" in str(gathered.skipped[Uid(1)])


@pytest.mark.parametrize("fault", WRITTEN)
def test_what_was_missing_or_early_is_taken_when_it_comes_in_time(fault: str) -> None:
    bucket = clocked(INTERVAL[1] - 0.5, written=WRITTEN[fault])
    calls = Calls()

    def before(name: str, key: str) -> None:
        calls(name, key)
        if calls.names.count("head") == 3:
            bucket.put(KEY, GOOD)

    gathered = collect(ask(1, Scripted(bucket, before)))

    assert list(gathered.payloads) == [1]
    assert calls.names == ["head"] * 3 + ["get"]


def test_the_size_of_an_early_object_is_not_the_last_word() -> None:
    bucket = filled(GOOD + b"!", INTERVAL[0] - 1)
    other = filled(GOOD)
    calls = Calls()

    class Replaced(Scripted):
        def head(self, key: str) -> ObjectInfo:
            info = super().head(key)
            return info if calls.names.count("head") == 1 else other.head(key)

        def get(self, key: str, *, max_bytes: int) -> bytes:
            return other.get(key, max_bytes=max_bytes)

    assert list(collect(ask(1, Replaced(bucket, calls))).payloads) == [1]


class Timeless(Scripted):
    """A store that does not tell its time."""

    def head(self, key: str) -> ObjectInfo:
        try:
            return replace(super().head(key), answered_at=None)
        except ObjectMissingError as error:
            raise ObjectMissingError(str(error)) from None


@pytest.mark.parametrize("fault", WRITTEN)
def test_a_store_that_does_not_tell_its_time_is_asked_until_the_deadline(fault: str) -> None:
    calls = Calls()

    gathered = collect(ask(1, Timeless(clocked(INTERVAL[1] + 100, written=WRITTEN[fault]), calls)), seconds=SHORT_S)

    error = gathered.skipped[Uid(1)]
    assert isinstance(error, PayloadError)
    assert error.fault == fault
    assert len(calls.names) > 3


def test_without_an_interval_a_missing_object_is_waited_for_whatever_the_time() -> None:
    bucket = clocked(1e9)
    calls = Calls()

    def before(name: str, key: str) -> None:
        calls(name, key)
        if calls.names.count("head") == 3:
            bucket.put(KEY, GOOD)

    request = ask(1, Scripted(bucket, before))
    deadline = time.monotonic() + LONG_S
    gathered = gather({Uid(1): request}, decode=upper, interval=None, deadline=deadline, poll_s=POLL_S)

    assert list(gathered.payloads) == [1]


def test_pauses_do_not_grow_past_the_moment_at_which_nothing_can_come_any_more() -> None:
    """A clock that stands still at that moment; pauses that grew would leave time for a dozen questions."""
    calls = Calls()

    collect(ask(1, Scripted(clocked(INTERVAL[1] + 1), calls)), seconds=2.0, poll_s=0.05)

    assert len(calls.times) > 20
    assert all(later - earlier >= 0.05 for earlier, later in pairwise(calls.times))


def test_a_missing_object_is_asked_for_no_more_often_than_the_poll_interval() -> None:
    calls = Calls()

    collect(ask(1, Scripted(filled(None), calls)), seconds=0.5, poll_s=0.04)

    assert set(calls.names) == {"head"}
    assert len(calls.times) >= 2
    assert all(later - earlier >= 0.04 for earlier, later in pairwise(calls.times))


def test_what_cannot_come_any_more_is_asked_for_once() -> None:
    calls = Calls()
    gone = replace(ask(1, Scripted(filled(None), calls)), may_come=False)
    deadline = time.monotonic() + LONG_S

    gathered = gather({Uid(1): gone}, decode=upper, interval=None, deadline=deadline, poll_s=POLL_S)

    error = gathered.skipped[Uid(1)]
    assert isinstance(error, PayloadError)
    assert error.fault is Fault.MISSING
    assert calls.names == ["head"]


def test_a_store_that_fails_is_asked_again_for_what_cannot_come_any_more() -> None:
    calls = Calls(head=2)
    there = replace(ask(1, Scripted(filled(GOOD), calls)), may_come=False)
    deadline = time.monotonic() + LONG_S

    gathered = gather({Uid(1): there}, decode=upper, interval=None, deadline=deadline, poll_s=POLL_S)

    assert list(gathered.payloads) == [1]
