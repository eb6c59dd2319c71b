"""Retention deletes old own payloads and nothing else."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from templar_pl.exchange.local_store import LocalBucket
from templar_pl.exchange.retention import Retention
from templar_pl.protocol.keys import payload_key, run_key
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
    retention = Retention(bucket, "run", ME, keep_windows=5)

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
    retention = Retention(bucket, "run", ME, keep_windows=1)

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
    retention = Retention(Scripted(bucket, watch), "run", ME, keep_windows=2)
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

    retention = Retention(Scripted(bucket, hang), "run", ME, keep_windows=1)
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

    retention = Retention(Scripted(bucket, before), "run", ME, keep_windows=1)
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
    retention = Retention(Scripted(bucket, calls), "run", ME, keep_windows=1)

    retention.close(1)

    assert calls.names == []
    with pytest.raises(ValueError, match="closed"):
        retention.request(Window(1))


def test_keeping_no_window_is_refused(bucket: LocalBucket) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Retention(bucket, "run", ME, keep_windows=0)
