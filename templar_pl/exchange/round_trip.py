"""The round trip of one window: momentum to payload, out to the bucket, back as the update all nodes agree on.

No Lightning and no model in here: the strategy, catch-up and whoever scores others call the same object.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from templar_pl.compression import Body, MomentumCodec, SparseChunks
from templar_pl.errors import ChainError, Fault, OutOfSyncError, PayloadError, StoreError
from templar_pl.exchange.gather import Gathered, Request, gather
from templar_pl.exchange.publish import publish
from templar_pl.exchange.store import Buckets
from templar_pl.protocol.agreement import Agreement, Settlement
from templar_pl.protocol.keys import payload_key
from templar_pl.protocol.payload import Expected, Header, Payload, decode_payload, encode_payload, payload_bytes
from templar_pl.protocol.peer import Peer
from templar_pl.protocol.selection import select_peers
from templar_pl.protocol.signing import Signer, Verify
from templar_pl.units import Uid, Window

log = logging.getLogger(__name__)

SLICE_S = 1.0
"""Seconds until a wait looks up."""

GRACE_S = 15.0
"""Seconds that a window which is about to close is waited for even if the process should end: a window that is sent but
not applied cannot be saved, and would have to be trained again."""

# What may still differ from node to node although the hash of the payload is agreed; everything else that is
# wrong with a payload is in its bytes, so that all nodes leave it out alike.
NOT_OBTAINED = frozenset({Fault.MISSING, Fault.EARLY, Fault.LATE, Fault.SIZE, Fault.HASH})


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this node is in a run."""

    run: str
    """Name of the run, first part of every object key."""

    digest: bytes
    """32 bytes: the settings and parameter shapes that all nodes of the run share."""

    uid: Uid
    signer: Signer
    verify: Verify


@dataclass(frozen=True, slots=True)
class Limits:
    """How long and how much."""

    timeout_s: float
    """Seconds for a put, and for a gather, of one window."""

    patience_s: float
    """Seconds to wait for a window to be closed by the others before this node gives up."""

    max_peers: int
    """Payloads applied in one window at most; 1..512."""

    check_interrupt: Callable[[], None]
    """Asked once a second while waiting for longer than GRACE_S; raises what should end the wait."""


