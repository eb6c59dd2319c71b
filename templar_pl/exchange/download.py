"""A file that comes in parts, in any order and over several lives of the process.

    <path>.part       the bytes, at their places
    <path>.part.log   what is expected, then the start of each part that is in; a torn last line counts for nothing
    <path>            only when all parts are in and their hash is right

The log is trusted no further than to save time: a wrong one, as after a power cut, is found out by the hash.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from templar_pl.errors import StoreError
from templar_pl.exchange.disk import explained, sync_folder
from templar_pl.exchange.large_objects import FileDigest, part_ranges

_BLOCK_BYTES = 2**18


class Download:
    """One file under way; opened by `open_download`."""

    def __init__(self, path: Path, expected: FileDigest, ranges: list[tuple[int, int]], files: tuple[int, int]) -> None:
        """Store the open files.

        Args:
            path: final name.
            expected: size and hash.
            ranges: (start, length) of the parts that are not in yet.
            files: descriptors of the bytes and of the log.
        """
        self._path, self._expected, self._missing = path, expected, ranges
        self._bytes, self._log = files

    @property
    def missing(self) -> list[tuple[int, int]]:
        """(start, length) of the parts that were not in when the download was opened."""
        return self._missing

    def write(self, start: int, data: bytes) -> None:
        """Keep one part; may be called by several threads for different parts."""
        with explained("write", self._path):
            view = memoryview(data)
            while view:
                written = os.pwrite(self._bytes, view, start)
                view, start = view[written:], start + written
            os.write(self._log, f"{start - len(data)}\n".encode())

    def finish(self) -> None:
        """Give the file its name, if it holds what was expected; else forget everything.

        Raises:
            StoreError: the content is wrong, or the disk fails.
        """
        with explained("read", self._path):
            found = self._sha256()
        if found != self._expected.sha256:
            self._forget()
            raise StoreError(
                f"what was fetched for {self._path} has sha256 {found.hex()}, must have {self._expected.sha256.hex()}; "
                "it was thrown away"
            )
        with explained("write", self._path):
            os.fsync(self._bytes)
            _part(self._path).replace(self._path)
            _log(self._path).unlink(missing_ok=True)
            sync_folder(self._path.parent)

    def _sha256(self) -> bytes:
        sha256 = hashlib.sha256()
        for start, length in part_ranges(self._expected.size, _BLOCK_BYTES, self._expected.size + 1):
            sha256.update(os.pread(self._bytes, length, start))
        return sha256.digest()

    def _forget(self) -> None:
        for name in (_log(self._path), _part(self._path)):
            name.unlink(missing_ok=True)


@contextmanager
def open_download(path: Path, expected: FileDigest, ranges: list[tuple[int, int]]) -> Iterator[Download]:
    """Begin a download, or go on with an earlier one of the same content and cut.

    Args:
        path: final name.
        expected: size and hash.
        ranges: (start, length) of all parts.

    Raises:
        StoreError: the disk fails or is too full for the file, or another process is at it.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    with explained("write", path):
        content = os.open(_part(path), flags, 0o666)
    try:
        _lock(content, path)
        with explained("write", path):
            log = os.open(_log(path), flags | os.O_APPEND, 0o666)
        try:
            with explained("write", path):
                done = _resume(content, log, expected, ranges)
            missing = [(start, length) for start, length in ranges if start not in done]
            yield Download(path, expected, missing, (content, log))
        finally:
            os.close(log)
    finally:
        os.close(content)


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StoreError(f"another process is fetching {path}") from error


def _resume(content: int, log: int, expected: FileDigest, ranges: list[tuple[int, int]]) -> set[int]:
    """Return the starts of the parts that are in; begin anew if the log is that of something else."""
    part_bytes = ranges[0][1] if ranges else 0
    head = f"{expected.size} {expected.sha256.hex()} {part_bytes}\n".encode()
    written = os.pread(log, os.fstat(log).st_size, 0)
    if written.startswith(head) and os.fstat(content).st_size == expected.size:
        return {int(line) for line in written[len(head) :].split(b"\n")[:-1] if line.isdigit()}
    os.ftruncate(log, 0)
    os.ftruncate(content, 0)
    if expected.size:
        os.posix_fallocate(content, 0, expected.size)  # a disk that is too full says so now
    os.write(log, head)
    return set()


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _log(path: Path) -> Path:
    return path.with_name(f"{path.name}.part.log")
