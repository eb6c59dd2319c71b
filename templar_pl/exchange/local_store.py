"""Buckets that are folders: one machine, or several that mount one disk.

    <root>/<address>/<key>              an object
    <root>/<address>/.incoming/<name>   one being written; keys cannot start with a dot, so it is never listed

An object is written aside, forced to disk and only then given its name, so that a reader sees it whole or not at all
and a crash at any moment leaves at most a file in `.incoming`, which later puts sweep away. Symbolic links below the
root are refused: a bucket must not lead out of it.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from uuid import uuid4

from templar_pl.errors import ObjectMissingError, OversizedError, StoreError
from templar_pl.exchange.disk import explained, sync_folder
from templar_pl.exchange.download import open_download
from templar_pl.exchange.large_objects import FileDigest, SourceFile, open_source, part_ranges
from templar_pl.exchange.store import ObjectInfo, check_key, check_prefix, is_segment

LEFTOVER_AGE_S = 900.0
"""Seconds after which a file in `.incoming` is taken for that of a killed process: no put takes that long."""

_PART_BYTES = 2**19
_INCOMING = ".incoming"
_PLACE_TRIES = 5  # each try loses only to a delete that empties the very folder at that moment


class LocalBuckets:
    """All buckets below one folder.

    Args:
        root: folder that holds the buckets; made by the first put.
        address: name of the own bucket, such as the hotkey; one segment of a key.

    Raises:
        ValueError: the own address is malformed.
    """

    def __init__(self, root: Path, address: str) -> None:
        self._root = root
        self._own = LocalBucket(root, address)

    def own(self) -> LocalBucket:
        """Return the bucket of this node."""
        return self._own

    def of(self, address: str) -> LocalReader:
        """Return the bucket of a peer. Raises `StoreError` for a malformed address."""
        try:
            return LocalReader(self._root, address)
        except ValueError as error:
            raise StoreError(f"a peer cannot be reached: {error}") from error


class LocalReader:
    """A folder that is read and never written."""

    def __init__(self, root: Path, address: str) -> None:
        if not is_segment(address):
            raise ValueError(
                f"a bucket's address must be letters, digits, '.', '_' and '-', no dot first, got {address[:80]!r}"
            )
        self._root, self._address = root, address

    def head(self, key: str) -> ObjectInfo:
        """Describe an object."""
        path = self._locate(key)
        with explained("look at", path), _missing_told(path):
            return _info(path, path.lstat())

    def get(self, key: str, *, max_bytes: int) -> bytes:
        """Read a whole object of at most `max_bytes`."""
        path = self._locate(key)
        with explained("read", path), _missing_told(path), _open(path) as file:
            size = _info(path, os.fstat(file.fileno())).size
            if size > max_bytes:
                raise OversizedError(f"{path} holds {size} bytes, and no more than {max_bytes} are allowed")
            data = _read_exactly(file.read, size)
        if len(data) != size:
            raise StoreError(f"{path} ended after {len(data)} of {size} bytes: it was changed while it was read")
        return data

    def get_file(self, key: str, path: Path, expected: FileDigest) -> None:
        """Copy an object into a file; a later call goes on where this one ended."""
        origin = self._locate(key)
        with explained("read", origin), _missing_told(origin), _open(origin) as file:
            source = SourceFile(origin, file.fileno())
            size = _info(origin, os.fstat(file.fileno())).size
            if size != expected.size:
                raise StoreError(f"{origin} holds {size} bytes, must hold {expected.size}")
            with open_download(path, expected, part_ranges(size, _PART_BYTES, size + 1)) as download:
                for start, length in download.missing:
                    download.write(start, source.read(start, length))
                download.finish()

    def list(self, prefix: str) -> Iterator[str]:
        """Name the objects under a prefix, in ascending order."""
        check_prefix(prefix)
        folder = self._inside(prefix.rpartition("/")[0])
        with explained("list", folder):
            return iter(sorted(key for key in self._walk(folder) if key.startswith(prefix)))

    def _walk(self, folder: Path) -> Iterator[str]:
        """Yield the keys below a folder, in any order."""
        base = self._folder()
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
            for entry in entries:
                if not is_segment(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    yield from self._walk(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    yield Path(entry.path).relative_to(base).as_posix()

    def _folder(self) -> Path:
        # Resolved anew each time: the root may be made, or be a link that is moved, after this object.
        return Path(os.path.realpath(self._root)) / self._address

    def _locate(self, key: str) -> Path:
        """Return the path of an object. Raises `ValueError` for the key, `StoreError` for a link on the way."""
        check_key(key)
        parent, _, name = key.rpartition("/")
        return self._inside(parent) / name

    def _inside(self, folder: str) -> Path:
        """Return the path of a folder of keys. Raises `StoreError` for a link on the way."""
        path = self._folder() / folder
        if os.path.realpath(path) != str(path):
            raise StoreError(f"{path} is behind a symbolic link; links are not followed below {self._root}")
        return path


class LocalBucket(LocalReader):
    """The folder that is ours to write."""

    def put(self, key: str, data: bytes) -> None:
        """Write an object, in place of what was there."""
        self._write(key, [data], _place)

    def put_once(self, key: str, data: bytes) -> bool:
        """Write an object unless there is one; return whether this call wrote it."""
        return self._write(key, [data], _place_once)

    def put_file(self, key: str, path: Path) -> FileDigest:
        """Write an object from a file, in place of what was there; return what it holds."""
        with open_source(path) as source:
            digest = source.digest()
            self._write(key, source.blocks(), _place)
            return digest

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, and the folders that are empty then."""
        top = self._folder()
        for key in keys:
            path = self._locate(key)
            with explained("delete", path), suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
                _prune(path.parent, top)

    def _write(self, key: str, blocks: Iterable[bytes], place: Callable[[Path, Path], bool]) -> bool:
        path = self._locate(key)
        incoming = self._folder() / _INCOMING
        with explained("write", path):
            _make_folder(incoming)
            _sweep(incoming)
            temporary = incoming / uuid4().hex
            try:
                _write_aside(temporary, blocks)
                is_placed = _give_name(temporary, path, place)
            finally:
                temporary.unlink(missing_ok=True)
            return is_placed