@dataclass(frozen=True, slots=True)
class Training:
    """What the header of a payload says about the window's training."""

    pages: bytes
    """32 bytes: digest of the assigned pages; zeros if the data is not assigned."""

    fingerprint: bytes
    """32 bytes: the parameters the gradient was taken at."""

    loss: float
    batches: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An encoded payload and what it says."""

    window: Window
    data: bytes
    payload: Payload


@dataclass(frozen=True, slots=True)
class Collected:
    """What one window consists of, as far as this node is concerned."""

    settlement: Settlement
    payloads: dict[Uid, Payload]
    """In uid order."""

    skipped: dict[Uid, PayloadError | StoreError]
    bytes_down: int


class RoundTrip:
    """Publishes, collects and applies the payloads of windows, one after the other."""

    def __init__(
        self,
        codec: MomentumCodec,
        identity: Identity,
        *,
        buckets: Buckets,
        agreement: Agreement,
        peers: Callable[[Collection[Uid]], Mapping[Uid, Peer]],
        limits: Limits,
    ) -> None:
        """Store the parts.

        Args:
            codec: momentum of all parameters; `put` gives it back what was not published.
            identity: who signs.
            buckets: the own bucket and those of peers.
            agreement: what each window consists of.
            peers: returns the register of the chain, with these uids if they are registered at all.
            limits: time and number.
        """
        self._codec, self._identity, self._buckets = codec, identity, buckets
        self._agreement, self._peers, self._limits = agreement, peers, limits
        self._size = payload_bytes(codec.grids)

    @property
    def payload_size(self) -> int:
        """Bytes of every payload of this run."""
        return self._size

    def encode(self, window: Window, training: Training, chunks: Mapping[str, SparseChunks]) -> Outgoing:
        """Sign what the codec took out of the momentum just now."""
        header = Header(
            run=self._identity.digest,
            window=window,
            uid=self._identity.uid,
            public_key=self._identity.signer.public_key,
            pages=training.pages,
            fingerprint=training.fingerprint,
            loss=training.loss,
            batches=training.batches,
            tokens=training.tokens,
        )
        data = encode_payload(header, chunks, self._codec.grids, self._identity.signer)
        return Outgoing(window, data, Payload(header, chunks))

    def put(self, outgoing: Outgoing, *, is_open: bool) -> Outgoing:
        """Put the payload into the own bucket and announce it, if the window is still open.

        A payload is written once: if an earlier life of this node already published one for the window, that one
        stands, and the momentum gives up what *it* says.

        Returns:
            What is published: the given payload or the earlier one.

        Raises:
            StoreError: the put failed until the deadline; the momentum is as before it was compressed.
            ChainError: the window was closed without this node; the momentum is as before it was compressed.
        """
        key = payload_key(self._identity.run, outgoing.window, self._identity.uid)
        deadline = time.monotonic() + self._limits.timeout_s
        try:
            published = publish(self._buckets.own(), key, outgoing.data, deadline=deadline)
            standing = self._read_back(published.existing, outgoing)
            if is_open:
                self._agreement.announce(standing.window, published.sha256)
        except (StoreError, ChainError):
            self._codec.restore_()
            raise
        if not _same_chunks(standing.payload.chunks, outgoing.payload.chunks):
            log.warning("window %d: the payload published earlier differs from the one computed now", outgoing.window)
            self._codec.restore_()
            self._codec.subtract_(standing.payload.chunks)
        return standing

    def collect(self, window: Window, own: Outgoing | None = None) -> Collected:
        """Wait until the window is closed and fetch what it consists of.

        Raises:
            OutOfSyncError: a payload that the others apply cannot be had, or the window was not closed in time.
        """
        settlement = self.settle(window)
        chosen = select_peers(settlement.payloads, self._limits.max_peers, window)
        known: dict[Uid, Payload] = {}
        if own is not None and settlement.payloads.get(self._identity.uid) == hashlib.sha256(own.data).digest():
            known[self._identity.uid] = own.payload
        gathered = self._fetch(settlement, [uid for uid in chosen if uid not in known])
        _refuse_gaps(window, gathered)
        payloads = known | gathered.payloads
        return Collected(
            settlement,
            {uid: payloads[uid] for uid in sorted(payloads) if uid in chosen},
            gathered.skipped,
            gathered.bytes_down,
        )

    def settle(self, window: Window) -> Settlement:
        """Wait until the window is closed; say what it waits for; give up after `patience_s`.

        Raises:
            OutOfSyncError: the window is still open after `patience_s` seconds.
        """
        start = time.monotonic()
        warn_at = start + self._limits.timeout_s
        while True:
            if time.monotonic() - start > GRACE_S:
                self._limits.check_interrupt()
            left_s = start + self._limits.patience_s - time.monotonic()
            try:
                return self._agreement.settle(window, max(0.0, min(SLICE_S, left_s)))
            except ChainError as error:
                if left_s <= 0:
                    raise OutOfSyncError(
                        f"window {window} was not closed within {self._limits.patience_s:g} s: {error}"
                    ) from error
                if time.monotonic() >= warn_at:
                    log.warning("window %d: still waiting: %s", window, error)
                    warn_at += self._limits.timeout_s

    def abstain(self, window: Window) -> None:
        """Say that this node sends nothing for a window, so that nobody waits for it. Never raises for the chain."""
        try:
            self._agreement.announce(window, None)
        except ChainError as error:
            log.debug("window %d: could not say that nothing comes: %s", window, error)

    def own_payload(self, settlement: Settlement) -> Payload | None:
        """Return what this node sent for a closed window, None if it sent nothing or that is gone."""
        uid = self._identity.uid
        if uid not in settlement.payloads:
            return None
        return self._fetch(settlement, [uid]).payloads.get(uid)

    def update(self, collected: Collected, *, out: Mapping[str, Tensor | None] | None = None) -> dict[str, Tensor]:
        """Return the sign update of the window, {parameter name: fp32 tensor of -1, 0, +1 in its shape}.

        Args:
            collected: what the window consists of.
            out: tensors that may be written to, as `MomentumCodec.update` says.
        """
        return self._codec.update([payload.chunks for payload in collected.payloads.values()], out=out)

    def _read_back(self, existing: bytes | None, outgoing: Outgoing) -> Outgoing:
        """Return the payload that stands in the own bucket."""
        if existing is None:
            return outgoing
        try:
            payload = self._decode(self._own_peer(), outgoing.window, existing)
        except PayloadError as error:
            raise StoreError(f"the own bucket holds another payload for this window: {error.reason}") from error
        return Outgoing(outgoing.window, existing, payload)

    def _fetch(self, settlement: Settlement, uids: list[Uid]) -> Gathered[Payload]:
        peers = self._peers(uids)
        requests = {uid: self._request(peers, uid, settlement) for uid in uids}
        return gather(
            requests,
            decode=lambda uid, data: self._decode(peers[uid], settlement.window, data),
            interval=None,
            deadline=time.monotonic() + self._limits.timeout_s,
        )

    def _request(self, peers: Mapping[Uid, Peer], uid: Uid, settlement: Settlement) -> Request:
        if uid not in peers:
            raise OutOfSyncError(f"window {settlement.window}: uid {uid} took part but is not in the register")
        return Request(
            open_bucket=partial(self._buckets.of, peers[uid].address),
            key=payload_key(self._identity.run, settlement.window, uid),
            size=self._size,
            sha256=settlement.payloads[uid],
            peer=uid,
            window=settlement.window,
        )

    def _own_peer(self) -> Peer:
        uid = self._identity.uid
        return self._peers([uid])[uid]

    def _decode(self, peer: Peer, window: Window, data: bytes) -> Payload:
        expected = Expected(run=self._identity.digest, window=window, uid=peer.uid, public_key=peer.public_key)
        return decode_payload(data, self._codec.grids, expected, self._identity.verify)


def _same_chunks(left: Mapping[str, SparseChunks], right: Mapping[str, SparseChunks]) -> bool:
    """Whether two payloads say the same of every parameter."""
    if isinstance(left, Body) and isinstance(right, Body):
        return left.data == right.data
    return all(left[name].says_what(right[name]) for name in left)


def _refuse_gaps(window: Window, gathered: Gathered[Payload]) -> None:
    gaps = [e for e in gathered.skipped.values() if not isinstance(e, PayloadError) or e.fault in NOT_OBTAINED]
    if gaps:
        raise OutOfSyncError(
            f"window {window}: {len(gaps)} agreed payload(s) cannot be had: {'; '.join(map(str, gaps))}. "
            "Start from a checkpoint of a later window, or restore the objects and start again."
        )
