"""Windows that an aggregator writes a manifest for: whoever follows it applies exactly its list.

A window without a manifest consists of what landed, as `LandedRecord` finds out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from templar_pl.errors import ChainError, DocumentError, ObjectMissingError, OutOfSyncError, PayloadError, StoreError
from templar_pl.exchange.aggregates import StandingManifest
from templar_pl.exchange.gather import Gathered
from templar_pl.exchange.landed import Clock, LandedRecord
from templar_pl.exchange.publish import Published
from templar_pl.exchange.record import GRACE_S, SLICE_S, Fetched, PayloadSource, gaps_of
from templar_pl.exchange.window_values import Collected, GoneError, Identity, Limits, Outgoing
from templar_pl.protocol.manifest import Manifest
from templar_pl.protocol.payload import Payload
from templar_pl.protocol.peer import Peer
from templar_pl.units import Uid, Window

log = logging.getLogger(__name__)

SHARE_WHEN_SILENT = 0.1
"""Of the wait for a manifest, where there was none for the window before: an aggregator that is gone must cost little,
but the first one after its return should be followed."""


@dataclass(frozen=True, slots=True)
class Following:
    """How an aggregator is followed."""

    fetch: Callable[[Window], StandingManifest]
    """Reads the manifest of a window; raises as `fetch_manifest` does, `ObjectMissingError` also if the aggregator is
    not registered, or `ChainError`."""

    peers: Callable[[Window, Collection[Uid]], Mapping[Uid, Peer]]
    """Returns who had these uids in a window, as far as the chain knows."""

    wait_s: float
    """Seconds after the end of uploads for which a manifest is waited for."""

    first: Window
    """Of the run: no manifest says before it whether there is an aggregator."""


class ManifestRecord:
    """A `WindowRecord` that follows an aggregator."""

    def __init__(
        self,
        landed: LandedRecord,
        clock: Clock,
        identity: Identity,
        *,
        source: PayloadSource,
        limits: Limits,
        following: Following,
    ) -> None:
        """Store the parts.

        Args:
            landed: what windows are without a manifest.
            clock: windows by the clock.
            identity: of this node.
            source: of the payloads.
            limits: time and number.
            following: of whom, and for how long it is waited for.
        """
        self._landed, self._clock, self._identity = landed, clock, identity
        self._source, self._limits, self._following = source, limits, following
        self._has_manifests, self._has_seen_any = True, False

    def join(self, window: Window) -> Window:
        """See `LandedRecord.join`."""
        return self._landed.join(window)

    def seconds_to_put(self, window: Window) -> float:
        """See `LandedRecord.seconds_to_put`."""
        return self._landed.seconds_to_put(window)

    def confirm(self, outgoing: Outgoing, published: Published) -> None:
        """See `LandedRecord.confirm`."""
        self._landed.confirm(outgoing, published)

    def abstain(self, window: Window) -> None:
        """Do nothing: nobody waits for this node."""

    def collect(self, window: Window, own: Outgoing | None) -> Collected:
        """Wait for the manifest and fetch what it lists; without one, what landed.

        While uploads go on, what lands is gathered meanwhile, and only what is listed and lacks is fetched once more,
        by its hash. What a manifest of the past lists is fetched by hash alone, however long ago it was.

        Raises:
            GoneError: a listed payload cannot be had; its window may still have an aggregate.
            OutOfSyncError: there is no manifest, and `LandedRecord.collect` failed.
        """
        is_past = self._since_uploads_s(window) > 0
        landed = None if is_past else self._landed.collect(window, own)
        standing = self._await_manifest(window)
        if standing is not None:
            if not self._has_manifests:
                log.info("window %d: there are manifests again", window)
            self._has_manifests = True
            return self._listed(standing, own, landed)
        landed = landed or self._landed.collect(window, own)
        if self._has_manifests:
            count = len(landed.payloads)
            log.warning("window %d: no manifest, applying the %d payload(s) that landed in time", window, count)
        self._has_manifests = False
        return landed

    def own_payload(self, window: Window) -> Payload | None:
        """Return what this node sent for a window that is over and its manifest lists, if there is one; else None.

        Without a manifest: what it sent and landed. Raises as `WindowRecord.own_payload`.
        """
        standing = self._await_manifest(window)
        if standing is None:
            return self._landed.own_payload(window)
        mine = self._identity.uid
        if mine not in standing.manifest.payloads:
            return None
        peers = self._peers(window, [mine])
        if peers[mine].public_key != self._identity.signer.public_key:
            return None  # a public chain gives a uid that is free to another hotkey
        gathered = self._source.fetch(window, peers, hashes=standing.manifest.payloads, may_come=False)
        if mine in gathered.skipped:
            raise StoreError(f"window {window}: the own payload cannot be had: {gathered.skipped[mine]}")
        return gathered.payloads[mine].payload

    def _listed(self, standing: StandingManifest, own: Outgoing | None, landed: Collected | None) -> Collected:
        """Return exactly what a manifest lists, of which some may be at hand. Raises `GoneError`."""
        manifest, window = standing.manifest, standing.manifest.window
        known = {} if landed is None else _equal(landed, manifest)
        if own is not None and manifest.payloads.get(self._identity.uid) == own.sha256:
            known[self._identity.uid] = own.payload
        gathered: Gathered[Fetched] = Gathered({}, {}, 0)
        gone = ""
        try:
            gathered = self._fetch(manifest, [uid for uid in manifest.payloads if uid not in known])
            # Its aggregator has decoded it: what this node cannot verify counts all the same.
            gone = gaps_of(window, gathered.skipped.values())
        except OutOfSyncError as error:
            gone = str(error)
        payloads = known | {uid: fetched.payload for uid, fetched in gathered.payloads.items()}
        collected = Collected(
            manifest.settlement(),
            {uid: payloads[uid] for uid in sorted(payloads)},
            dict(sorted(_left_out(manifest).items())),
            gathered.bytes_down + (0 if landed is None else landed.bytes_down),
            standing,
            gone,
        )
        if gone:
            raise GoneError(collected)
        return collected

    def _fetch(self, manifest: Manifest, uids: Collection[Uid]) -> Gathered[Fetched]:
        if not uids:
            return Gathered({}, {}, 0)
        peers = self._peers(manifest.window, uids)
        # The aggregator has read them, so what is missing now will not come.
        return self._source.fetch(manifest.window, peers, hashes=manifest.payloads, may_come=False)

    def _peers(self, window: Window, uids: Iterable[Uid]) -> dict[Uid, Peer]:
        wanted = sorted(uids)
        known = self._following.peers(window, wanted)
        if unknown := [uid for uid in wanted if uid not in known]:
            raise OutOfSyncError(f"window {window}: the manifest lists uids {unknown}, which are not in the register")
        return {uid: known[uid] for uid in wanted}

    def _await_manifest(self, window: Window) -> StandingManifest | None:
        """Return the manifest of a window, None if there is none that can be used.

        One that is not there is waited for until `wait_s` seconds after the end of uploads, which is the same moment on
        all nodes, but not for long if the aggregator does not keep up. A store that fails tells nothing, so it is asked
        for `wait_s` seconds from now on, unless it failed for the last window too.
        """
        start = time.monotonic()
        keeps_up = False
        while True:
            waited_s = time.monotonic() - start
            try:
                return self._fetched(window)
            except DocumentError as error:
                log.warning("window %d: what the aggregator published is no manifest to follow: %s", window, error)
                return None
            except ObjectMissingError:
                keeps_up = keeps_up or self._keeps_up(window)
                share = 1.0 if keeps_up else SHARE_WHEN_SILENT if self._has_seen_any else 0.0
                left_s = self._following.wait_s * share - self._since_uploads_s(window)
            except (StoreError, ChainError) as error:
                left_s = self._following.wait_s - waited_s if self._has_manifests else 0.0
                log.warning("window %d: the manifest cannot be read: %s", window, error)
            if left_s <= 0:
                return None
            if waited_s > GRACE_S:
                self._limits.check_interrupt()
            threading.Event().wait(min(SLICE_S, left_s))

    def _keeps_up(self, window: Window) -> bool:
        """Whether the aggregator published the window before, so that it is worth waiting for this one."""
        if window <= self._following.first:
            return True
        try:
            self._fetched(Window(window - 1))
        except ObjectMissingError:
            return False
        except (DocumentError, StoreError, ChainError):
            return True  # not known: better wait in vain than apply another list than the others
        return True

    def _fetched(self, window: Window) -> StandingManifest:
        """Read a manifest. Raises as `Following.fetch`."""
        standing = self._following.fetch(window)
        self._has_seen_any = True
        return standing

    def _since_uploads_s(self, window: Window) -> float:
        """Return the seconds since the end of uploads; below 0 before it."""
        first, last = self._clock.upload_interval(window)
        return -self._clock.seconds_left(window) - (last - first)


def _left_out(manifest: Manifest) -> dict[Uid, PayloadError | StoreError]:
    """Return why a manifest leaves peers out."""
    return {
        uid: PayloadError(f"left out by the manifest: {why.words}", fault=why.fault, peer=uid, window=manifest.window)
        for uid, why in manifest.left_out.items()
    }


def _equal(landed: Collected, manifest: Manifest) -> dict[Uid, Payload]:
    """Return what landed and is listed by its hash."""
    hashes = landed.settlement.payloads
    return {uid: p for uid, p in landed.payloads.items() if hashes[uid] == manifest.payloads.get(uid)}
