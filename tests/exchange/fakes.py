"""Stores for tests: one in memory, and one that does wrong on demand around any other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from templar_pl.errors import ObjectMissingError, OversizedError, StoreError
from templar_pl.exchange.store import Bucket, BucketReader, ObjectInfo, check_key, check_prefix, is_segment


@dataclass
class MemoryDisk:
    """What all buckets of a test share: {address: {key: (data, UTC seconds)}}."""

    objects: dict[str, dict[str, tuple[bytes, float]]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


class MemoryBuckets:
    def __init__(self, disk: MemoryDisk, address: str, clock: Callable[[], float] = time.time) -> None:
        self._disk, self._clock, self._own = disk, clock, MemoryBucket(disk, address, clock)

    def own(self) -> MemoryBucket:
        return self._own

    def of(self, address: str) -> BucketReader:
        if not is_segment(address):
            raise StoreError(f"malformed address {address[:80]!r}")
        return MemoryBucket(self._disk, address, self._clock)


class MemoryBucket:
    def __init__(self, disk: MemoryDisk, address: str, clock: Callable[[], float] = time.time) -> None:
        self._disk, self._address, self._clock = disk, address, clock

    def head(self, key: str) -> ObjectInfo:
        data, modified = self._find(key)
        return ObjectInfo(len(data), modified, self._clock())

    def get(self, key: str, *, max_bytes: int) -> bytes:
        data, _ = self._find(key)
        if len(data) > max_bytes:
            raise OversizedError(f"{key} holds {len(data)} bytes, more than {max_bytes}")
        return data

    def list(self, prefix: str) -> Iterator[str]:
        check_prefix(prefix)
        with self._disk.lock:
            return iter(sorted(key for key in self._objects() if key.startswith(prefix)))

    def put(self, key: str, data: bytes) -> None:
        check_key(key)
        with self._disk.lock:
            self._objects()[key] = (data, self._clock())

    def put_once(self, key: str, data: bytes) -> bool:
        check_key(key)
        with self._disk.lock:
            if key in self._objects():
                return False
            self._objects()[key] = (data, self._clock())
            return True

    def delete(self, keys: Iterable[str]) -> None:
        with self._disk.lock:
            for key in keys:
                check_key(key)
                self._objects().pop(key, None)

    def _objects(self) -> dict[str, tuple[bytes, float]]:
        return self._disk.objects.setdefault(self._address, {})

    def _find(self, key: str) -> tuple[bytes, float]:
        check_key(key)
        with self._disk.lock:
            if key not in self._objects():
                raise ObjectMissingError(f"no object {key}", answered_at=self._clock())
            return self._objects()[key]


class Scripted:
    """A bucket whose calls are watched: `before(name, key)` runs first and may raise, wait or change things."""

    def __init__(self, bucket: Bucket, before: Callable[[str, str], None]) -> None:
        self._bucket, self._before = bucket, before

    def head(self, key: str) -> ObjectInfo:
        self._before("head", key)
        return self._bucket.head(key)

    def get(self, key: str, *, max_bytes: int) -> bytes:
        self._before("get", key)
        return self._bucket.get(key, max_bytes=max_bytes)

    def list(self, prefix: str) -> Iterator[str]:
        self._before("list", prefix)
        return self._bucket.list(prefix)

    def put(self, key: str, data: bytes) -> None:
        self._before("put", key)
        self._bucket.put(key, data)

    def put_once(self, key: str, data: bytes) -> bool:
        self._before("put_once", key)
        return self._bucket.put_once(key, data)

    def delete(self, keys: Iterable[str]) -> None:
        kept = list(keys)
        self._before("delete", " ".join(kept))
        self._bucket.delete(kept)


class Calls:
    """Counts calls by name; `fail` names how many first calls of a name fail (-1: all)."""

    def __init__(self, **fail: int) -> None:
        self.names: list[str] = []
        self.times: list[float] = []
        self._fail = dict(fail)

    def __call__(self, name: str, key: str) -> None:
        self.names.append(name)
        self.times.append(time.monotonic())
        left = self._fail.get(name, 0)
        if left:
            self._fail[name] = left - 1
            raise StoreError(f"{name} {key}: 503 Slow Down")
