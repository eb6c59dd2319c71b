"""Put the exchange of a run together from an open network."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from templar_pl.chain import find_peer
from templar_pl.compression import MomentumCodec
from templar_pl.errors import ObjectMissingError
from templar_pl.exchange.aggregates import StandingManifest, fetch_manifest
from templar_pl.exchange.agreed import AgreedRecord
from templar_pl.exchange.landed import LandedRecord
from templar_pl.exchange.manifest_record import Following, ManifestRecord
from templar_pl.exchange.record import PayloadSource, WindowRecord
from templar_pl.exchange.round_trip import RoundTrip
from templar_pl.exchange.window_values import Identity, Limits
from templar_pl.protocol.peer import Peer
from templar_pl.training.network import Connection
from templar_pl.training.patient_chain import PatientChain
from templar_pl.training.trail import Trail
from templar_pl.units import Hotkey, Uid, Window


def open_round_trip(
    codec: MomentumCodec,
    identity: Identity,
    connection: Connection,
    limits: Limits,
    *,
    chain: PatientChain,
) -> RoundTrip:
    """Return the exchange of one window after the other.

    Args:
        codec: momentum of all parameters.
        identity: of this node.
        connection: the open network.
        limits: time and number.
        chain: asks it.
    """
    source = PayloadSource(codec, identity, connection.buckets, limits)
    record = open_record(source, identity, connection, limits, chain=chain)
    return RoundTrip(
        codec, identity, buckets=connection.buckets, record=record, source=source, timeout_s=limits.timeout_s
    )


def open_record(
    source: PayloadSource,
    identity: Identity,
    connection: Connection,
    limits: Limits,
    *,
    chain: PatientChain,
) -> WindowRecord:
    """Return how it becomes known what each window consisted of; who sends nothing needs no more than that.

    Args:
        source: of the payloads.
        identity: of this node.
        connection: the open network.
        limits: time and number.
        chain: asks it.
    """
    if connection.agreement is not None:
        return AgreedRecord(connection.agreement, identity, source, chain.register, limits)
    own = connection.buckets.own
    landed = LandedRecord(chain, chain.candidates, identity, source=source, own_bucket=own, limits=limits)
    if connection.aggregator is None:
        return landed
    following = _following(connection, connection.aggregator, identity.digest, chain)
    return ManifestRecord(landed, chain, identity, source=source, limits=limits, following=following)


def open_trail(connection: Connection, digest: bytes, chain: PatientChain, record: WindowRecord, folder: Path) -> Trail:
    """Return where the past windows of a run are found, by those whom its node follows.

    Args:
        connection: the open network.
        digest: 32 bytes, of the settings and parameter shapes all nodes of the run share.
        chain: asks it.
        record: what windows consist of.
        folder: for files on their way; of this process alone.
    """

    def find(hotkey: Hotkey | None) -> Peer | None:
        return None if hotkey is None else chain.ask(lambda: find_peer(connection.chain, hotkey))

    def leaders() -> list[Peer]:
        found = [find(hotkey) for hotkey in dict.fromkeys((connection.aggregator, connection.validator))]
        return [peer for peer in found if peer is not None]

    return Trail(
        run=connection.run,
        digest=digest,
        start_window=connection.start_window,
        verify=connection.verify,
        buckets=connection.buckets,
        # Where the chain itself writes down what windows consist of, nobody else's word counts.
        aggregator=lambda: find(connection.aggregator) if connection.agreement is None else None,
        leaders=leaders,
        collect=lambda window: record.collect(window, None),
        folder=folder,
    )


def _following(connection: Connection, aggregator: Hotkey, digest: bytes, chain: PatientChain) -> Following:
    """Return how an aggregator of the chain is followed, wherever its bucket is when it is asked."""

    def fetch(window: Window) -> StandingManifest:
        peer = find_peer(connection.chain, aggregator)  # who waits for a manifest asks again by itself
        if peer is None or not peer.address:
            raise ObjectMissingError(f"the aggregator {aggregator} has no bucket that the chain knows of")
        bucket = connection.buckets.of(peer.address)
        run, verify = connection.run, connection.verify
        return fetch_manifest(bucket, peer, run, digest=digest, window=window, verify=verify)

    def peers(window: Window, uids: Collection[Uid]) -> Mapping[Uid, Peer]:
        then = chain.candidates(window)
        others = [uid for uid in uids if uid not in then or not then[uid].address]
        return (
            {**then, **{uid: peer for uid, peer in chain.register(others).items() if uid in others}} if others else then
        )

    return Following(fetch, peers, connection.manifest_wait_s, connection.start_window)
