"""Whom a validator would have gathered from, window by window."""

from __future__ import annotations

import logging

from templar_pl.chain import Register, find_peer
from templar_pl.errors import ChainError, DocumentError, ObjectMissingError, StoreError
from templar_pl.exchange import Buckets, fetch_peer_list
from templar_pl.protocol import PeerListFile
from templar_pl.protocol.signing import Verify
from templar_pl.units import Hotkey, Uid, Window

log = logging.getLogger(__name__)


class PeerLists:
    """The lists of one validator, as far as they were read."""

    def __init__(
        self, register: Register, buckets: Buckets, validator: Hotkey | None, run: str, verify: Verify
    ) -> None:
        """Store the parts.

        Args:
            register: tells where the validator's bucket is.
            buckets: all buckets of the run.
            validator: whose lists count; None for nobody's.
            run: name of the run, the first part of all its keys.
            verify: checks a signature.
        """
        self._register, self._buckets, self._validator = register, buckets, validator
        self._run, self._verify = run, verify
        self._lists: dict[Window, PeerListFile] = {}
        self._is_failing = False

    def look(self) -> None:
        """Read the newest list. What was read before stays as it is where that fails, which is logged once."""
        if self._validator is None:
            return
        try:
            found = self._read(self._validator)
        except (ChainError, StoreError, DocumentError) as error:
            if not self._is_failing:
                log.warning("the list of peers cannot be read, the last known stays in force: %s", error)
            self._is_failing = True
            return
        self._is_failing = False
        if found is not None and self._lists.get(found.effective_from) != found:
            self._lists[found.effective_from] = found
            log.info("from window %d on peers are %s, says the validator", found.effective_from, list(found.uids))

    def members(self, window: Window) -> frozenset[Uid] | None:
        """Return whose payloads of a window count; None where no list, or an empty one, is in force."""
        begun = [start for start in self._lists if start <= window]
        uids = self._lists[max(begun)].uids if begun else ()
        return frozenset(uids) or None

    def _read(self, validator: Hotkey) -> PeerListFile | None:
        peer = find_peer(self._register, validator)
        if peer is None or not peer.address:
            return None
        try:
            return fetch_peer_list(self._buckets, peer, self._run, self._verify)
        except ObjectMissingError:
            return None
