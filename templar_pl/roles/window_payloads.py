"""The payloads of a window for whoever says what it was: those that landed in time, or those a manifest lists."""

from __future__ import annotations

from collections.abc import Mapping

from templar_pl.compression import UpdateCodec
from templar_pl.errors import OutOfSyncError, StoreError
from templar_pl.exchange import StandingManifest
from templar_pl.exchange.landed import LandedRecord
from templar_pl.exchange.record import PayloadSource
from templar_pl.exchange.window_values import Collected, Identity, Limits
from templar_pl.protocol.header import HEADER_BYTES, unpack_header
from templar_pl.protocol.payload import Payload
from templar_pl.protocol.peer import Peer
from templar_pl.protocol.signing import SIGNATURE_BYTES
from templar_pl.roles.kept_payloads import KeptPayloads
from templar_pl.roles.peer_lists import PeerLists
from templar_pl.training import Connection
from templar_pl.training.patience import Patience
from templar_pl.units import Uid, Window


class WindowPayloads:
    """Gathers as a miner does, and sends nothing."""

    def __init__(
        self,
        codec: UpdateCodec,
        identity: Identity,
        connection: Connection,
        limits: Limits,
        *,
        peer_lists: PeerLists,
        kept: KeptPayloads,
    ) -> None:
        """Store the parts.

        Args:
            codec: knows the shapes that payloads must fit.
            identity: of this node.
            connection: the open network.
            limits: time and number.
            peer_lists: who may count, if a validator says so.
            kept: on the own disk.
        """
        self._chain, self._peer_lists, self._kept = connection.chain, peer_lists, kept
        self._patience = Patience(limits.patience_s, limits.check_interrupt)
        self._source = PayloadSource(codec, identity, connection.buckets, limits, keep=kept.keep)
        self._landed = LandedRecord(
            connection.chain,
            self._candidates,
            identity,
            source=self._source,
            own_bucket=connection.buckets.own,
            limits=limits,
        )

    def look_for_peers(self) -> None:
        """Read whose payloads count from now on; a list is known some windows before it is in force."""
        self._peer_lists.look()

    def seconds_left(self, window: Window) -> float:
        """Return the seconds until a window is over, 0 or less if it is. Raises `ChainError`."""
        return self._patience.insist("the chain does not answer", lambda: self._chain.seconds_left(window))

    def landed(self, window: Window) -> Collected:
        """Return what landed in time of a window that is over; it is on the own disk then, until `forget`.

        Raises:
            OutOfSyncError: it lies so far back that payloads of it are deleted, or no store answers.
            ChainError: the chain does not answer.
            StoreError: the own disk fails.
        """
        return self._patience.insist(f"window {window} cannot be gathered", lambda: self._landed.collect(window, None))

    def listed(self, standing: StandingManifest) -> dict[Uid, Payload]:
        """Return the payloads that an own manifest lists, in uid order: from the own disk, else from their owners.

        Raises:
            OutOfSyncError: one cannot be had any more.
            ChainError: the chain does not answer.
            StoreError: a store does not, or the own disk fails.
        """
        window, hashes = standing.manifest.window, standing.manifest.payloads
        found = {uid: payload for uid in hashes if (payload := self._at_hand(window, uid, hashes[uid])) is not None}
        missing = {uid: sha256 for uid, sha256 in hashes.items() if uid not in found}
        if missing:
            found |= self._patience.insist(
                f"payloads of window {window} cannot be fetched", lambda: self._fetch(window, missing)
            )
        return dict(sorted(found.items()))

    def forget(self, window: Window) -> None:
        """Delete what is kept of a window whose aggregate is out, and of those before it."""
        self._kept.forget(window)

    def _at_hand(self, window: Window, uid: Uid, sha256: bytes) -> Payload | None:
        """Return a payload from the own disk, None if it is not there."""
        data = self._kept.find(window, uid, sha256, self._source.payload_size)
        if data is None:
            return None
        # Whose key it must be signed with was looked up before the manifest said that it counts.
        header = unpack_header(data[:HEADER_BYTES], len(data) - HEADER_BYTES - SIGNATURE_BYTES)
        return self._source.decode(uid, header.public_key, window, data)

    def _fetch(self, window: Window, hashes: Mapping[Uid, bytes]) -> dict[Uid, Payload]:
        """Fetch payloads by their hashes, of whoever had these uids then, else of who has them now.

        The register of a window that is long over cannot be read everywhere, and a peer may have moved to another
        bucket since.

        Raises:
            OutOfSyncError: one cannot be had any more.
            ChainError: the chain did not answer.
            StoreError: the store did not answer for one of them.
        """
        then = self._chain.candidates(window)
        asked = {uid: then[uid] for uid in hashes if uid in then and then[uid].address}
        gathered = self._source.fetch(window, asked, hashes=hashes)
        found, errors = gathered.payloads, gathered.skipped
        if left := hashes.keys() - found.keys():
            now = self._chain.peers(left)
            again = {uid: now[uid] for uid in sorted(left & now.keys()) if _may_have(now[uid], asked.get(uid))}
            gathered = self._source.fetch(window, again, hashes=hashes)
            found, errors = found | gathered.payloads, errors | gathered.skipped
        for error in (errors[uid] for uid in sorted(errors.keys() - found.keys())):
            if isinstance(error, StoreError):
                raise error
        if gone := sorted(hashes.keys() - found.keys()):
            reasons = "; ".join(str(errors.get(uid) or f"uid {uid} is not in the register") for uid in gone)
            raise OutOfSyncError(
                f"window {window}: its aggregate is missing, and of the payloads that its manifest lists these cannot "
                f"be had any more: {reasons}"
            )
        return {uid: fetched.payload for uid, fetched in found.items()}

    def _candidates(self, window: Window) -> Mapping[Uid, Peer]:
        registered, members = self._chain.candidates(window), self._peer_lists.members(window)
        return registered if members is None else {uid: peer for uid, peer in registered.items() if uid in members}


def _may_have(now: Peer, then: Peer | None) -> bool:
    """Whether a peer of the newest register may have what was asked of the uid's peer at the time, if it is known."""
    if then is None:
        return bool(now.address)
    return now.public_key == then.public_key and now.address not in ("", then.address)
