"""Checkpoints of the network, as somebody fetches them who joins a run or has lost its way."""

from __future__ import annotations

import hashlib
import heapq
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

from templar_pl.errors import (
    CheckpointError,
    DocumentError,
    Fault,
    ObjectMissingError,
    OversizedError,
    StoreError,
    TemplarError,
    TransientError,
)
from templar_pl.exchange.checkpoint_files import check_sizes, load_checkpoint
from templar_pl.exchange.disk import explained
from templar_pl.exchange.large_objects import FileDigest, LargeReader, open_source
from templar_pl.exchange.store import BucketReader
from templar_pl.protocol.checkpoint import (
    CHECKPOINT_FILE,
    MAX_CHECKPOINT_BYTES,
    MAX_LATEST_BYTES,
    OPTIMIZER_FILE,
    Checkpoint,
    Latest,
    decode_checkpoint,
    decode_latest,
)
from templar_pl.protocol.keys import checkpoint_keys, checkpoint_prefix, latest_key
from templar_pl.protocol.model_state import ModelState
from templar_pl.protocol.signing import Verify
from templar_pl.units import Window

log = logging.getLogger(__name__)


class CheckpointReader(BucketReader, LargeReader, Protocol):
    """A bucket that files may be fetched from."""


@dataclass(frozen=True, slots=True)
class Source:
    """Whose checkpoints are fetched."""

    name: str
    """Of the peer, for messages."""

    public_key: bytes
    """32 bytes: only what this hotkey signed counts."""

    bucket: CheckpointReader


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a checkpoint must be of."""

    run: str
    digest: bytes
    """32 bytes: of the settings and parameter shapes that all nodes share."""

    start_window: Window
    state: ModelState
    """The model that it shall be loaded into; without an optimizer only the parameters are fetched."""

    verify: Verify

    accept: Callable[[Checkpoint], None] = lambda _: None
    """Asked about each checkpoint before its files are fetched; raises `CheckpointError` to pass one over."""

    since: Window = Window(0)  # noqa: RUF009 - a number
    until: Window | None = None
    """Windows of the oldest and the newest checkpoint that are tried; None for no newest."""

    def is_of(self, window: Window) -> bool:
        """Whether a checkpoint of this window is one to try."""
        return self.since <= window and (self.until is None or window <= self.until)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A checkpoint on the own disk."""

    checkpoint: Checkpoint
    folder: Path
    """With its files; see `load_checkpoint`."""

    passed_over: dict[str, TemplarError]
    """Why a newer one was not taken, by the key of what was wrong."""

    def discard(self) -> None:
        """Delete the files. Raises `StoreError`."""
        with explained("delete", self.folder):
            shutil.rmtree(self.folder, ignore_errors=False)


def fetch_latest(source: Source, wanted: Wanted, folder: Path, *, max_tries: int = 5) -> Fetched:
    """Fetch the newest checkpoint of a peer whose files are what it says.

    What is in already, also from an earlier life of this process, is not fetched again; files of checkpoints that are
    not the newest any more are deleted.

    Args:
        source: the peer.
        wanted: what it must be of.
        folder: for the files, of this process alone; made if there is none.
        max_tries: checkpoints that are tried at most, at least 1, the newest first.

    Raises:
        CheckpointError: there is none that can be used; all that were tried are named, each with its reason. The fault
            is that of the newest, MISSING if there is none.
        TransientError: the store fails for a while, for which none is passed over: what is in stays for the next call.
    """
    return _first_good(source, wanted, folder, max_tries, lambda _: None)


def latest_window(source: Source, wanted: Wanted) -> Window | None:
    """Return which checkpoint a peer names as its newest, which may not be usable; None if it names none.

    Raises:
        StoreError: the store failed.
    """
    try:
        return read_latest(source, wanted).window
    except (ObjectMissingError, OversizedError, DocumentError):
        return None


