"""What every object store must do. Another store joins by one line in `STORES`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from templar_pl.errors import ObjectMissingError, OversizedError, StoreError
from templar_pl.exchange.local_store import LocalBuckets
from templar_pl.exchange.store import Buckets
from tests.exchange.fakes import MemoryBuckets, MemoryDisk
from tests.servers.nodes import NamedBuckets, empty
from tests.servers.seaweed import S3Server

Open = Callable[[str], Buckets]
"""Own address -> the buckets as that node sees them; all of one `Open` share one storage."""


def local(request: pytest.FixtureRequest) -> Open:
    folder: Path = request.getfixturevalue("tmp_path")
    return lambda address: LocalBuckets(folder / "store", address)


def memory(request: pytest.FixtureRequest) -> Open:
    disk = MemoryDisk()
    return lambda address: MemoryBuckets(disk, address)


def moto(request: pytest.FixtureRequest) -> Open:
    url: str = request.getfixturevalue("moto_url")
    empty(url)
    return lambda address: NamedBuckets(address, url)


def seaweed(request: pytest.FixtureRequest) -> Open:
    server: S3Server = request.getfixturevalue("seaweed_server")
    empty(server.endpoint_url)
    return lambda address: NamedBuckets(address, server.endpoint_url)


STORES = {"local": local, "memory": memory, "moto": moto, "seaweed": seaweed}


@pytest.fixture(params=STORES)
def open_buckets(request: pytest.FixtureRequest) -> Open:
    return STORES[request.param](request)


def test_what_was_put_is_read_back_by_its_owner_and_by_others(open_buckets: Open) -> None:
    open_buckets("me").own().put("run/a.bin", b"one")

    assert open_buckets("me").own().get("run/a.bin", max_bytes=3) == b"one"
    assert open_buckets("you").of("me").get("run/a.bin", max_bytes=3) == b"one"


def test_an_empty_object_is_an_object(open_buckets: Open) -> None:
    bucket = open_buckets("me").own()
    bucket.put("empty", b"")

    assert bucket.head("empty").size == 0
    assert bucket.get("empty", max_bytes=0) == b""


def test_head_tells_size_and_time_of_the_write_in_utc_seconds(open_buckets: Open) -> None:
    before = math.floor(time.time())  # some stores keep whole seconds
    open_buckets("me").own().put("a", b"12345")
    after = time.time()

    info = open_buckets("you").of("me").head("a")

    assert info.size == 5
    assert before <= info.modified <= after


def test_a_second_put_replaces_data_and_time(open_buckets: Open) -> None:
    bucket = open_buckets("me").own()
    bucket.put("a", b"first")
    first = bucket.head("a").modified

    bucket.put("a", b"second!")

    assert bucket.get("a", max_bytes=100) == b"second!"
    assert bucket.head("a").size == 7
    assert bucket.head("a").modified >= first


def test_what_is_absent_is_said_to_be_missing(open_buckets: Open) -> None:
    open_buckets("me").own().put("run/a.bin", b"one")

    for address, key in (("me", "run/b.bin"), ("me", "run"), ("me", "run/a.bin/c"), ("nobody", "run/a.bin")):
        reader = open_buckets("you").of(address)
        with pytest.raises(ObjectMissingError):
            reader.head(key)
        with pytest.raises(ObjectMissingError):
            reader.get(key, max_bytes=10)


def test_every_answer_about_an_object_tells_the_stores_time(open_buckets: Open) -> None:
    mine = open_buckets("me").own()
    mine.put("run/a.bin", b"one")
    before = math.floor(time.time())  # some stores tell whole seconds

    there = open_buckets("you").of("me").head("run/a.bin")
    told = [there.answered_at]
    for address, key in (("me", "run/b.bin"), ("me", "run"), ("nobody", "run/a.bin")):
        reader = open_buckets("you").of(address)
        for ask in (reader.head, lambda key, get=reader.get: get(key, max_bytes=10)):
            with pytest.raises(ObjectMissingError) as caught:
                ask(key)
            told.append(caught.value.answered_at)

    after = time.time()
    assert all(moment is not None and before <= moment <= after for moment in told), told


def test_an_object_larger_than_allowed_is_not_handed_over(open_buckets: Open) -> None:
    bucket = open_buckets("me").own()
    bucket.put("a", b"12345")

    with pytest.raises(OversizedError, match="5 bytes"):
        bucket.get("a", max_bytes=4)

    assert bucket.get("a", max_bytes=5) == b"12345"


def test_put_once_writes_only_where_nothing_is(open_buckets: Open) -> None:
    bucket = open_buckets("me").own()

    assert bucket.put_once("run/a", b"one") is True
    assert bucket.put_once("run/a", b"two") is False

    assert bucket.get("run/a", max_bytes=10) == b"one"


def test_of_many_that_put_once_exactly_one_wins(open_buckets: Open) -> None:
    contents = [f"writer {number}".encode() for number in range(8)]
    buckets = [open_buckets("me").own() for _ in contents]

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda bucket, data: bucket.put_once("contested", data), buckets, contents))

    assert won.count(True) == 1
    assert buckets[0].get("contested", max_bytes=100) == contents[won.index(True)]


def test_list_names_what_starts_with_the_prefix_in_order(open_buckets: Open) -> None:
    bucket = open_buckets("me").own()
    keys = ["run/b/2", "run/b-1", "run/a", "run/b/10", "other", "ru/n", "runs/c"]
    for key in keys:
        bucket.put(key, b"x")

    reader = open_buckets("you").of("me")
    for prefix in ("", "r", "run", "run/", "run/b", "run/b/", "run/b/1", "absent/", "other", "run/a/"):
        assert list(reader.list(prefix)) == sorted(key for key in keys if key.startswith(prefix)), prefix


def test_an_absent_bucket_lists_nothing(open_buckets: Open) -> None:
    assert list(open_buckets("you").of("nobody").list("run/")) == []


def test_deleted_objects_are_gone_and_others_stay(open_buckets: Open) -> None:
    bucket = open_buckets("me").own()
    for key in ("run/1/a", "run/1/b", "run/2/a", "run/20"):
        bucket.put(key, b"x")

    bucket.delete(["run/1/a", "run/2/a", "run/3/never-there"])
    bucket.delete([])

    assert list(bucket.list("")) == ["run/1/b", "run/20"]
    with pytest.raises(ObjectMissingError):
        bucket.head("run/1/a")


def test_a_deleted_key_can_be_written_again(open_buckets: Open) -> None:
    bucket = open_buckets("me").own()
    bucket.put_once("run/1/a", b"x")
    bucket.delete(["run/1/a"])

    assert bucket.put_once("run/1/a", b"y") is True
    assert bucket.get("run/1/a", max_bytes=1) == b"y"


def test_buckets_do_not_see_each_other(open_buckets: Open) -> None:
    open_buckets("me").own().put("a", b"mine")
    open_buckets("you").own().put("a", b"yours")

    assert open_buckets("other").of("me").get("a", max_bytes=10) == b"mine"
    assert open_buckets("other").of("you").get("a", max_bytes=10) == b"yours"


@pytest.mark.parametrize("address", ["", ".", "..", "../me", "/etc", "a/b", ".hidden", "x" * 500, "a\0b", "é", "a\n"])
def test_a_malformed_address_makes_that_peer_unreachable(open_buckets: Open, address: str) -> None:
    with pytest.raises(StoreError):
        open_buckets("me").of(address)


@pytest.mark.parametrize(
    "key", ["", "..", "../you/a", "/a", "a/", "a//b", "a/../b", "./a", ".incoming/x", "a b", "a\n"]
)
def test_an_unsafe_key_is_refused_by_every_method(open_buckets: Open, key: str) -> None:
    bucket = open_buckets("me").own()

    for call in (
        lambda: bucket.head(key),
        lambda: bucket.get(key, max_bytes=1),
        lambda: bucket.put(key, b""),
        lambda: bucket.put_once(key, b""),
        lambda: bucket.delete([key]),
    ):
        with pytest.raises(ValueError, match="a key must"):
            call()


def test_readers_during_rewrites_see_only_whole_versions(open_buckets: Open) -> None:
    bucket = open_buckets("me").own()
    versions = [bytes([number]) * 50_000 for number in range(20)]
    bucket.put("a", versions[0])

    with ThreadPoolExecutor(3) as pool:
        writing = pool.submit(lambda: [bucket.put("a", data) for data in versions])
        seen = []
        while not writing.done():
            seen.append(bucket.get("a", max_bytes=50_000))
        writing.result(timeout=60)

    assert set(seen) <= set(versions)
    assert bucket.get("a", max_bytes=50_000) == versions[-1]
