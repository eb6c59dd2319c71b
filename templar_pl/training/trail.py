"""Where the past windows of a run are found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from templar_pl.errors import DocumentError, StoreError
from templar_pl.exchange.aggregates import AggregateSource, FileBuckets
from templar_pl.exchange.network_checkpoints import Source
from templar_pl.exchange.window_values import Collected
from templar_pl.protocol import Manifest, Peer, Verify
from templar_pl.units import Window


@dataclass(frozen=True, kw_only=True)
class Trail:
    """What the nodes of a run left behind, and whose word counts."""

    run: str
    """Name of the run, the first part of all its keys."""

    digest: bytes
    """32 bytes, of the settings and parameter shapes that all nodes share."""

    start_window: Window
    verify: Verify
    buckets: FileBuckets

    aggregator: Callable[[], Peer | None]
    """Whose manifests and aggregates count, as the register has it now; None if nobody's do."""

    leaders: Callable[[], Sequence[Peer]]
    """Whose checkpoints count, as the register has them now; of equally new ones that of the first."""

    collect: Callable[[Window], Collected]
    """Fetches the payloads of a window that is over: those of its manifest, else what landed in time; raises
    `OutOfSyncError` if they cannot be had."""

    folder: Path
    """For files on their way; of this process alone."""

    def aggregates(self) -> AggregateSource | None:
        """Return what reads manifests and aggregates; None if nobody's count, or the register has no such bucket."""
        peer = self.aggregator()
        if peer is None or not peer.address:
            return None
        return AggregateSource(self.buckets, peer, self.run, self.digest, self.verify)

    def source(self, leader: Peer) -> Source:
        """Return where the checkpoints of a leader are. Raises `StoreError` if its address is malformed."""
        return Source(name_of(leader), leader.public_key, self.buckets.of(leader.address))


def said_before(aggregates: AggregateSource, window: Window, start_window: Window) -> bytes | None:
    """Return the fingerprint of the parameters before a window by its manifest, or else by that of the window before.

    Args:
        aggregates: whose manifests count.
        window: of the run.
        start_window: first window of the run.

    Returns:
        32 bytes; None if neither manifest can be had.
    """
    before = _manifest(aggregates, window)
    if before is not None:
        return before.before
    earlier = _manifest(aggregates, Window(window - 1)) if window > start_window else None
    return None if earlier is None else earlier.after


def _manifest(aggregates: AggregateSource, window: Window) -> Manifest | None:
    try:
        return aggregates.fetch_manifest(window).manifest
    except (DocumentError, StoreError):
        return None


def name_of(peer: Peer) -> str:
    """Return what a peer is called in messages."""
    return f"peer {peer.uid} ({peer.hotkey})"