def load_latest(source: Source, wanted: Wanted, folder: Path, *, max_tries: int = 5) -> Fetched:
    """Fetch the newest checkpoint of a peer that can be loaded, and load it into the model of `wanted`.

    See `fetch_latest` and `load_checkpoint`. The model is touched only by the one that is taken.

    Raises:
        CheckpointError: as `fetch_latest`; the model is as it was.
        TransientError: the store fails, and the same call may succeed later; the model is as it was.
        OutOfSyncError: as `load_checkpoint`: the model must not be used.
    """
    return _first_good(
        source,
        wanted,
        folder,
        max_tries,
        lambda found: load_checkpoint(found.folder, found.checkpoint, wanted.state),
    )


def checkpoint_windows(source: Source, run: str) -> list[Window]:
    """Return the windows of which a peer has complete checkpoints, ascending. Raises `StoreError`."""
    keys = checkpoint_keys(run, CHECKPOINT_FILE)
    listed = (keys.window_of(key) for key in source.bucket.list(checkpoint_prefix(run)))
    return sorted(window for window in listed if window is not None)


def fetch_checkpoint(source: Source, wanted: Wanted, window: Window, folder: Path) -> Fetched:
    """Fetch the checkpoint of a peer that stands before one window, as `fetch_latest` does the newest.

    Raises:
        ObjectMissingError: there is none of this window, or one of its files is missing.
        DocumentError: what says what it is, is not signed by this peer, or is no such document.
        CheckpointError: it is of another run, window or layout, or of sizes that cannot be.
        StoreError: a file is not what the checkpoint says, or store or disk failed.
    """
    checkpoint = _read_checkpoint(source, wanted, window, None)
    check_sizes(checkpoint, wanted.state)
    found = Fetched(checkpoint, _make_room(folder, window), {})
    _fetch_files(source, found, wanted.state)
    return found


def _first_good(
    source: Source, wanted: Wanted, folder: Path, max_tries: int, use: Callable[[Fetched], None]
) -> Fetched:
    """Return the newest checkpoint that can be used. Raises as `load_latest`."""
    passed_over: dict[str, TemplarError] = {}
    for window, sha256 in islice(_candidates(source, wanted, passed_over, max_tries), max_tries):
        key = checkpoint_keys(wanted.run, CHECKPOINT_FILE).key(window)
        try:
            checkpoint = _read_checkpoint(source, wanted, window, sha256)
            check_sizes(checkpoint, wanted.state)
            wanted.accept(checkpoint)
            found = Fetched(checkpoint, _make_room(folder, window), passed_over)
            _fetch_files(source, found, wanted.state)
            use(found)
        except TransientError:
            raise
        except (CheckpointError, DocumentError, StoreError) as error:
            log.warning("%s of %s cannot be used: %s", key, source.name, error)
            passed_over[key] = error
        else:
            return found
    raise _none_left(source, wanted, passed_over)


def _candidates(
    source: Source, wanted: Wanted, passed_over: dict[str, TemplarError], max_tries: int
) -> Iterator[tuple[Window, bytes | None]]:
    """Yield windows, the newest first, and the hash of what is said of it, if known; list only if that is needed."""
    newest: Window | None = None
    key = latest_key(wanted.run)
    try:
        latest = read_latest(source, wanted)
        newest = latest.window
    except TransientError:
        raise
    except (DocumentError, StoreError) as error:
        passed_over[key] = error
    else:
        if wanted.is_of(newest):
            yield newest, latest.sha256
        else:
            asked = f"{wanted.since}..{'' if wanted.until is None else wanted.until}"
            reason = f"the newest is of window {newest}, wanted is one of {asked}"
            passed_over[key] = CheckpointError(reason, fault=Fault.WINDOW)
    try:
        # One that is newer than the newest complete one is on its way.
        complete = [w for w in checkpoint_windows(source, wanted.run) if newest is None or w < newest]
        older = [window for window in complete if wanted.is_of(window)]
    except TransientError:
        raise
    except StoreError as error:
        passed_over[checkpoint_prefix(wanted.run)] = error
        return
    for window in heapq.nlargest(max_tries, older):
        yield window, None


