"""Manifests and aggregates in buckets: published by the aggregator, read by whoever follows it or catches up.

The order is manifest, aggregate, notice: each is put when what it names stands, the manifest and the notice once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from templar_pl.errors import ConfigError, DocumentError, Fault, ObjectMissingError, OversizedError
from templar_pl.exchange.disk import explained
from templar_pl.exchange.large_objects import FileDigest, LargeBucket, LargeReader
from templar_pl.exchange.store import Bucket, BucketReader
from templar_pl.protocol import (
    MAX_MANIFEST_BYTES,
    MAX_NOTICE_BYTES,
    AggregateHead,
    AggregateNotice,
    Manifest,
    Peer,
    Shapes,
    Signer,
    Verify,
    aggregate_keys,
    check_aggregate,
    decode_aggregate,
    decode_manifest,
    decode_notice,
    encode_aggregate,
    encode_manifest,
    encode_notice,
    manifest_keys,
    max_aggregate_bytes,
    notice_keys,
)
from templar_pl.units import Window

D = TypeVar("D", Manifest, AggregateNotice)

_CHUNK_BYTES = 2**17  # some blocks
_MEND = "delete it, or give the run another name"

MEND_MANIFEST = "restore it, or begin another --store.run"
"""About a damaged one: others may have applied what it was, so no other may take its place."""


class FileBucket(Bucket, LargeBucket, Protocol):
    """A bucket that is ours to write objects and files to."""


class FileReader(BucketReader, LargeReader, Protocol):
    """A bucket that objects and files may be read from."""


class FileBuckets(Protocol):
    """All the buckets of a run."""

    def of(self, address: str) -> FileReader:
        """Return the bucket a peer committed to. Raises `StoreError` if the address is malformed."""
        ...


class NodeBuckets(FileBuckets, Protocol):
    """All the buckets of a run, as a node has them."""

    def own(self) -> FileBucket:
        """Return the bucket of this node."""
        ...


@dataclass(frozen=True, slots=True)
class StandingManifest:
    """A manifest as it stands in a bucket."""

    manifest: Manifest
    public_key: bytes
    """32 bytes: the hotkey that signed it, the aggregator's."""

    sha256: bytes
    """32 bytes: of the object, what the aggregate of the window names."""

    @property
    def head(self) -> AggregateHead:
        """What the aggregate of this window says it is."""
        manifest = self.manifest
        return AggregateHead(run=manifest.run, window=manifest.window, public_key=self.public_key, manifest=self.sha256)


