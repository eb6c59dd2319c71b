"""What validators publish: a record of each window, and the list of peers that follows from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from templar_pl.errors import DocumentError, Fault, ObjectMissingError, OversizedError
from templar_pl.exchange.store import Bucket, BucketReader, PeerBuckets
from templar_pl.protocol import (
    MAX_PEER_LIST_BYTES,
    MAX_SCORE_BYTES,
    PeerListFile,
    ScoreRecord,
    Signer,
    Verify,
    decode_peer_list,
    decode_score_record,
    encode_peer_list,
    peers_key,
    score_keys,
)
from templar_pl.protocol.peer import Peer
from templar_pl.units import Window

T = TypeVar("T")

_Decode = Callable[[bytes, Verify], tuple[bytes, T]]


def publish_peer_list(bucket: Bucket, peer_list: PeerListFile, signer: Signer) -> None:
    """Put a list of peers into the own bucket, in place of the one before. Raises `StoreError`."""
    bucket.put(peers_key(peer_list.run), encode_peer_list(peer_list, signer))


def fetch_peer_list(buckets: PeerBuckets, peer: Peer, run: str, verify: Verify) -> PeerListFile:
    """Read the list of peers that a validator published last.

    Args:
        buckets: all buckets of the run.
        peer: the validator; the register of the chain knows its key and its bucket.
        run: name of the run, the first part of all its keys.
        verify: checks a signature.

    Raises:
        ObjectMissingError: it has not published one.
        DocumentError: what it published is not its list of peers of this run. The fault is SIZE, FORMAT, SIGNATURE,
            CONTENT, SENDER or RUN.
        StoreError: the store failed, or the address of the bucket is malformed.
    """
    read = _Read(buckets, peer, verify, MAX_PEER_LIST_BYTES)
    peer_list = read.document(peers_key(run), decode_peer_list)
    read.refuse_other(peers_key(run), peer_list.run, run, Fault.RUN)
    return peer_list


def standing_peer_list(bucket: BucketReader, run: str, public_key: bytes, verify: Verify) -> PeerListFile | None:
    """Read the list of peers that stands in the own bucket.

    Args:
        bucket: the own bucket.
        run: name of the run.
        public_key: of the own hotkey, 32 bytes.
        verify: checks a signature.

    Returns:
        None if there is none.

    Raises:
        DocumentError: what is there is not the own list of this run.
        StoreError: the store failed.
    """
    key = peers_key(run)
    try:
        signed_by, peer_list = decode_peer_list(bucket.get(key, max_bytes=MAX_PEER_LIST_BYTES), verify)
    except ObjectMissingError:
        return None
    except OversizedError as error:
        raise DocumentError(str(error), fault=Fault.SIZE) from error
    if signed_by != public_key:
        raise DocumentError(f"{key} is signed by {signed_by.hex()}, must be by {public_key.hex()}", fault=Fault.SENDER)
    if peer_list.run != run:
        raise DocumentError(f"{key} is of run {peer_list.run!r}, must be of {run!r}", fault=Fault.RUN)
    return peer_list


def fetch_score_record(buckets: PeerBuckets, peer: Peer, run: str, window: Window, verify: Verify) -> ScoreRecord:
    """Read what a validator said of a window.

    Args:
        buckets: all buckets of the run.
        peer: the validator.
        run: name of the run.
        window: that was judged.
        verify: checks a signature.

    Raises:
        ObjectMissingError: it has not said anything of it, or not kept it.
        DocumentError: what it published is not its record of this window. The fault is SIZE, FORMAT, SIGNATURE,
            CONTENT, SENDER, RUN or WINDOW.
        StoreError: the store failed, or the address of the bucket is malformed.
    """
    read, key = _Read(buckets, peer, verify, MAX_SCORE_BYTES), score_keys(run).key(window)
    record = read.document(key, decode_score_record)
    read.refuse_other(key, record.run, run, Fault.RUN)
    read.refuse_other(key, record.window, window, Fault.WINDOW)
    return record


class _Read:
    """Reads documents of one validator."""

    def __init__(self, buckets: PeerBuckets, peer: Peer, verify: Verify, max_bytes: int) -> None:
        self._buckets, self._peer, self._verify, self._max_bytes = buckets, peer, verify, max_bytes

    def document(self, key: str, decode: _Decode[T]) -> T:
        """Return what the peer has signed. Raises `DocumentError` and `StoreError`."""
        try:
            data = self._buckets.of(self._peer.address).get(key, max_bytes=self._max_bytes)
            public_key, value = decode(data, self._verify)
        except OversizedError as error:
            raise self._refusal(key, str(error), Fault.SIZE) from error
        except DocumentError as error:
            raise self._refusal(key, error.reason, error.fault) from error
        if public_key != self._peer.public_key:
            reason = f"it must be signed by {self._peer.public_key.hex()}, it is by {public_key.hex()}"
            raise self._refusal(key, reason, Fault.SENDER)
        return value

    def refuse_other(self, key: str, is_: object, must_be: object, fault: Fault) -> None:
        """Refuse a document that says something else than its key. Raises `DocumentError`."""
        if is_ != must_be:
            raise self._refusal(key, f"it is about {fault.value} {is_!r}, not {must_be!r}", fault)

    def _refusal(self, key: str, reason: str, fault: Fault) -> DocumentError:
        return DocumentError(f"{key} of peer {self._peer.uid} ({self._peer.hotkey}): {reason}", fault=fault)
