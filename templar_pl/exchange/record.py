"""How a node learns what a window consisted of, whoever writes that down.

`AgreedRecord` (agreed.py) follows a list of hashes that the chain holds, `ManifestRecord` (manifest_record.py) one that
an aggregator signed. Where nobody writes one, `LandedRecord` (landed.py) takes what landed in time by the clock of the
store.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from templar_pl.compression import UpdateCodec
from templar_pl.errors import Fault, OutOfSyncError, PayloadError, StoreError
from templar_pl.exchange.gather import Gathered, Interval, Request, gather
from templar_pl.exchange.publish import Published
from templar_pl.exchange.store import Buckets
from templar_pl.exchange.window_values import Collected, Identity, Limits, Outgoing
from templar_pl.protocol.keys import payload_key
from templar_pl.protocol.payload import Expected, Payload, decode_payload, payload_bytes
from templar_pl.protocol.peer import Peer
from templar_pl.units import Uid, Window

SLICE_S = 1.0
"""Seconds until a wait looks up."""

GRACE_S = 15.0
"""Seconds that a window which is about to close is waited for even if the process should end: a window that is sent but
not applied cannot be saved, and would have to be trained again."""

# What may still differ from node to node although the hash of the payload is agreed on the chain; everything else that
# is wrong with a payload is in its bytes, so that all nodes leave it out alike.
NOT_OBTAINED = frozenset({Fault.MISSING, Fault.EARLY, Fault.LATE, Fault.SIZE, Fault.HASH})


class WindowRecord(Protocol):
    """What each window of a run consists of."""

    def join(self, window: Window) -> Window:
        """Take part from `window` on, if that is the window now open; return the window that is open.

        When the answer is not `window`, nothing was joined: catch up to the answer first and ask again.

        Raises:
            ChainError: the record cannot be reached.
        """
        ...

    def seconds_to_put(self, window: Window) -> float:
        """Return the seconds for which a put of an open window can still count; `math.inf` if nobody can tell.

        Raises:
            ChainError: it cannot count any more.
        """
        ...

    def confirm(self, outgoing: Outgoing, published: Published) -> None:
        """Have the own payload count, which is in the own bucket.

        Raises:
            ChainError: it does not: the window was closed without it.
            StoreError: the bucket had to be asked and did not answer.
        """
        ...

    def abstain(self, window: Window) -> None:
        """Say that this node sends nothing for a window, so that nobody waits for it. Never raises for the chain."""
        ...

    def collect(self, window: Window, own: Outgoing | None) -> Collected:
        """Wait until it is certain what the window consists of, and fetch that.

        Args:
            window: the window to be applied.
            own: what this node has sent and confirmed for it; None if nothing, or in an earlier life.

        Raises:
            OutOfSyncError: this node cannot get what the others apply.
        """
        ...

    def own_payload(self, window: Window) -> Payload | None:
        """Return what this node sent for a window that is over; None if nothing of it counted.

        Raises:
            StoreError: something counted, but it cannot be had any more.
            OutOfSyncError: the window was not closed in time.
        """
        ...


@dataclass(frozen=True, slots=True)
class Fetched:
    """A payload that was read from a bucket."""

    sha256: bytes
    """32 bytes: hash of the object."""

    payload: Payload


class PayloadSource:
    """Fetches and checks payloads of one run."""

    def __init__(
        self,
        codec: UpdateCodec,
        identity: Identity,
        buckets: Buckets,
        limits: Limits,
        *,
        keep: Callable[[Window, Uid, bytes], None] | None = None,
    ) -> None:
        """Store the parts.

        Args:
            codec: knows the shapes that payloads must fit.
            identity: of the run.
            buckets: those of all peers.
            limits: time for a gather.
            keep: given the bytes of each payload that was fetched and is good; what it raises ends the gather.
        """
        self._codec, self._identity, self._buckets, self._limits = codec, identity, buckets, limits
        self._keep = keep
        self.payload_size = payload_bytes(codec.grids)
        """Bytes of every payload of this run."""

    def decode(self, uid: Uid, public_key: bytes, window: Window, data: bytes) -> Payload:
        """Turn bytes of a peer into a payload. Raises `PayloadError`."""
        expected = Expected(run=self._identity.digest, window=window, uid=uid, public_key=public_key)
        return decode_payload(data, self._codec.grids, expected, self._identity.verify)

    def fetch(
        self,
        window: Window,
        peers: Mapping[Uid, Peer],
        *,
        hashes: Mapping[Uid, bytes] | None = None,
        interval: Interval | None = None,
        may_come: bool = True,
        deadline: float | None = None,
    ) -> Gathered[Fetched]:
        """Gather the payloads of these peers.

        Args:
            window: of the payloads.
            peers: whom to ask, by uid.
            hashes: SHA-256 each payload must have, where that is known.
            interval: when they must have been written, where that is not settled otherwise.
            may_come: whether one that is missing may still come.
            deadline: when to go on with what is in, as `deadline` returns it; None for that of now.
        """
        requests = {
            uid: self._request(window, uid, peer.address, None if hashes is None else hashes[uid], may_come=may_come)
            for uid, peer in peers.items()
        }

        def decode(uid: Uid, data: bytes) -> Fetched:
            payload = self.decode(uid, peers[uid].public_key, window, data)
            if self._keep is not None:
                self._keep(window, uid, data)
            return Fetched(hashlib.sha256(data).digest(), payload)

        deadline = self.deadline() if deadline is None else deadline
        return gather(requests, decode=decode, interval=interval, deadline=deadline)

    def _request(self, window: Window, uid: Uid, address: str, sha256: bytes | None, *, may_come: bool) -> Request:
        """Return the question for the payload of one peer."""
        return Request(
            open_bucket=partial(self._buckets.of, address),
            key=payload_key(self._identity.run, window, uid),
            size=self.payload_size,
            sha256=sha256,
            peer=uid,
            window=window,
            may_come=may_come,
        )

    def deadline(self) -> float:
        """Return when a gather that begins now ends, in seconds of `time.monotonic()`."""
        return time.monotonic() + self._limits.timeout_s


def is_gap(error: PayloadError | StoreError) -> bool:
    """Whether an error says that an agreed payload could not be had, which may differ from node to node."""
    return not isinstance(error, PayloadError) or error.fault in NOT_OBTAINED


def gaps_of(window: Window, gaps: Collection[PayloadError | StoreError]) -> str:
    """Say why listed payloads of a window could not be had; empty if all could."""
    return f"window {window}: {len(gaps)} agreed payload(s) cannot be had: {'; '.join(map(str, gaps))}" if gaps else ""


def refuse_gaps(window: Window, gathered: Gathered[Fetched]) -> None:
    """Refuse a window of which a listed payload could not be had. Raises `OutOfSyncError`."""
    if gaps := gaps_of(window, [error for error in gathered.skipped.values() if is_gap(error)]):
        raise OutOfSyncError(
            f"{gaps}. Start from a checkpoint of a later window, or restore the objects and start again."
        )
