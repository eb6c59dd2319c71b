"""A snapshot on its way into the own bucket: what is hashed, signed, uploaded, named and deleted, in this order."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Protocol, Self

from templar_pl.errors import (
    CheckpointError,
    DocumentError,
    Fault,
    ObjectMissingError,
    OversizedError,
    StoreError,
)
from templar_pl.exchange.checkpoint_files import digests, inspect
from templar_pl.exchange.disk import explained
from templar_pl.exchange.large_objects import FileDigest, LargeBucket
from templar_pl.exchange.store import Bucket
from templar_pl.exchange.window_values import Identity
from templar_pl.protocol.checkpoint import (
    CHECKPOINT_FILE,
    MAX_CHECKPOINT_BYTES,
    MAX_LATEST_BYTES,
    MODEL_FILE,
    OPTIMIZER_FILE,
    Checkpoint,
    Latest,
    decode_checkpoint,
    decode_latest,
    encode_checkpoint,
    encode_latest,
)
from templar_pl.protocol.document import JsonMap
from templar_pl.protocol.keys import checkpoint_keys, checkpoint_prefix, latest_key
from templar_pl.protocol.run_file import StoredFile
from templar_pl.protocol.signing import Signer, Verify
from templar_pl.units import Window

log = logging.getLogger(__name__)

_NAMES = (CHECKPOINT_FILE, MODEL_FILE, OPTIMIZER_FILE)  # in this order they are deleted: what names others goes first


class CheckpointBucket(Bucket, LargeBucket, Protocol):
    """The own bucket, which takes files too."""


@dataclass(frozen=True, slots=True)
class Author:
    """Who publishes checkpoints of which run."""

    run: str
    """Name of the run, the first part of all its keys."""

    digest: bytes
    """32 bytes: of the settings and parameter shapes that all nodes share."""

    version: str
    """Of the package."""

    signer: Signer
    verify: Verify

    @classmethod
    def of(cls, identity: Identity) -> Self:
        """Return a node of a run as an author, with the version of this package that is installed."""
        return cls(identity.run, identity.digest, version("templar_pl"), identity.signer, identity.verify)


@dataclass(frozen=True, slots=True)
class Moment:
    """When a model is between two windows."""

    window: Window
    """The next to be applied."""

    applied: int
    """Windows applied; 0..window."""

    tokens: int | None = None
    """Tokens that all nodes trained on so far; None if it is not known."""


def publish_snapshot(
    bucket: CheckpointBucket, author: Author, folder: Path, moment: Moment, description: JsonMap | None
) -> Checkpoint:
    """Hash, sign and upload a snapshot.

    Args:
        bucket: the own bucket.
        author: who signs.
        folder: with the files of `write_snapshot`.
        moment: when they were written.
        description: what `describe` said then.

    Returns:
        What is in the bucket now; see `publish_sealed`.

    Raises:
        CheckpointError: a number is not finite, or the optimizer's state is too large for a document.
        StoreError: disk or store failed.
    """
    checkpoint = _checkpoint_of(folder, author, moment, description)
    try:
        data = encode_checkpoint(checkpoint, author.signer)
    except ValueError as error:
        raise CheckpointError(f"it cannot be described: {error}", fault=Fault.SIZE) from error
    part = folder / f"{CHECKPOINT_FILE}.part"
    with explained("write", part):
        part.write_bytes(data)
        part.replace(folder / CHECKPOINT_FILE)
    return publish_sealed(bucket, author, folder)


def publish_sealed(bucket: CheckpointBucket, author: Author, folder: Path) -> Checkpoint:
    """Upload a snapshot that is hashed and signed, then name it as the newest, if none is newer.

    What is published once is never changed, since others may be reading it: a complete checkpoint of the same window in
    the bucket stands.

    Returns:
        What is in the bucket now.

    Raises:
        DocumentError: what lies in the folder is not signed by this author for this run.
        StoreError: disk or store failed, or the snapshot was changed.
    """
    with explained("read", folder):
        data = (folder / CHECKPOINT_FILE).read_bytes()
    checkpoint = _own(data, author)
    key = checkpoint_keys(author.run, CHECKPOINT_FILE).key(checkpoint.window)
    existing = _complete(bucket, author, key)
    if existing is None:
        for name, file in checkpoint.files.items():
            if bucket.put_file(file.key, folder / name) != FileDigest(file.size, file.sha256):
                raise StoreError(f"{folder / name} was changed after it was signed")
        bucket.put(key, data)
    else:
        data, checkpoint = existing
        log.info("window %d: a checkpoint was published before; it stands", checkpoint.window)
    _name_latest(bucket, author, Latest(author.run, checkpoint.window, hashlib.sha256(data).digest()))
    return checkpoint


def delete_old(bucket: Bucket, author: Author, keep: int, start_window: Window) -> list[Window]:
    """Delete all checkpoints but the newest, and what is left of uploads before them; return their windows.

    Args:
        bucket: the own bucket.
        author: whose checkpoints.
        keep: newest complete ones that stay, at least 1.
        start_window: the first window of the run, whose checkpoint stays too, as does the one `latest.json` names.

    Raises:
        StoreError: the store failed; what was not deleted then is the next time.
    """
    found: dict[str, set[Window]] = {name: set() for name in _NAMES}
    for key in bucket.list(checkpoint_prefix(author.run)):
        for name in _NAMES:
            if (window := checkpoint_keys(author.run, name).window_of(key)) is not None:
                found[name].add(window)
    complete = sorted(found[CHECKPOINT_FILE])
    latest = _latest(bucket, author)
    kept = {*complete[-keep:], start_window, *([latest.window] if latest else [])}
    stale = sorted(w for w in set().union(*found.values()) - kept if complete and w < complete[-1])
    for name in _NAMES:
        if windows := found[name].intersection(stale):
            bucket.delete([checkpoint_keys(author.run, name).key(window) for window in sorted(windows)])
    return stale


def _checkpoint_of(folder: Path, author: Author, moment: Moment, description: JsonMap | None) -> Checkpoint:
    """Return what is to be signed of a snapshot. Raises as `inspect`."""
    fingerprint, layout = inspect(folder)
    stored = {name: _stored(author.run, moment.window, name, digest) for name, digest in digests(folder).items()}
    return Checkpoint(
        run=author.run,
        digest=author.digest,
        window=moment.window,
        applied=moment.applied,
        fingerprint=fingerprint,
        layout=layout,
        version=author.version,
        model=stored[MODEL_FILE],
        optimizer=stored.get(OPTIMIZER_FILE),
        state=description,
        tokens=moment.tokens,
    )


def _stored(run: str, window: Window, name: str, digest: FileDigest) -> StoredFile:
    return StoredFile(key=checkpoint_keys(run, name).key(window), sha256=digest.sha256, size=digest.size)


def _own(data: bytes, author: Author) -> Checkpoint:
    """Read a checkpoint of this author. Raises `DocumentError`."""
    public_key, checkpoint = decode_checkpoint(data, author.verify)
    if (public_key, checkpoint.run, checkpoint.digest) != (author.signer.public_key, author.run, author.digest):
        raise DocumentError("it is of another hotkey or run", fault=Fault.SENDER)
    return checkpoint


def _complete(bucket: CheckpointBucket, author: Author, key: str) -> tuple[bytes, Checkpoint] | None:
    """Return the checkpoint under a key and its bytes, None if it is not there, not ours, or lacks a file."""
    try:
        data = bucket.get(key, max_bytes=MAX_CHECKPOINT_BYTES)
        checkpoint = _own(data, author)
        sizes_fit = all(bucket.head(file.key).size == file.size for file in checkpoint.files.values())
    except (ObjectMissingError, OversizedError, DocumentError):
        return None
    return (data, checkpoint) if sizes_fit else None


def _latest(bucket: Bucket, author: Author) -> Latest | None:
    """Return what the bucket names as the newest; None if nothing of ours does."""
    try:
        public_key, latest = decode_latest(
            bucket.get(latest_key(author.run), max_bytes=MAX_LATEST_BYTES), author.verify
        )
    except (ObjectMissingError, OversizedError, DocumentError):
        return None
    return latest if (public_key, latest.run) == (author.signer.public_key, author.run) else None


def _name_latest(bucket: Bucket, author: Author, latest: Latest) -> None:
    named = _latest(bucket, author)
    if named is None or (named.window <= latest.window and named != latest):
        bucket.put(latest_key(author.run), encode_latest(latest, author.signer))