class AggregatePublisher:
    """Publishes what the windows of a run were; one for a hotkey at a time."""

    def __init__(self, bucket: FileBucket, run: str, folder: Path, signer: Signer, verify: Verify) -> None:
        """Store the parts.

        Args:
            bucket: the own bucket.
            run: name of the run, the first part of all its keys.
            folder: where an aggregate is written before it is put; must exist.
            signer: the own hotkey.
            verify: checks a signature.
        """
        self._bucket, self._run, self._folder = bucket, run, folder
        self._signer, self._verify = signer, verify

    def newest_manifest(self) -> Window | None:
        """Return the last window whose manifest was published, None if none was. Raises `StoreError`.

        An aggregate and its notice come after their manifest, so they tell of one that is deleted.
        """
        kinds = [keys(self._run) for keys in (manifest_keys, notice_keys, aggregate_keys)]
        found = [key for prefix in {keys.prefix for keys in kinds} for key in self._bucket.list(prefix)]
        windows = [keys.window_of(key) for keys in kinds for key in found]
        return max((window for window in windows if window is not None), default=None)

    def publish_manifest(self, manifest: Manifest) -> StandingManifest:
        """Put a manifest, unless there is one for the window; return what the bucket holds.

        What was published once is never changed, since others may have applied it: whoever calls goes on with what is
        returned, also where it says something else. After a `StoreError` it may be called again.

        Raises:
            ConfigError: what the bucket holds is no manifest of this hotkey, run and window.
            StoreError: the store failed.
        """
        key, data = manifest_keys(self._run).key(manifest.window), encode_manifest(manifest, self._signer)
        if not self._bucket.put_once(key, data):
            asked = _Asked(key, self._signer.public_key, manifest.run, manifest.window)
            data, manifest = self._standing(asked, _MANIFEST)
        return StandingManifest(manifest, self._signer.public_key, hashlib.sha256(data).digest())

    def publish_aggregate(
        self, standing: StandingManifest, update: Iterable[tuple[str, Tensor]], shapes: Shapes
    ) -> AggregateNotice:
        """Put the aggregate of a window and its notice, unless they are there; return the notice.

        After a `StoreError`, or the end of the process, it may be called again.

        Args:
            standing: the manifest of the window.
            update: as `encode_aggregate` takes it; not asked for anything if the aggregate is there.
            shapes: of all parameters.

        Raises:
            ConfigError: the bucket holds a notice that is not of this hotkey and manifest, or another process with this
                hotkey has just published the window.
            StoreError: the store failed, or the disk that the folder is on.
            ValueError: the update does not fit the shapes, or is made of other numbers than -1, 0 and 1.
        """
        head = standing.head
        key = notice_keys(self._run).key(head.window)
        try:
            _, notice = self._standing(_Asked(key, head.public_key, head.run, head.window), _NOTICE)
        except ObjectMissingError:
            digest = self._put(head, encode_aggregate(head, update, shapes, self._signer))
            notice = AggregateNotice(
                run=head.run, window=head.window, manifest=head.manifest, sha256=digest.sha256, size=digest.size
            )
            if not self._bucket.put_once(key, encode_notice(notice, self._signer)):
                reason = f"another process with this hotkey has just published {key}: stop it, and delete that object"
                raise ConfigError(reason) from None
        if notice.manifest != head.manifest:
            raise ConfigError(f"{key} in the own bucket is of another manifest than the one that stands; {_MEND}")
        return notice

    def _put(self, head: AggregateHead, pieces: Iterable[bytes]) -> FileDigest:
        """Write an aggregate to a file, and that into the bucket."""
        path = self._folder / f"{head.window:09d}.bin.outgoing"
        try:
            with explained("write", path), path.open("wb") as file:
                file.writelines(pieces)
            return self._bucket.put_file(aggregate_keys(self._run).key(head.window), path)
        finally:
            path.unlink(missing_ok=True)

    def _standing(self, asked: _Asked, kind: _Kind[D]) -> tuple[bytes, D]:
        """Return the bytes and the meaning of an own document. Raises `ConfigError` if it is not what was asked for."""
        try:
            return _read(self._bucket, asked, kind, self._verify)
        except DocumentError as error:
            raise ConfigError(f"{asked.key} in the own bucket cannot be used: {error}; {kind.mend}") from error


class AggregateSource:
    """Reads what an aggregator says the windows of a run were."""

    def __init__(self, buckets: FileBuckets, aggregator: Peer, run: str, digest: bytes, verify: Verify) -> None:
        """Store the parts.

        Args:
            buckets: all buckets of the run.
            aggregator: whose word counts; the register of the chain knows its key and its bucket.
            run: name of the run, the first part of all its keys.
            digest: of the run's settings; 32 bytes.
            verify: checks a signature.
        """
        self._buckets, self._aggregator, self._run = buckets, aggregator, run
        self._digest, self._verify = digest, verify

    def fetch_manifest(self, window: Window) -> StandingManifest:
        """Read the manifest of a window. Raises as the function `fetch_manifest`."""
        bucket = self._buckets.of(self._aggregator.address)
        return fetch_manifest(
            bucket, self._aggregator, self._run, digest=self._digest, window=window, verify=self._verify
        )

    def fetch_notice(self, standing: StandingManifest) -> AggregateNotice:
        """Read the notice of the aggregate that belongs to a manifest.

        Raises:
            ObjectMissingError: the aggregate is not complete yet, or not there any more.
            DocumentError: what is there is not its notice; the fault is HASH if it is of another manifest, else as of
                `fetch_manifest`.
            StoreError: the store failed, or the address of the bucket is malformed.
        """
        notice = self.find_notice(standing.manifest.window)
        if notice.manifest != standing.sha256:
            key = notice_keys(self._run).key(notice.window)
            raise DocumentError(
                f"{key} is of manifest {notice.manifest.hex()}, must be of {standing.sha256.hex()}", fault=Fault.HASH
            )
        return notice

    def find_notice(self, window: Window) -> AggregateNotice:
        """Read the notice of a window, of whatever manifest. Raises as `fetch_notice`, but for HASH."""
        peer = self._aggregator
        asked = _Asked(notice_keys(self._run).key(window), peer.public_key, self._digest, window)
        return _read_of(peer, self._buckets.of(peer.address), asked, _NOTICE, self._verify)[1]

    def fetch_aggregate(self, notice: AggregateNotice, shapes: Shapes, path: Path) -> None:
        """Fetch an aggregate into a file, which gets its name only when its content is what the notice says.

        After an error, or the end of the process, the next call fetches only the parts that are not in yet.

        Args:
            notice: of the aggregate.
            shapes: of all parameters; an aggregate that is too long for them is not fetched.
            path: the file; replaced if it exists. Its folder must exist.

        Raises:
            ObjectMissingError: the aggregate is not there any more.
            DocumentError: the notice says more bytes than an aggregate can have; the fault is SIZE.
            StoreError: the aggregate is not what the notice says (nothing is kept then), the store failed, the disk is
                full, or another process fetches the same file.
        """
        key, most = aggregate_keys(self._run).key(notice.window), max_aggregate_bytes(shapes)
        if notice.size > most:
            raise DocumentError(f"{key} can have {most} bytes, the notice says {notice.size}", fault=Fault.SIZE)
        self._buckets.of(self._aggregator.address).get_file(key, path, FileDigest(notice.size, notice.sha256))


