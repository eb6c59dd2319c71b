"""Put the exchange of a run together from an open network."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from templar_pl.compression import MomentumCodec
from templar_pl.exchange.agreed import AgreedRecord
from templar_pl.exchange.landed import LandedRecord
from templar_pl.exchange.record import PayloadSource, WindowRecord
from templar_pl.exchange.round_trip import RoundTrip
from templar_pl.exchange.window_values import Identity, Limits
from templar_pl.protocol.peer import Peer
from templar_pl.training.network import Connection
from templar_pl.units import Uid, Window


def open_round_trip(
    codec: MomentumCodec,
    identity: Identity,
    connection: Connection,
    limits: Limits,
    *,
    known: Callable[[Collection[Uid]], Mapping[Uid, Peer]],
    candidates: Callable[[Window], Mapping[Uid, Peer]],
) -> RoundTrip:
    """Return the exchange of one window after the other.

    Args:
        codec: momentum of all parameters.
        identity: of this node.
        connection: the open network.
        limits: time and number.
        known: returns the register of the chain, read anew only if it lacks one of these uids.
        candidates: returns the peers whose payloads of a window may count.
    """
    source = PayloadSource(codec, identity, connection.buckets, limits)
    record: WindowRecord
    if connection.agreement is not None:
        record = AgreedRecord(connection.agreement, identity, source, known, limits)
    else:
        own = connection.buckets.own
        record = LandedRecord(connection.chain, candidates, identity, source=source, own_bucket=own, limits=limits)
    return RoundTrip(
        codec, identity, buckets=connection.buckets, record=record, source=source, timeout_s=limits.timeout_s
    )
