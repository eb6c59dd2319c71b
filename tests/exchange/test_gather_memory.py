"""What a gather holds in memory, whatever strangers put into their buckets."""

from __future__ import annotations

import gc
import time
import tracemalloc
import weakref
from pathlib import Path

from templar_pl.errors import Fault, PayloadError
from templar_pl.exchange.gather import Request, gather
from templar_pl.exchange.local_store import LocalBuckets
from templar_pl.units import Uid
from tests.exchange.fakes import Calls, MemoryBucket, MemoryDisk, Scripted
from tests.exchange.test_gather import GOOD, INTERVAL, KEY, LONG_S, WINDOW, ask, collect, filled, upper


def test_a_huge_object_costs_no_memory(tmp_path: Path) -> None:
    buckets = LocalBuckets(tmp_path, "me")
    buckets.own().put(KEY, b"")
    with (tmp_path / "me" / KEY).open("r+b") as file:
        file.truncate(5 * 2**30)  # a hole: takes no disk

    tracemalloc.start()
    try:
        gathered = gather(
            {Uid(1): ask(1, buckets.of("me"))}, decode=upper, interval=None, deadline=time.monotonic() + LONG_S
        )
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert isinstance(gathered.skipped[Uid(1)], PayloadError)
    assert gathered.bytes_down == 0
    assert peak_bytes < 2**20


def test_the_store_is_never_asked_for_more_than_the_exact_size() -> None:
    """An object that grows between HEAD and GET is not taken, and its new size is found out."""
    bucket = filled(GOOD)

    def grow(name: str, key: str) -> None:
        if name == "get":
            bucket.put(KEY, GOOD * 1000)

    gathered = collect(ask(1, Scripted(bucket, grow)))

    error = gathered.skipped[Uid(1)]
    assert isinstance(error, PayloadError)
    assert error.fault is Fault.SIZE
    assert gathered.bytes_down == 0


def test_no_more_bytes_are_held_than_were_asked_for() -> None:
    size, num_peers = 2**20, 6
    data = bytes(size)
    buckets = {uid: MemoryBucket(MemoryDisk(), "peer") for uid in range(num_peers)}
    for bucket in buckets.values():
        bucket.put(KEY, data)

    class Copying(Scripted):
        def get(self, key: str, *, max_bytes: int) -> bytes:
            return bytes(memoryview(super().get(key, max_bytes=max_bytes)))

    requests = {
        Uid(uid): Request(
            open_bucket=lambda uid=uid: Copying(buckets[uid], Calls()), key=KEY, size=size, peer=Uid(uid), window=WINDOW
        )
        for uid in buckets
    }
    tracemalloc.start()
    try:
        gathered = gather(requests, decode=lambda _, data: len(data), interval=None, deadline=time.monotonic() + LONG_S)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert set(gathered.payloads.values()) == {size}
    assert peak_bytes < (num_peers + 1) * size


def test_a_skipped_peer_keeps_nothing_of_the_others_alive() -> None:
    class Value:
        pass

    alive: list[weakref.ref[Value]] = []

    def decode(uid: Uid, data: bytes) -> Value:
        if uid == 1:
            raise PayloadError("bad", fault=Fault.FORMAT, peer=uid, window=WINDOW)
        value = Value()
        alive.append(weakref.ref(value))
        return value

    gc.disable()
    try:
        requests = {Uid(uid): ask(uid, filled(GOOD)) for uid in range(3)}
        gathered = gather(requests, decode=decode, interval=INTERVAL, deadline=time.monotonic() + LONG_S)
        skipped = gathered.skipped
        del gathered
        assert [reference() for reference in alive] == [None, None]
        assert list(skipped) == [1]
    finally:
        gc.enable()
