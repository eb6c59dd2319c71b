"""Whom a validator would have had all nodes gather from, as far as that is still known."""

from __future__ import annotations

from dataclasses import dataclass

from templar_pl.errors import DocumentError, ObjectMissingError, StoreError
from templar_pl.exchange import fetch_peer_list
from templar_pl.exchange.large_objects import in_parallel
from templar_pl.protocol import Peer, PeerListFile
from templar_pl.training.run_view import RunView
from templar_pl.units import Uid, Window

_NUM_READERS = 16


@dataclass(frozen=True, slots=True)
class Listed:
    """Whether payloads of somebody could count in a window by the list of peers in force."""

    is_member: bool = False
    unknown: str = ""
    """Why nobody can tell; empty where that is known."""


class StoredLists:
    """The list of peers that stands in the store; a new one replaces it, so older ones are not known."""

    def __init__(self, view: RunView) -> None:
        """Store where to look; nothing is read before the first question."""
        self._view = view
        self._found: PeerListFile | str | None = None
        self._is_read = False

    def look_up(self, uid: Uid, window: Window) -> Listed:
        """Return whether payloads of a uid could count in a window. Raises `ChainError`."""
        if not self._is_read:
            self._found, self._is_read = self._read(window), True
        found = self._found
        if found is None:
            return Listed(is_member=True)
        if isinstance(found, str):
            return Listed(unknown=found)
        if found.effective_from > window:
            return Listed(unknown=f"that of then was replaced by one from window {found.effective_from} on")
        return Listed(is_member=not found.uids or uid in found.uids)

    def _read(self, window: Window) -> PeerListFile | str | None:
        """Return the list; None where nobody has any; words where nobody knows: one that cannot be read may count."""
        view = self._view
        if view.validator is not None:
            return self._list_of(view.validator)
        peers = [peer for peer in view.register(window).values() if peer.address]
        lists = in_parallel(self._list_of, peers, _NUM_READERS)
        publish = [
            f"uid {peer.uid}" for peer, found in zip(peers, lists, strict=True) if isinstance(found, PeerListFile)
        ]
        unread = [found for found in lists if isinstance(found, str)]
        if publish:
            unread.insert(0, f"a list of peers is published by {', '.join(publish)}")
        return f"{'; '.join(unread)}: name a validator by --follow.validator" if unread else None

    def _list_of(self, peer: Peer) -> PeerListFile | str | None:
        try:
            return fetch_peer_list(self._view.buckets, peer, self._view.run, self._view.verify)
        except ObjectMissingError:
            return None
        except (DocumentError, StoreError) as error:
            return f"the list of peers of uid {peer.uid} cannot be read: {error}"
