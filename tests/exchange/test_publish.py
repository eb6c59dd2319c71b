"""Publishing: once, verified, and by a deadline."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

import pytest

from templar_pl.errors import StoreError
from templar_pl.exchange.growing import GrowingBody
from templar_pl.exchange.local_store import LocalBucket
from templar_pl.exchange.publish import Publication, publish
from tests.exchange.fakes import Calls, Scripted

SOON_S = 60.0  # never reached where a test succeeds


@pytest.fixture
def bucket(tmp_path: Path) -> LocalBucket:
    return LocalBucket(tmp_path, "me")


def test_a_new_object_is_put_and_described(bucket: LocalBucket) -> None:
    published = publish(bucket, "run/a", b"data", deadline=time.monotonic() + SOON_S)

    assert published.existing is None
    assert published.bytes_up == 4
    assert published.sha256 == hashlib.sha256(b"data").digest()
    assert bucket.get("run/a", max_bytes=4) == b"data"


def test_an_earlier_object_stands_and_is_returned(bucket: LocalBucket) -> None:
    bucket.put("run/a", b"DATA")

    published = publish(bucket, "run/a", b"data", deadline=time.monotonic() + SOON_S)

    assert published.existing == b"DATA"
    assert published.bytes_up == 0
    assert published.sha256 == hashlib.sha256(b"DATA").digest()
    assert bucket.get("run/a", max_bytes=4) == b"DATA"


def test_the_same_object_published_twice_leaves_nothing_to_adopt(bucket: LocalBucket) -> None:
    publish(bucket, "run/a", b"data", deadline=time.monotonic() + SOON_S)

    again = publish(bucket, "run/a", b"data", deadline=time.monotonic() + SOON_S)

    assert again.existing is None
    assert again.bytes_up == 0


@pytest.mark.parametrize("name", ["put_once", "head", "get"])
def test_a_call_that_fails_twice_is_tried_again(bucket: LocalBucket, name: str) -> None:
    bucket.put("run/there", b"DATA")
    calls = Calls(**{name: 2})
    key = "run/there" if name == "get" else "run/new"

    published = publish(Scripted(bucket, calls), key, b"data", deadline=time.monotonic() + SOON_S, retry_s=0.001)

    assert published.existing == (b"DATA" if name == "get" else None)
    assert calls.names.count(name) == 3


def test_a_put_that_landed_although_it_was_reported_failed_is_ours(bucket: LocalBucket) -> None:
    """The answer to the first put is lost on its way."""

    class AnswerLost(Scripted):
        def put_once(self, key: str, data: bytes) -> bool:
            is_new = super().put_once(key, data)
            if is_new:
                raise StoreError("connection reset")
            return is_new

    lossy = AnswerLost(bucket, Calls())

    published = publish(lossy, "run/a", b"data", deadline=time.monotonic() + SOON_S, retry_s=0.001)

    assert published.existing is None


def test_a_store_that_fails_for_ever_is_given_up_at_the_deadline(bucket: LocalBucket) -> None:
    calls = Calls(put_once=-1)
    started = time.monotonic()

    with pytest.raises(StoreError, match="503 Slow Down"):
        publish(Scripted(bucket, calls), "run/a", b"data", deadline=started + 0.2, retry_s=0.02)

    assert time.monotonic() - started < 10
    assert len(calls.names) >= 2
    assert list(bucket.list("")) == []


@pytest.mark.parametrize("name", ["put_once", "head", "get"])
def test_a_store_that_hangs_is_left_at_the_deadline(bucket: LocalBucket, name: str) -> None:
    bucket.put("run/a", b"DATA")
    release = threading.Event()

    def hang(call: str, _: str) -> None:
        if call == name:
            release.wait(SOON_S)

    hanging = Scripted(bucket, hang)
    started = time.monotonic()
    try:
        with pytest.raises(StoreError, match="run/a could not be published by the deadline: the store has not"):
            publish(hanging, "run/a", b"data", deadline=started + 0.2)
        took_s = time.monotonic() - started
    finally:
        release.set()

    assert 0.2 <= took_s < 10.0


def test_a_store_that_hangs_after_it_failed_is_left_with_the_reason(bucket: LocalBucket) -> None:
    release = threading.Event()
    calls = Calls(put_once=1)

    def hang_at_the_second_try(name: str, key: str) -> None:
        calls(name, key)
        release.wait(SOON_S)

    hanging = Scripted(bucket, hang_at_the_second_try)
    deadline = time.monotonic() + 1.0
    try:
        with pytest.raises(StoreError, match="503 Slow Down"):
            publish(hanging, "run/a", b"data", deadline=deadline, retry_s=0.01)
    finally:
        release.set()

    assert calls.names == ["put_once", "put_once"]


def test_a_publication_that_is_stopped_begins_no_more_tries(bucket: LocalBucket) -> None:
    calls = Calls(put_once=-1)
    publication = Publication(Scripted(bucket, calls), "run/a", GrowingBody(4, b"data"), retry_s=0.01)

    publication.stop()

    threads = [thread for thread in threading.enumerate() if thread.name == "publish"]
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    assert 1 <= len(calls.names) <= 2


def test_a_bug_of_a_store_rises(bucket: LocalBucket) -> None:
    def break_down(name: str, key: str) -> None:
        raise ZeroDivisionError(name)

    with pytest.raises(ZeroDivisionError):
        publish(Scripted(bucket, break_down), "run/a", b"data", deadline=time.monotonic() + SOON_S)


def test_an_object_of_another_size_in_the_way_is_not_waited_for(bucket: LocalBucket) -> None:
    bucket.put("run/a", b"something else")
    calls = Calls()

    with pytest.raises(StoreError, match=r"14 bytes, must have 4.*Delete it"):
        publish(Scripted(bucket, calls), "run/a", b"data", deadline=time.monotonic() + SOON_S)

    assert calls.names == ["put_once", "head"]
    assert bucket.get("run/a", max_bytes=100) == b"something else"
