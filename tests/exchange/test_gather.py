"""Gathering: every asked peer is in exactly one map, with the right reason, by the deadline."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from templar_pl.errors import Fault, PayloadError, StoreError
from templar_pl.exchange.gather import Gathered, Request, gather
from templar_pl.exchange.local_store import LocalBuckets
from templar_pl.exchange.store import BucketReader
from templar_pl.units import Uid
from tests.exchange.fakes import Calls, Scripted
from tests.exchange.gathering import (
    GOOD,
    INTERVAL,
    KEY,
    LONG_S,
    POLL_S,
    SHORT_S,
    SIZE,
    WINDOW,
    ask,
    collect,
    filled,
    upper,
)


@dataclass(frozen=True)
class Case:
    """One way a peer can be wrong, the reason that must be given, and how long to pause between questions."""

    request: Callable[[], Request]
    fault: Fault
    reason: str
    poll_s: float = POLL_S


FAULTS = {
    "absent": Case(lambda: ask(1, filled(None)), Fault.MISSING, "no object", 2 * LONG_S),
    "early": Case(lambda: ask(1, filled(GOOD, 999.5)), Fault.EARLY, "0.500 s before", 2 * LONG_S),
    "late": Case(lambda: ask(1, filled(GOOD, 1010.5)), Fault.LATE, "0.500 s after"),
    "cut short": Case(lambda: ask(1, filled(GOOD[:-1])), Fault.SIZE, "7 bytes, must have 8"),
    "oversized": Case(lambda: ask(1, filled(GOOD + b"!")), Fault.SIZE, "9 bytes, must have 8"),
    "wrong hash": Case(lambda: ask(1, filled(GOOD), hashlib.sha256(b"x").digest()), Fault.HASH, "sha256 is"),
    "not decodable": Case(lambda: ask(1, filled(b"\xff" * 8)), Fault.FORMAT, "not ASCII"),
}


@pytest.mark.parametrize("case", FAULTS.values(), ids=FAULTS.keys())
def test_a_peer_that_is_wrong_is_skipped_with_its_reason_and_the_others_stay(case: Case) -> None:
    gathered = collect(case.request(), ask(0, filled(GOOD)), poll_s=case.poll_s)

    assert gathered.payloads == {0: "0:8 BYTES!"}
    assert list(gathered.skipped) == [1]
    error = gathered.skipped[Uid(1)]
    assert isinstance(error, PayloadError)
    assert (error.fault, error.peer, error.window) == (case.fault, 1, WINDOW)
    assert case.reason in str(error)


@pytest.mark.parametrize("modified", INTERVAL)
def test_both_ends_of_the_interval_are_inside_it(modified: float) -> None:
    assert list(collect(ask(1, filled(GOOD, modified))).payloads) == [1]


def test_without_an_interval_the_time_does_not_matter() -> None:
    gathered = gather(
        {Uid(1): ask(1, filled(GOOD, 5.0))}, decode=upper, interval=None, deadline=time.monotonic() + LONG_S
    )

    assert list(gathered.payloads) == [1]


def test_an_expected_hash_that_fits_is_accepted() -> None:
    assert list(collect(ask(1, filled(GOOD), hashlib.sha256(GOOD).digest())).payloads) == [1]


@pytest.mark.parametrize("name", ["head", "get"])
def test_a_store_that_fails_twice_is_asked_again(name: str) -> None:
    calls = Calls(**{name: 2})

    gathered = collect(ask(1, Scripted(filled(GOOD), calls)))

    assert list(gathered.payloads) == [1]
    assert calls.names.count(name) == 3


@pytest.mark.parametrize("name", ["head", "get"])
def test_a_store_that_fails_for_ever_is_recorded_at_the_deadline(name: str) -> None:
    calls = Calls(**{name: -1})

    gathered = collect(ask(1, Scripted(filled(GOOD), calls)), seconds=SHORT_S)

    assert not isinstance(gathered.skipped[Uid(1)], PayloadError)
    assert "503 Slow Down" in str(gathered.skipped[Uid(1)])
    assert calls.names.count(name) >= 2


def test_a_malformed_address_is_not_tried_again(tmp_path: Path) -> None:
    buckets = LocalBuckets(tmp_path, "me")
    opened: list[str] = []

    def open_bucket() -> BucketReader:
        opened.append("x")
        return buckets.of("../you")

    gathered = collect(Request(open_bucket=open_bucket, key=KEY, size=SIZE, peer=Uid(1), window=WINDOW))

    assert "cannot be reached" in str(gathered.skipped[Uid(1)])
    assert len(opened) == 1


@pytest.mark.parametrize("name", ["head", "get"])
def test_a_call_that_hangs_holds_up_neither_the_others_nor_the_return(name: str) -> None:
    entered, release, late = threading.Event(), threading.Event(), threading.Event()

    def hang(call: str, key: str) -> None:
        if call == name:
            entered.set()
            release.wait(60)
            late.set()

    gathered = collect(ask(1, Scripted(filled(GOOD), hang)), ask(0, filled(GOOD)), seconds=SHORT_S)

    assert not late.is_set()  # gather came back although the call had not
    assert entered.is_set()
    assert list(gathered.payloads) == [0]
    assert not isinstance(gathered.skipped[Uid(1)], PayloadError)
    assert "did not answer" in str(gathered.skipped[Uid(1)])
    release.set()
    assert late.wait(30)
    assert list(gathered.payloads) == [0]
    assert gathered.bytes_down == SIZE


def test_a_hanging_call_does_not_keep_a_process_from_ending() -> None:
    program = """
