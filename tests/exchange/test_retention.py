"""Retention deletes old own payloads and nothing else."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from templar_pl.exchange.local_store import LocalBucket
from templar_pl.exchange.retention import Retention
from templar_pl.protocol.keys import aggregate_keys, debug_keys, payload_key, payload_keys, run_key
from templar_pl.units import Uid, Window
from tests.exchange.fakes import Calls, Scripted

ME, OTHER = Uid(3), Uid(4)


@pytest.fixture
def bucket(tmp_path: Path) -> LocalBucket:
    return LocalBucket(tmp_path, "me")


def fill(bucket: LocalBucket, run: str, uid: Uid, windows: range) -> set[str]:
    keys = {payload_key(run, Window(window), uid) for window in windows}
    for key in keys:
        bucket.put(key, b"payload")
    return keys


def test_payloads_older_than_the_kept_windows_are_deleted_and_younger_ones_stay(bucket: LocalBucket) -> None:
    fill(bucket, "run", ME, range(20))
    retention = Retention(bucket, {payload_keys("run", ME): 5})

    retention.request(Window(19))
    retention.close(30)

    kept = {payload_key("run", Window(window), ME) for window in range(14, 20)}
    assert set(bucket.list("")) == kept


def test_other_runs_other_peers_and_other_objects_are_left_alone(bucket: LocalBucket) -> None:
    foreign = (
        fill(bucket, "run2", ME, range(3)) | fill(bucket, "ru", ME, range(3)) | fill(bucket, "run", OTHER, range(3))
    )
    for key in (run_key("run"), "run/payload/000000001/notes.txt", "run/payload/7/3.bin", "run/checkpoint/000000001/a"):
        bucket.put(key, b"x")
        foreign.add(key)
    fill(bucket, "run", ME, range(3))
    retention = Retention(bucket, {payload_keys("run", ME): 1})

    retention.request(Window(1000))
    retention.close(30)

    assert set(bucket.list("")) == foreign


def test_the_bucket_is_listed_once_and_each_payload_deleted_once(bucket: LocalBucket) -> None:
    class Watch(Calls):
        def __init__(self) -> None:
            super().__init__()
            self.deleted: list[str] = []
            self.turn = threading.Semaphore(0)

        def __call__(self, name: str, key: str) -> None:
            super().__call__(name, key)
            if name == "delete":
                self.deleted += key.split()
                self.turn.release()

    watch = Watch()
    fill(bucket, "run", ME, range(3))
    retention = Retention(Scripted(bucket, watch), {payload_keys("run", ME): 2})
    for number in range(3, 10):
        fill(bucket, "run", ME, range(number, number + 1))
        retention.request(Window(number))
        assert watch.turn.acquire(timeout=30)
    retention.close(30)

    assert watch.names.count("list") == 1
    assert watch.deleted == [payload_key("run", Window(number), ME) for number in range(7)]
    assert len(list(bucket.list(""))) == 3


def test_a_request_returns_although_the_store_hangs_and_close_gives_up(bucket: LocalBucket) -> None:
    release, entered = threading.Event(), threading.Event()

    def hang(name: str, key: str) -> None:
        entered.set()
        assert release.wait(60)

    retention = Retention(Scripted(bucket, hang), {payload_keys("run", ME): 1})
    retention.request(Window(5))
    retention.request(Window(6))
    assert entered.wait(30)

    retention.close(0.01)

    release.set()


def test_a_failure_is_logged_once_and_made_up_for_later(bucket: LocalBucket, caplog: pytest.LogCaptureFixture) -> None:
    fill(bucket, "run", ME, range(4))
    failed = threading.Semaphore(0)
    calls = Calls(list=1, delete=2)

    def before(name: str, key: str) -> None:
        failed.release()
        calls(name, key)

    retention = Retention(Scripted(bucket, before), {payload_keys("run", ME): 1})
    # Requests: list fails; list works, delete fails; delete fails; delete works.
    with caplog.at_level(logging.WARNING):
        for number, num_calls in ((10, 1), (11, 2), (12, 1), (13, 1)):
            retention.request(Window(number))
            for _ in range(num_calls):
                assert failed.acquire(timeout=30)
        retention.close(30)

    assert list(bucket.list("")) == []
    assert [record.message.count("503 Slow Down") for record in caplog.records] == [1]


def test_closing_without_a_request_asks_the_store_nothing(bucket: LocalBucket) -> None:
    calls = Calls()
    retention = Retention(Scripted(bucket, calls), {payload_keys("run", ME): 1})

    retention.close(1)

    assert calls.names == []
    with pytest.raises(ValueError, match="closed"):
        retention.request(Window(1))


def test_a_negative_number_of_windows_is_refused(bucket: LocalBucket) -> None:
    with pytest.raises(ValueError, match="0 or more, got -1"):
        Retention(bucket, {payload_keys("run", ME): -1})


def test_each_kind_of_object_stays_for_its_own_number_of_windows(bucket: LocalBucket) -> None:
    kinds = {payload_keys("run", ME): 3, debug_keys("run", ME): 0, aggregate_keys("run"): 5}
    deleted: list[list[str]] = []
    for keys in kinds:
        for window in range(10):
            bucket.put(keys.key(Window(window)), b"x")
    others = debug_keys("run", OTHER).key(Window(0))
    bucket.put(others, b"x")

    def watch(name: str, key: str) -> None:
        if name == "delete":
            deleted.append(key.split())

    retention = Retention(Scripted(bucket, watch), kinds)
    retention.request(Window(9))
    retention.close(30)

    kept = {keys.key(Window(window)) for keys, number in kinds.items() for window in range(9 - number, 10)}
    assert set(bucket.list("")) == kept | {others}
    assert len(deleted) == 1


def test_notes_are_written_and_go_when_their_time_is_over(bucket: LocalBucket) -> None:
    keys = debug_keys("run", ME)
    retention = Retention(bucket, {keys: 2})
    for number in range(4):
        retention.request(Window(number), {keys.key(Window(number)): b"note %d" % number})
    retention.close(30)

    assert set(bucket.list("")) == {keys.key(Window(number)) for number in (1, 2, 3)}
    assert bucket.get(keys.key(Window(3)), max_bytes=100) == b"note 3"
