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
        self._lists: dict[Window, tuple[Uid, ...]] = {}
        self._newest: PeerListFile | None = None
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
        if found is None:
            return
        for earlier in found.lists:
            self._lists.setdefault(earlier.effective_from, earlier.uids)
        if found != self._newest:
            self._newest, self._lists[found.effective_from] = found, found.uids
            log.info("from window %d on peers are %s, says the validator", found.effective_from, list(found.uids))

    def members(self, window: Window) -> frozenset[Uid] | None:
        """Return whose payloads of a window count; None where no list, or an empty one, is in force.

        Before all lists that are known the oldest of them counts: whom the validator kept off then it hardly let in.
        """
        known = sorted(self._lists)
        begun = [start for start in known if start <= window] or known[:1]
        uids = self._lists[begun[-1]] if begun else ()
        return frozenset(uids) or None

    def _read(self, validator: Hotkey) -> PeerListFile | None:
        peer = find_peer(self._register, validator)
        if peer is None or not peer.address:
            return None
        try:
            return fetch_peer_list(self._buckets, peer, self._run, self._verify)
        except ObjectMissingError:
            return None