def read_latest(source: Source, wanted: Wanted) -> Latest:
    """Return which checkpoint is the newest. Raises `DocumentError` or `StoreError`."""
    data = source.bucket.get(latest_key(wanted.run), max_bytes=MAX_LATEST_BYTES)
    public_key, latest = decode_latest(data, wanted.verify)
    _check_sender(public_key, source)
    if latest.run != wanted.run:
        raise DocumentError(f"it is of run {latest.run!r}, not {wanted.run!r}", fault=Fault.RUN)
    return latest


def _read_checkpoint(source: Source, wanted: Wanted, window: Window, sha256: bytes | None) -> Checkpoint:
    """Return what a checkpoint is. Raises `DocumentError`, `CheckpointError` or `StoreError`."""
    key = checkpoint_keys(wanted.run, CHECKPOINT_FILE).key(window)
    data = source.bucket.get(key, max_bytes=MAX_CHECKPOINT_BYTES)
    if sha256 is not None and (found := hashlib.sha256(data).digest()) != sha256:
        raise CheckpointError(f"it has sha256 {found.hex()}, named was {sha256.hex()}", fault=Fault.HASH)
    public_key, checkpoint = decode_checkpoint(data, wanted.verify)
    _check_sender(public_key, source)
    if (checkpoint.run, checkpoint.digest) != (wanted.run, wanted.digest):
        raise CheckpointError("it is of another run, or of other settings or parameter shapes", fault=Fault.RUN)
    if (checkpoint.window, checkpoint.start_window) != (window, wanted.start_window):
        raise CheckpointError(
            f"it is of window {checkpoint.window} of a run that began with {checkpoint.start_window}, must be of "
            f"window {window} of one that began with {wanted.start_window}",
            fault=Fault.WINDOW,
        )
    return checkpoint


def _check_sender(public_key: bytes, source: Source) -> None:
    if public_key != source.public_key:
        reason = f"it must be signed by {source.public_key.hex()}, it is by {public_key.hex()}"
        raise DocumentError(reason, fault=Fault.SENDER)


def _make_room(folder: Path, window: Window) -> Path:
    """Return the folder of a checkpoint, and delete those of others. Raises `StoreError`."""
    place = folder / f"{window:09d}"
    with explained("write", place):
        place.mkdir(parents=True, exist_ok=True)
        for other in folder.glob("[0-9]" * 9):
            if other != place:
                shutil.rmtree(other)
    return place


def _fetch_files(source: Source, found: Fetched, state: ModelState) -> None:
    for name, file in found.checkpoint.files.items():
        path, expected = found.folder / name, FileDigest(file.size, file.sha256)
        is_needed = name != OPTIMIZER_FILE or state.optimizer is not None
        if is_needed and not _is_there(path, expected):
            source.bucket.get_file(file.key, path, expected)


def _is_there(path: Path, expected: FileDigest) -> bool:
    with explained("read", path):
        if not path.exists() or path.stat().st_size != expected.size:
            return False
        with open_source(path) as source:
            return source.digest() == expected


def _none_left(source: Source, wanted: Wanted, passed_over: dict[str, TemplarError]) -> CheckpointError:
    reasons = "".join(f"\n- {key}: {error}" for key, error in passed_over.items())
    faults = [_fault(error) for key, error in passed_over.items() if key != latest_key(wanted.run)]
    fault = faults[0] if faults else Fault.MISSING
    return CheckpointError(f"no checkpoint of run {wanted.run} by {source.name} can be used:{reasons}", fault=fault)


def _fault(error: TemplarError) -> Fault:
    if isinstance(error, CheckpointError | DocumentError):
        return error.fault
    return Fault.MISSING if isinstance(error, ObjectMissingError) else Fault.CONTENT
