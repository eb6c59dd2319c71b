"""Windows that nobody writes a list for: what landed in time by the clock of the store is what they consist of.

Every node judges by the same clock, so all come to the same list, unless one of them cannot reach the store, or a peer
replaces its payload while others read it. Only a list of hashes rules that out (`AgreedRecord`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from templar_pl.errors import ChainError, Fault, OutOfSyncError, StoreError
from templar_pl.exchange.gather import CLOCK_SLACK_S, Gathered, Interval, miss_of
from templar_pl.exchange.publish import Published
from templar_pl.exchange.record import GRACE_S, SLICE_S, Fetched, PayloadSource
from templar_pl.exchange.store import Bucket
from templar_pl.exchange.window_values import Collected, Identity, Limits, Outgoing
from templar_pl.protocol.agreement import Settlement
from templar_pl.protocol.keys import payload_key
from templar_pl.protocol.payload import Payload
from templar_pl.protocol.peer import Peer
from templar_pl.protocol.selection import select_peers
from templar_pl.units import Uid, Window

log = logging.getLogger(__name__)


class Clock(Protocol):
    """What is asked of the chain."""

    def window(self) -> Window:
        """Return the window now open."""
        ...

    def seconds_left(self, window: Window) -> float:
        """Return the seconds until `window` is over, 0 or less if it is."""
        ...

    def upload_interval(self, window: Window) -> Interval:
        """Return the UTC seconds (first, last) in which payloads of `window` may land."""
        ...


class LandedRecord:
    """A `WindowRecord` by the clock alone."""

    def __init__(
        self,
        clock: Clock,
        candidates: Callable[[Window], Mapping[Uid, Peer]],
        identity: Identity,
        *,
        source: PayloadSource,
        own_bucket: Callable[[], Bucket],
        limits: Limits,
    ) -> None:
        """Store the parts.

        Args:
            clock: windows by the clock.
            candidates: returns the peers whose payloads of a window may count, the same ones on every node.
            identity: of this node.
            source: of the payloads.
            own_bucket: opens the own bucket, to replace a payload that landed too early.
            limits: time and number.
        """
        self._clock, self._registered, self._identity = clock, candidates, identity
        self._source, self._own_bucket, self._limits = source, own_bucket, limits
        self._has_counted = False

    def join(self, window: Window) -> Window:
        """Return the window that is open; where this node is no candidate for it yet, the next one.

        Raises:
            OutOfSyncError: the own hotkey was a candidate, and is registered no more.
        """
        registered = self._registered(window)
        may_join = self._counts(registered)
        if self._has_counted and all(peer.public_key != self._public_key for peer in registered.values()):
            raise OutOfSyncError(
                f"window {window}: the own hotkey is not registered any more: register it again, and start again"
            )
        self._has_counted = self._has_counted or may_join
        while (opened := self._clock.window()) == window and not may_join:
            self._limits.check_interrupt()
            threading.Event().wait(min(SLICE_S, max(0.01, self._clock.seconds_left(window))))
        return opened

    def seconds_to_put(self, window: Window) -> float:
        """Return the seconds until uploads end, and a little more, for stores tell whole seconds.

        Raises:
            ChainError: they have ended.
        """
        first, last = self._clock.upload_interval(window)
        left_s = self._clock.seconds_left(window) + last - first + CLOCK_SLACK_S
        if left_s <= 0:
            raise ChainError(
                f"window {window}: uploads ended {CLOCK_SLACK_S - left_s:.1f} s before this node was ready"
            )
        return left_s

    def confirm(self, outgoing: Outgoing, published: Published) -> None:
        """See whether the payload landed in time; write it once more if it landed too early.

        Raises:
            ChainError: it landed too late, or too early twice.
            StoreError: the bucket had to be asked and did not answer.
        """
        key = payload_key(self._identity.run, outgoing.window, self._identity.uid)
        interval = self._clock.upload_interval(outgoing.window)
        miss = miss_of(published.modified, interval)
        if miss is not None and miss[0] is Fault.EARLY:
            log.warning("%s: %s: the clock of this machine is ahead of the store's. Set it (NTP)", key, miss[1])
            self._wait_for(outgoing.window, interval[0] - published.modified)
            bucket = self._own_bucket()
            bucket.put(key, outgoing.data)
            miss = miss_of(bucket.head(key).modified, interval)
        if miss is not None:
            raise ChainError(f"{key} does not count: it was {miss[1]}")

    def abstain(self, window: Window) -> None:
        """Do nothing: nobody waits for this node."""

    def collect(self, window: Window, own: Outgoing | None) -> Collected:
        """Wait until the window is over, and gather what landed in time.

        A peer that the store does not answer for by the deadline is left out. When it answers for none at all, the own
        bucket included, that is no fault of the peers: the gather is repeated for `patience_s`.

        Raises:
            OutOfSyncError: the store did not answer, or the window lies so far back that its payloads are deleted.
        """
        self._wait_until_over(window)
        interval = self._clock.upload_interval(window)
        peers = self._candidates(window)
        if peers and self._clock.window() - window > self._limits.keep_windows:
            raise OutOfSyncError(
                f"window {window}: payloads are kept for {self._limits.keep_windows} windows, and window "
                f"{self._clock.window()} is open. Start from a checkpoint of a later window"
            )
        mine = self._identity.uid
        own = own if self._counts(peers) else None
        asked = {uid: peer for uid, peer in peers.items() if own is None or uid != mine}
        # A put that counted says that the store can be reached.
        patience_s = self._limits.patience_s if own is None else 0.0
        gathered = self._gather(window, asked, interval, patience_s)
        found = dict(gathered.payloads)
        if own is not None:
            found[mine] = Fetched(own.sha256, own.payload)
        found = dict(sorted(found.items()))
        return Collected(
            Settlement(window, {uid: fetched.sha256 for uid, fetched in found.items()}, *interval),
            {uid: fetched.payload for uid, fetched in found.items()},
            gathered.skipped,
            gathered.bytes_down,
        )

    def own_payload(self, window: Window) -> Payload | None:
        """See `WindowRecord.own_payload`."""
        mine = self._identity.uid
        peers = self._candidates(window)
        if not self._counts(peers):
            return None
        gathered = self._source.fetch(window, {mine: peers[mine]}, interval=self._clock.upload_interval(window))
        error = gathered.skipped.get(mine)
        if isinstance(error, StoreError):
            raise error
        return None if error is not None else gathered.payloads[mine].payload

    @property
    def _public_key(self) -> bytes:
        return self._identity.signer.public_key

    def _counts(self, peers: Mapping[Uid, Peer]) -> bool:
        """Say whether all take the own uid for this node: its key, and the bucket it writes to.

        A public chain gives a uid that is free to another hotkey, and nodes learn of a new bucket later.
        """
        peer = peers.get(self._identity.uid)
        return peer is not None and (peer.public_key, peer.address) == (self._public_key, self._identity.address)

    def _candidates(self, window: Window) -> dict[Uid, Peer]:
        """Return the peers whose payloads are applied if they landed, the same ones on every node."""
        known = {uid: peer for uid, peer in self._registered(window).items() if peer.address}
        return {uid: known[uid] for uid in select_peers(known, self._limits.max_peers, window)}

    def _gather(
        self, window: Window, peers: Mapping[Uid, Peer], interval: Interval, patience_s: float
    ) -> Gathered[Fetched]:
        give_up = time.monotonic() + patience_s
        was_silent = False
        while True:
            gathered = self._source.fetch(window, peers, interval=interval)
            unanswered = [error for error in gathered.skipped.values() if isinstance(error, StoreError)]
            if not patience_s or not unanswered or len(unanswered) < len(peers):
                break
            was_silent = True
            if time.monotonic() >= give_up:
                raise OutOfSyncError(
                    f"window {window}: the store answered for no peer within {patience_s:g} s: {unanswered[0]}"
                )
            log.warning("window %d: the store answers for no peer, asking again: %s", window, unanswered[0])
            self._limits.check_interrupt()
            threading.Event().wait(min(SLICE_S, max(0.0, give_up - time.monotonic())))
        if not (was_silent and unanswered):
            return gathered
        log.info("window %d: the store answers again, asking for the other %d peer(s)", window, len(unanswered))
        silent = {uid: peers[uid] for uid, error in gathered.skipped.items() if isinstance(error, StoreError)}
        return _merge(gathered, self._source.fetch(window, silent, interval=interval))

    def _wait_for(self, window: Window, seconds: float) -> None:
        """Wait until the store's clock is as far. Raises `ChainError` if uploads are over before."""
        if seconds > self.seconds_to_put(window):
            raise ChainError(
                f"window {window}: the clock of this machine is {seconds:.0f} s ahead of the store's. Set it (NTP)"
            )
        give_up = time.monotonic() + seconds
        while (left_s := give_up - time.monotonic()) > 0:
            self._limits.check_interrupt()
            threading.Event().wait(min(SLICE_S, left_s))

    def _wait_until_over(self, window: Window) -> None:
        start = time.monotonic()
        while (left_s := self._clock.seconds_left(window)) > 0:
            if time.monotonic() - start > GRACE_S:
                self._limits.check_interrupt()
            threading.Event().wait(min(SLICE_S, left_s))


def _merge(first: Gathered[Fetched], second: Gathered[Fetched]) -> Gathered[Fetched]:
    """Lay the answers of a second gather over those of the first."""
    again = second.payloads.keys() | second.skipped.keys()
    skipped = {uid: error for uid, error in first.skipped.items() if uid not in again} | second.skipped
    return Gathered(
        dict(sorted((first.payloads | second.payloads).items())),
        dict(sorted(skipped.items())),
        first.bytes_down + second.bytes_down,
    )
