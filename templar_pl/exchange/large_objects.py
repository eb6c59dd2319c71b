"""Objects that do not fit into memory, such as checkpoints: from a file into a bucket, and back into a file."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from templar_pl.errors import StoreError

T = TypeVar("T")
R = TypeVar("R")

_BLOCK_BYTES = 2**18


@dataclass(frozen=True, slots=True)
class FileDigest:
    """What a file holds, in as few words as it can be told by."""

    size: int
    """Bytes of the file."""

    sha256: bytes
    """32 bytes."""


class LargeReader(Protocol):
    """A bucket that files may be fetched from."""

    def get_file(self, key: str, path: Path, expected: FileDigest) -> None:
        """Fetch an object into a file, which gets its name only when its content is known to be right.

        After an error, or the end of the process, the parts that are in stay beside `path`; the next call for the
        same content fetches the others.

        Args:
            key: of the object.
            path: the file; replaced if it exists. Its folder must exist.
            expected: size and hash, from whoever announced the object.

        Raises:
            ObjectMissingError: there is no object under this key.
            StoreError: the object has another size or content (nothing is kept then), the store failed, the disk is
                full, or another process fetches the same file.
        """
        ...


class LargeBucket(LargeReader, Protocol):
    """A bucket that files may be put into."""

    def put_file(self, key: str, path: Path) -> FileDigest:
        """Write an object from a file, in place of what was there; return what it holds.

        Raises:
            OSError: the file cannot be read.
            StoreError: the store failed, or the file was changed meanwhile. The object is then as it was before.
        """
        ...


def part_ranges(size: int, part_bytes: int, max_parts: int) -> list[tuple[int, int]]:
    """Cut `size` bytes into parts: (start, length) of each, all of one length but the last.

    `part_bytes` is doubled until there are at most `max_parts` of them. No bytes are no parts.
    """
    while math.ceil(size / part_bytes) > max_parts:
        part_bytes *= 2
    return [(start, min(part_bytes, size - start)) for start in range(0, size, part_bytes)]


def in_parallel(call: Callable[[T], R], items: Sequence[T], num_threads: int) -> list[R]:
    """Call for every item, several at a time, and return the results in order.

    The first error stops what has not begun, waits for what has, and rises.
    """
    with ThreadPoolExecutor(num_threads, thread_name_prefix="parts") as pool:
        futures = [pool.submit(call, item) for item in items]
        try:
            for done in as_completed(futures):
                done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return [future.result() for future in futures]


@contextmanager
def open_source(path: Path) -> Iterator[SourceFile]:
    """Open a file that is to be put. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield SourceFile(path, descriptor)
    finally:
        os.close(descriptor)


class SourceFile:
    """A file that is read by several threads, and must not change meanwhile."""

    def __init__(self, path: Path, descriptor: int) -> None:
        """Store an open file.

        Args:
            path: its name, for messages.
            descriptor: of the file, open for reading.
        """
        self._path, self._descriptor = path, descriptor
        self._before = os.fstat(descriptor)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._before.st_size

    def digest(self) -> FileDigest:
        """Hash the whole file."""
        sha256 = hashlib.sha256()
        for block in self.blocks():
            sha256.update(block)
        return FileDigest(self.size, sha256.digest())

    def blocks(self) -> Iterator[bytes]:
        """Read the whole file, block by block; the last step sees that it did not change meanwhile."""
        for start, length in part_ranges(self.size, _BLOCK_BYTES, self.size + 1):
            yield self.read(start, length)
        self.check_unchanged()

    def read(self, start: int, length: int) -> bytes:
        """Read a part. Raises `StoreError` if the file has become shorter."""
        data = os.pread(self._descriptor, length, start)
        while 0 < len(data) < length and (more := os.pread(self._descriptor, length - len(data), start + len(data))):
            data += more
        if len(data) != length:
            raise self._changed()
        return data

    def check_unchanged(self) -> None:
        """Raise `StoreError` if the file was written to since it was opened."""
        now = os.fstat(self._descriptor)
        if (now.st_size, now.st_mtime_ns) != (self._before.st_size, self._before.st_mtime_ns):
            raise self._changed()

    def _changed(self) -> StoreError:
        return StoreError(f"{self._path} was changed while it was being put: put it again when it is complete")
