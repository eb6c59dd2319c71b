"""The payloads of a window for whoever says what it was: those that landed in time, or those a manifest lists."""

from __future__ import annotations

from collections.abc import Mapping

from templar_pl.compression import UpdateCodec
from templar_pl.errors import OutOfSyncError, StoreError
from templar_pl.exchange import StandingManifest
from templar_pl.exchange.gather import Gathered
from templar_pl.exchange.landed import LandedRecord
from templar_pl.exchange.record import Fetched, PayloadSource
from templar_pl.exchange.window_values import Collected, Identity, Limits
from templar_pl.protocol.payload import Payload
from templar_pl.protocol.peer import Peer
from templar_pl.roles.patience import Patience
from templar_pl.roles.peer_lists import PeerLists
from templar_pl.training import Connection
from templar_pl.units import Uid, Window


class WindowPayloads:
    """Gathers as a miner does, and sends nothing."""

    def __init__(
        self, codec: UpdateCodec, identity: Identity, connection: Connection, limits: Limits, peer_lists: PeerLists
    ) -> None:
        """Store the parts.

        Args:
            codec: knows the shapes that payloads must fit.
            identity: of this node.
            connection: the open network.
            limits: time and number.
            peer_lists: who may count, if a validator says so.
        """
        self._chain, self._peer_lists = connection.chain, peer_lists
        self._patience = Patience(limits.patience_s, limits.check_interrupt)
        self._source = PayloadSource(codec, identity, connection.buckets, limits)
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
        """Return what landed in time of a window that is over.

        Raises:
            OutOfSyncError: it lies so far back that payloads of it are deleted, or no store answers.
            ChainError: the chain does not answer.
        """
        return self._patience.insist("the chain does not answer", lambda: self._landed.collect(window, None))

    def listed(self, standing: StandingManifest) -> dict[Uid, Payload]:
        """Return the payloads that a manifest lists, in uid order.

        Raises:
            OutOfSyncError: one cannot be had any more.
            ChainError: the chain does not answer.
        """
        window, hashes = standing.manifest.window, standing.manifest.payloads
        register = self._patience.insist("the chain does not answer", lambda: self._chain.candidates(window))
        if unknown := hashes.keys() - register.keys():
            raise OutOfSyncError(
                f"window {window}: its manifest lists uids that were not registered: {sorted(unknown)}"
            )
        peers = {uid: register[uid] for uid in hashes}
        gathered = self._patience.insist(
            f"payloads of window {window} cannot be fetched", lambda: self._fetch(window, peers, hashes)
        )
        if gathered.skipped:
            raise OutOfSyncError(
                f"window {window}: its aggregate is missing, and of the payloads that its manifest lists these cannot "
                f"be had any more: {'; '.join(map(str, gathered.skipped.values()))}"
            )
        return {uid: fetched.payload for uid, fetched in gathered.payloads.items()}

    def _fetch(self, window: Window, peers: Mapping[Uid, Peer], hashes: Mapping[Uid, bytes]) -> Gathered[Fetched]:
        """Fetch payloads. Raises `StoreError` if the store did not answer for one of them."""
        gathered = self._source.fetch(window, peers, hashes=hashes)
        for error in gathered.skipped.values():
            if isinstance(error, StoreError):
                raise error
        return gathered

    def _candidates(self, window: Window) -> Mapping[Uid, Peer]:
        registered, members = self._chain.candidates(window), self._peer_lists.members(window)
        return registered if members is None else {uid: peer for uid, peer in registered.items() if uid in members}