def _info(path: Path, status: os.stat_result) -> ObjectInfo:
    """Turn a file's status into an object's, if it is a plain file."""
    if stat.S_ISLNK(status.st_mode):
        raise StoreError(f"{path} is a symbolic link; links are not followed inside a bucket")
    if not stat.S_ISREG(status.st_mode):
        raise ObjectMissingError(f"no object at {path}", answered_at=time.time())
    return ObjectInfo(status.st_size, status.st_mtime_ns / 1e9, time.time())


def _open(path: Path) -> FileIO:
    """Open a file without following a link, and without waiting if it is a pipe that somebody left there."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return FileIO(path, "rb", opener=lambda name, _: os.open(name, flags))


def _read_exactly(read: Callable[[int], bytes | None], size: int) -> bytes:
    """Read up to `size` bytes; one call of the system hands over 2 GiB at most."""
    parts: list[bytes] = []
    left = size
    while left and (part := read(left)):
        parts.append(part)
        left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _write_aside(temporary: Path, blocks: Iterable[bytes]) -> None:
    """Write a file and force it to disk, with the time of this clock.

    The kernel stamps files with a coarse clock, up to 10 ms behind the one payloads are timed by.
    """
    with temporary.open("xb") as file:
        file.writelines(blocks)
        file.flush()
        now = time.time_ns()
        os.utime(temporary, ns=(now, now))
        os.fsync(file.fileno())


def _give_name(temporary: Path, path: Path, place: Callable[[Path, Path], bool]) -> bool:
    """Put a written file where it belongs and force its name to disk; return whether it was put there."""
    for tries in range(1, _PLACE_TRIES + 1):
        _make_folder(path.parent)
        try:
            is_placed = place(temporary, path)
            sync_folder(path.parent)
        except FileNotFoundError:  # a delete took the empty folder away
            if tries == _PLACE_TRIES:
                raise
        else:
            return is_placed
    raise AssertionError("unreachable: the last try returns or raises")


def _place(temporary: Path, path: Path) -> bool:
    temporary.replace(path)
    return True


def _place_once(temporary: Path, path: Path) -> bool:
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        if path.is_dir():
            raise
        return False
    return True


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, each one's name forced to disk."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def _prune(folder: Path, top: Path) -> None:
    """Remove empty folders upwards, below `top`."""
    with suppress(OSError):  # not empty, or gone already: either way there is nothing left to tidy
        while folder != top:
            folder.rmdir()
            folder = folder.parent


def _sweep(incoming: Path) -> None:
    """Remove what killed processes left behind."""
    oldest = time.time() - LEFTOVER_AGE_S
    with os.scandir(incoming) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.stat(follow_symlinks=False).st_mtime < oldest:
                    Path(entry.path).unlink()


@contextmanager
def _missing_told(path: Path) -> Iterator[None]:
    """Tell an absent file from every other failure."""
    asked_at = time.time()  # not later: the file may come between the look and the answer
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ObjectMissingError(f"no object at {path}", answered_at=asked_at) from error
