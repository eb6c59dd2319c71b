"""What tests of gathers share: a peer that can be asked, and a gather with short pauses."""

from __future__ import annotations

import time

from templar_pl.errors import Fault, PayloadError
from templar_pl.exchange.gather import Gathered, Request, gather
from templar_pl.exchange.store import BucketReader
from templar_pl.units import Uid, Window
from tests.exchange.fakes import MemoryBucket, MemoryDisk

KEY, SIZE, WINDOW = "run/payload", 8, Window(7)
GOOD = b"8 bytes!"
INTERVAL = (1000.0, 1010.0)
POLL_S = 0.005
LONG_S = 60.0  # nothing that succeeds waits for it
SHORT_S = 0.6  # for what can only end at the deadline


def upper(uid: Uid, data: bytes) -> str:
    """Stand in for the payload codec."""
    try:
        return f"{uid}:{data.decode('ascii').upper()}"
    except UnicodeDecodeError as error:
        raise PayloadError("not ASCII", fault=Fault.FORMAT, peer=uid, window=WINDOW) from error


def filled(data: bytes | None, modified: float = 1005.0) -> MemoryBucket:
    bucket = MemoryBucket(MemoryDisk(), "peer", lambda: modified)
    if data is not None:
        bucket.put(KEY, data)
    return bucket


def ask(uid: int, bucket: BucketReader, sha256: bytes | None = None) -> Request:
    return Request(open_bucket=lambda: bucket, key=KEY, size=SIZE, peer=Uid(uid), window=WINDOW, sha256=sha256)


def collect(*requests: Request, seconds: float = LONG_S, poll_s: float = POLL_S) -> Gathered[str]:
    return gather(
        {request.peer: request for request in requests},
        decode=upper,
        interval=INTERVAL,
        deadline=time.monotonic() + seconds,
        poll_s=poll_s,
    )