def fetch_manifest(
    bucket: BucketReader, aggregator: Peer, run: str, *, digest: bytes, window: Window, verify: Verify
) -> StandingManifest:
    """Read what an aggregator says a window was.

    Args:
        bucket: of the aggregator.
        aggregator: whose word counts.
        run: name of the run, the first part of all its keys.
        digest: of the run's settings; 32 bytes.
        window: which one.
        verify: checks a signature.

    Raises:
        ObjectMissingError: the aggregator has not published a manifest of the window, or none any more.
        DocumentError: what it published is not its manifest of this run and window. The fault is SIZE, FORMAT,
            SIGNATURE, CONTENT, SENDER, RUN or WINDOW.
        StoreError: the store failed.
    """
    asked = _Asked(manifest_keys(run).key(window), aggregator.public_key, digest, window)
    data, manifest = _read_of(aggregator, bucket, asked, _MANIFEST, verify)
    return StandingManifest(manifest, aggregator.public_key, hashlib.sha256(data).digest())


def read_aggregate(
    path: Path, shapes: Shapes, expected: AggregateHead, verify: Verify, *, dtype: torch.dtype = torch.int8
) -> Iterator[tuple[str, Tensor]]:
    """Read an aggregate from a file; see `decode_aggregate`.

    Raises:
        AggregateError: the file is not the aggregate that was asked for.
        StoreError: the file cannot be read.
    """
    with explained("read", path), path.open("rb") as file:
        yield from decode_aggregate(_chunks(file), shapes, expected, verify, dtype=dtype)


def check_aggregate_file(path: Path, shapes: Shapes, expected: AggregateHead, verify: Verify) -> None:
    """Read an aggregate from a file to its end, and keep nothing of it. Raises as `read_aggregate`."""
    with explained("read", path), path.open("rb") as file:
        check_aggregate(_chunks(file), shapes, expected, verify)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    return iter(partial(file.read, _CHUNK_BYTES), b"")


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a document must be."""

    key: str
    public_key: bytes
    run: bytes
    window: Window


@dataclass(frozen=True, slots=True)
class _Kind(Generic[D]):
    """A kind of document."""

    max_bytes: int
    decode: Callable[[bytes, Verify], tuple[bytes, D]]
    mend: str
    """What to do about an own one that is damaged."""


_MANIFEST = _Kind(MAX_MANIFEST_BYTES, decode_manifest, MEND_MANIFEST)
_NOTICE = _Kind(MAX_NOTICE_BYTES, decode_notice, _MEND)


def _read(bucket: BucketReader, asked: _Asked, kind: _Kind[D], verify: Verify) -> tuple[bytes, D]:
    """Return the bytes and the meaning of a document. Raises `DocumentError` if it is not what was asked for."""
    try:
        data = bucket.get(asked.key, max_bytes=kind.max_bytes)
    except OversizedError as error:
        raise DocumentError(str(error), fault=Fault.SIZE) from error
    public_key, found = kind.decode(data, verify)
    if public_key != asked.public_key:
        reason = f"it must be signed by {asked.public_key.hex()}, it is by {public_key.hex()}"
        raise DocumentError(reason, fault=Fault.SENDER)
    if found.run != asked.run:
        raise DocumentError(f"it is of run {found.run.hex()}, must be of {asked.run.hex()}", fault=Fault.RUN)
    if found.window != asked.window:
        raise DocumentError(f"it is of window {found.window}, must be of {asked.window}", fault=Fault.WINDOW)
    return data, found


def _read_of(peer: Peer, bucket: BucketReader, asked: _Asked, kind: _Kind[D], verify: Verify) -> tuple[bytes, D]:
    """Do what `_read` does; the error names the peer and the key."""
    try:
        return _read(bucket, asked, kind, verify)
    except DocumentError as error:
        raise DocumentError(
            f"{asked.key} of peer {peer.uid} ({peer.hotkey}): {error.reason}", fault=error.fault
        ) from error