import threading, time
from tests.exchange.test_gather import GOOD, ask, collect, filled
from tests.exchange.fakes import Scripted
def hang(name, key):
    threading.Event().wait(3600)
assert list(collect(ask(1, Scripted(filled(GOOD), hang)), seconds=0.05).skipped) == [1]
"""
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=True, timeout=120)


def test_peers_waited_for_do_not_hold_up_those_behind_them() -> None:
    """Two threads, ten absent peers, then one that is there."""
    requests = {Uid(uid): ask(uid, filled(None)) for uid in range(10)} | {Uid(10): ask(10, filled(GOOD))}
    decoded = threading.Event()

    def decode(uid: Uid, data: bytes) -> str:
        decoded.set()
        return upper(uid, data)

    gathered = gather(
        requests, decode=decode, interval=INTERVAL, deadline=time.monotonic() + SHORT_S, poll_s=0.1, max_threads=2
    )

    assert decoded.is_set()
    assert list(gathered.payloads) == [10]
    assert list(gathered.skipped) == list(range(10))


def test_an_object_that_comes_later_is_found_by_polling() -> None:
    bucket = filled(None)
    calls = Calls()

    def before(name: str, key: str) -> None:
        calls(name, key)
        if calls.names.count("head") == 4:
            bucket.put(KEY, GOOD)

    gathered = collect(ask(1, Scripted(bucket, before)))

    assert list(gathered.payloads) == [1]
    assert calls.names == ["head"] * 4 + ["get"]


def test_what_is_there_costs_one_head_and_one_get_and_no_pause() -> None:
    calls = Calls()
    started = time.monotonic()

    collect(ask(1, Scripted(filled(GOOD), calls)), poll_s=LONG_S)

    assert calls.names == ["head", "get"]
    assert time.monotonic() - started < LONG_S / 2


def test_no_question_is_left_to_ask_so_the_rest_of_the_time_is_not_waited_out() -> None:
    started = time.monotonic()

    gathered = collect(ask(1, filled(None)), seconds=LONG_S, poll_s=2 * LONG_S)

    assert list(gathered.skipped) == [1]
    assert time.monotonic() - started < LONG_S / 2


def test_after_the_deadline_nobody_is_asked() -> None:
    calls = Calls()

    gathered = collect(ask(1, Scripted(filled(GOOD), calls)), seconds=-1.0)

    assert list(gathered.skipped) == [1]
    assert calls.names == []


def test_nobody_asked_is_nothing_gathered() -> None:
    assert collect() == Gathered({}, {}, 0)


@settings(max_examples=20)
@given(st.permutations(range(5)))
def test_the_order_of_arrival_changes_nothing(order: list[int]) -> None:
    turns = {uid: threading.Event() for uid in order}
    turns[order[0]].set()
    following = dict(pairwise(order))
    arrived: list[int] = []

    def waiting(uid: int) -> Callable[[str, str], None]:
        def wait(name: str, key: str) -> None:
            assert name != "get" or turns[uid].wait(30)

        return wait

    def decode(uid: Uid, data: bytes) -> str:
        arrived.append(uid)
        if uid in following:
            turns[following[uid]].set()
        return upper(uid, data)

    requests = {Uid(uid): ask(uid, Scripted(filled(GOOD), waiting(uid))) for uid in order}
    gathered = gather(requests, decode=decode, interval=INTERVAL, deadline=time.monotonic() + LONG_S)

    assert arrived == order  # also: each is decoded while those after it are still downloading
    assert list(gathered.payloads.items()) == [(uid, f"{uid}:8 BYTES!") for uid in range(5)]
    assert gathered.bytes_down == 5 * SIZE


def test_a_bug_in_decode_rises() -> None:
    def decode(uid: Uid, data: bytes) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        gather({Uid(1): ask(1, filled(GOOD))}, decode=decode, interval=None, deadline=time.monotonic() + LONG_S)


def test_a_bug_in_a_store_rises_in_the_caller() -> None:
    def broken(name: str, key: str) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        collect(ask(1, Scripted(filled(GOOD), broken)))


def test_arguments_out_of_range_are_refused() -> None:
    request = ask(1, filled(GOOD))
    for poll_s, max_threads in ((0.0, 1), (1.0, 0)):
        with pytest.raises(ValueError, match="poll_s must be above 0"):
            gather({Uid(1): request}, decode=upper, interval=None, deadline=0.0, poll_s=poll_s, max_threads=max_threads)
    with pytest.raises(ValueError, match="under the uid"):
        gather({Uid(2): request}, decode=upper, interval=None, deadline=0.0)


def test_every_asked_peer_is_in_exactly_one_map_in_uid_order() -> None:
    requests = [case.request() for case in FAULTS.values()]
    numbered = [
        Request(open_bucket=r.open_bucket, key=KEY, size=SIZE, peer=Uid(9 - n), window=WINDOW, sha256=r.sha256)
        for n, r in enumerate(requests)
    ]
    gathered = collect(*numbered, ask(0, filled(GOOD)), ask(50, Scripted(filled(GOOD), Calls(get=-1))), seconds=SHORT_S)

    asked = {request.peer for request in numbered} | {0, 50}
    assert set(gathered.payloads) | set(gathered.skipped) == asked
    assert not set(gathered.payloads) & set(gathered.skipped)
    assert list(gathered.skipped) == sorted(gathered.skipped)
    assert isinstance(gathered.skipped[Uid(50)], StoreError)
