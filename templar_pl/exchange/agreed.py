"""Windows whose list of payloads is written down by hash: all nodes apply exactly that list."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Mapping

from templar_pl.errors import ChainError, OutOfSyncError, StoreError
from templar_pl.exchange.gather import Gathered
from templar_pl.exchange.publish import Published
from templar_pl.exchange.record import GRACE_S, SLICE_S, Fetched, PayloadSource, refuse_gaps
from templar_pl.exchange.window_values import Collected, Identity, Limits, Outgoing
from templar_pl.protocol.agreement import Agreement, Settlement
from templar_pl.protocol.payload import Payload
from templar_pl.protocol.peer import Peer
from templar_pl.protocol.selection import select_peers
from templar_pl.units import Uid, Window

log = logging.getLogger(__name__)


class AgreedRecord:
    """A `WindowRecord` that follows an `Agreement`."""

    def __init__(
        self,
        agreement: Agreement,
        identity: Identity,
        source: PayloadSource,
        peers: Callable[[Collection[Uid]], Mapping[Uid, Peer]],
        limits: Limits,
    ) -> None:
        """Store the parts.

        Args:
            agreement: what each window consists of.
            identity: of this node.
            source: of the payloads.
            peers: returns the register of the chain, with these uids if they are registered at all.
            limits: time and number.
        """
        self._agreement, self._identity, self._source = agreement, identity, source
        self._peers, self._limits = peers, limits

    def join(self, window: Window) -> Window:
        """See `WindowRecord.join`."""
        return self._agreement.join(window)

    def seconds_to_put(self, window: Window) -> float:  # noqa: ARG002 - others ask a clock
        """See `WindowRecord.seconds_to_put`: whoever closes the window decides."""
        return math.inf

    def confirm(self, outgoing: Outgoing, published: Published) -> None:
        """Announce the payload. Raises `ChainError` if the window was closed without it."""
        self._agreement.announce(outgoing.window, published.sha256)

    def abstain(self, window: Window) -> None:
        """See `WindowRecord.abstain`."""
        try:
            self._agreement.announce(window, None)
        except ChainError as error:
            log.debug("window %d: could not say that nothing comes: %s", window, error)

    def collect(self, window: Window, own: Outgoing | None) -> Collected:
        """Wait until the window is closed and fetch what it consists of.

        Raises:
            OutOfSyncError: a payload that the others apply cannot be had, or the window was not closed in time.
        """
        settlement = self.settle(window)
        chosen = select_peers(settlement.payloads, self._limits.max_peers, window)
        known: dict[Uid, Payload] = {}
        if own is not None and settlement.payloads.get(self._identity.uid) == own.sha256:
            known[self._identity.uid] = own.payload
        gathered = self._fetch(settlement, [uid for uid in chosen if uid not in known])
        refuse_gaps(window, gathered)
        payloads = known | {uid: fetched.payload for uid, fetched in gathered.payloads.items()}
        return Collected(
            settlement,
            {uid: payloads[uid] for uid in sorted(payloads) if uid in chosen},
            gathered.skipped,
            gathered.bytes_down,
        )

    def own_payload(self, window: Window) -> Payload | None:
        """See `WindowRecord.own_payload`."""
        settlement, uid = self.settle(window), self._identity.uid
        if uid not in settlement.payloads:
            return None
        gathered = self._fetch(settlement, [uid])
        if uid in gathered.skipped:
            raise StoreError(f"window {window}: the own payload cannot be had: {gathered.skipped[uid]}")
        return gathered.payloads[uid].payload

    def settle(self, window: Window) -> Settlement:
        """Wait until the window is closed; say what it waits for; give up after `patience_s`.

        Raises:
            OutOfSyncError: the window is still open after `patience_s` seconds.
        """
        start = time.monotonic()
        warn_at = start + self._limits.timeout_s
        while True:
            if time.monotonic() - start > GRACE_S:
                self._limits.check_interrupt()
            left_s = start + self._limits.patience_s - time.monotonic()
            try:
                return self._agreement.settle(window, max(0.0, min(SLICE_S, left_s)))
            except ChainError as error:
                if left_s <= 0:
                    raise OutOfSyncError(
                        f"window {window} was not closed within {self._limits.patience_s:g} s: {error}"
                    ) from error
                if time.monotonic() >= warn_at:
                    log.warning("window %d: still waiting: %s", window, error)
                    warn_at += self._limits.timeout_s

    def _fetch(self, settlement: Settlement, uids: list[Uid]) -> Gathered[Fetched]:
        register = self._peers(uids)
        if unknown := [uid for uid in uids if uid not in register]:
            raise OutOfSyncError(f"window {settlement.window}: uids {unknown} took part but are not in the register")
        peers = {uid: register[uid] for uid in uids}
        return self._source.fetch(settlement.window, peers, hashes=settlement.payloads)
