"""Payloads of a run as an audit reads them: whatever is there, of whomever."""

from __future__ import annotations

from collections.abc import Mapping

from templar_pl.compression.grid import ChunkGrid
from templar_pl.errors import OversizedError, PayloadError
from templar_pl.protocol import Expected, Payload, Peer, decode_payload, payload_bytes, payload_key, payload_keys
from templar_pl.training.run_view import RunView
from templar_pl.units import Uid, Window


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
        self._newest: dict[Uid, Window] = {}

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

    def has_newer(self, peer: Peer, window: Window) -> bool:
        """Return whether a peer has sent a payload of a window after this one, by the clock of the chain.

        Only its newest key is looked at, of those that are not of windows to come: there must be a payload behind it.

        Raises:
            StoreError: its bucket cannot be read, or the address of it is malformed.
            ChainError: nobody says which window is open.
        """
        if self._newest.get(peer.uid, window) <= window < (now := self._view.open_window()):
            self._newest[peer.uid] = self._ask_newest(peer, now)
        return self._newest.get(peer.uid, window) > window

    def _ask_newest(self, peer: Peer, now: Window) -> Window:
        """Return the window of the newest payload of a peer up to a window; -1 if there is none behind that key."""
        keys = payload_keys(self._view.run, peer.uid)
        listed = (keys.window_of(key) for key in self._view.buckets.of(peer.address).list(keys.prefix))
        newest = max((sent for sent in listed if sent is not None and sent <= now), default=None)
        if newest is None:
            return Window(-1)
        try:
            self.decode(self.get(peer, newest), peer, newest)
        except (OversizedError, PayloadError):
            return Window(-1)
        return newest

    def decode(self, data: bytes, peer: Peer, window: Window) -> Payload:
        """Return what the bytes say. Raises `PayloadError` if they are no payload of this peer and window."""
        expected = Expected(run=self._digest, window=window, uid=peer.uid, public_key=peer.public_key)
        return decode_payload(data, self._grids, expected, self._view.verify)
