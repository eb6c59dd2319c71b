"""Payloads of a run as an audit reads them: whatever is there, of whomever."""

from __future__ import annotations

from collections.abc import Mapping

from templar_pl.compression.grid import ChunkGrid
from templar_pl.protocol import Expected, Payload, Peer, decode_payload, payload_bytes, payload_key
from templar_pl.training.run_view import RunView
from templar_pl.units import Window


class Payloads:
    """The payloads in all buckets of a run."""

    def __init__(self, view: RunView, digest: bytes, grids: Mapping[str, ChunkGrid]) -> None:
        """Store the parts.

        Args:
            view: of the run.
            digest: 32 bytes, of the settings and parameter shapes all nodes of the run share.
            grids: the chunks of every parameter.
        """
        self._view, self._digest, self._grids = view, digest, grids

    def get(self, peer: Peer, window: Window) -> bytes:
        """Return what a peer has put for a window.

        Raises:
            ObjectMissingError: there is nothing.
            OversizedError: it is larger than any payload.
            StoreError: the store failed, or the address of the bucket is malformed.
        """
        key = payload_key(self._view.run, window, peer.uid)
        return self._view.buckets.of(peer.address).get(key, max_bytes=payload_bytes(self._grids))

    def landed_at(self, peer: Peer, window: Window) -> float:
        """Return when it was written, in UTC seconds by the clock of its store. Raises as `get`."""
        key = payload_key(self._view.run, window, peer.uid)
        return self._view.buckets.of(peer.address).head(key).modified

    def decode(self, data: bytes, peer: Peer, window: Window) -> Payload:
        """Return what the bytes say. Raises `PayloadError` if they are no payload of this peer and window."""
        expected = Expected(run=self._digest, window=window, uid=peer.uid, public_key=peer.public_key)
        return decode_payload(data, self._grids, expected, self._view.verify)
