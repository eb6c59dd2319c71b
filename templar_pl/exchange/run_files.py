"""Run files in buckets: published once by whoever runs the network, read by whoever joins it."""

from __future__ import annotations

from dataclasses import fields, replace

from templar_pl.errors import ConfigError, DocumentError, Fault, OversizedError
from templar_pl.exchange.store import Bucket, BucketReader, Buckets
from templar_pl.protocol import MAX_RUN_FILE_BYTES, RunFile, Signer, Verify, decode_run_file, encode_run_file, run_key
from templar_pl.protocol.peer import Peer

_MEND = "delete it, or give the run another name"


def publish_run_file(bucket: Bucket, run_file: RunFile, signer: Signer, verify: Verify) -> RunFile:
    """Put a run file into the own bucket, unless it is there; return what the bucket holds.

    What was published once is never changed: others may have joined by it. After a `StoreError` it may be called again.

    Args:
        bucket: the own bucket.
        run_file: what the run is.
        signer: the own hotkey.
        verify: checks a signature.

    Returns:
        The run file that stands. Its version is that of the package that published it first.

    Raises:
        ConfigError: the bucket holds a run file that says something else, is of another hotkey, or is none.
        StoreError: the store failed.
    """
    key = run_key(run_file.run)
    if bucket.put_once(key, encode_run_file(run_file, signer)):
        return run_file
    return own_run_file(bucket, run_file, signer.public_key, verify)


def own_run_file(bucket: BucketReader, run_file: RunFile, own_key: bytes, verify: Verify) -> RunFile:
    """Return the run file in the own bucket, if it says what these settings say; nothing is written.

    Args:
        bucket: the own bucket.
        run_file: what the run is.
        own_key: 32 bytes, the public key of the own hotkey.
        verify: checks a signature.

    Raises:
        ConfigError: it says something else, is of another hotkey, or is none.
        ObjectMissingError: there is none.
        StoreError: the store failed.
    """
    key = run_key(run_file.run)
    try:
        public_key, existing = _read(bucket, key, verify)
    except DocumentError as error:
        raise ConfigError(f"{key} in the own bucket cannot be used: {error}; {_MEND}") from error
    if public_key != own_key:
        whose = f"{public_key.hex()}, this hotkey is {own_key.hex()}"
        raise ConfigError(f"{key} in the own bucket is signed by {whose}; {_MEND}")
    if differences := _differences(existing, run_file):
        raise ConfigError(f"{key} in the own bucket says another thing than these settings: {differences}; {_MEND}")
    return existing


def fetch_run_file(buckets: Buckets, peer: Peer, run: str, verify: Verify) -> RunFile:
    """Read the run file that a peer published.

    Args:
        buckets: all buckets of the run.
        peer: whose word counts; the register of the chain knows its key and its bucket.
        run: name of the run, the first part of all its keys.
        verify: checks a signature.

    Raises:
        ObjectMissingError: the peer has not published one.
        DocumentError: what it published is not its run file of this run. The fault is SIZE, FORMAT, SIGNATURE, CONTENT,
            SENDER or RUN.
        StoreError: the store failed, or the address of the bucket is malformed.
    """
    key = run_key(run)
    whose = f"{key} of peer {peer.uid} ({peer.hotkey})"
    try:
        public_key, run_file = _read(buckets.of(peer.address), key, verify)
    except DocumentError as error:
        raise DocumentError(f"{whose}: {error.reason}", fault=error.fault) from error
    if public_key != peer.public_key:
        reason = f"{whose} must be signed by {peer.public_key.hex()}, it is by {public_key.hex()}"
        raise DocumentError(reason, fault=Fault.SENDER)
    if run_file.run != run:
        raise DocumentError(f"{whose} is about another run, {run_file.run!r}", fault=Fault.RUN)
    return run_file


def _read(bucket: BucketReader, key: str, verify: Verify) -> tuple[bytes, RunFile]:
    """Return who signed a run file, and what it says. Raises `DocumentError` if it is none."""
    try:
        data = bucket.get(key, max_bytes=MAX_RUN_FILE_BYTES)
    except OversizedError as error:
        raise DocumentError(str(error), fault=Fault.SIZE) from error
    return decode_run_file(data, verify)


def _differences(existing: RunFile, wanted: RunFile) -> str:
    """Say in which fields two run files differ, both values of each; empty if only the version does."""
    wanted = replace(wanted, version=existing.version)
    pairs = [(field.name, getattr(existing, field.name), getattr(wanted, field.name)) for field in fields(RunFile)]
    return ", ".join(f"{name} is {_shown(is_)}, not {_shown(would)}" for name, is_, would in pairs if is_ != would)


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
