"""When payloads landed, and whether those count that had to: all that the clock of the store still tells.

None of it is proof. A store keeps the time of the last writing only, and whoever owns a bucket may write the same bytes
again; who was a candidate and by which list of peers is known as of now. So the worst that is found here is a doubt.
"""

from __future__ import annotations

from collections.abc import Mapping

from templar_pl.errors import ObjectMissingError, PayloadError, StoreError
from templar_pl.exchange.gather import miss_of
from templar_pl.exchange.large_objects import in_parallel
from templar_pl.protocol import Manifest, Peer
from templar_pl.protocol.selection import select_peers
from templar_pl.roles.audit_findings import NOTHING, Finding, Verdict, joined
from templar_pl.roles.audit_kept import Kept
from templar_pl.roles.audit_lists import StoredLists
from templar_pl.roles.audit_payloads import Payloads
from templar_pl.training.run_view import RunView
from templar_pl.units import Uid, Window

_NUM_READERS = 16


class LandingAudit:
    """Looks at one window after the other."""

    def __init__(self, view: RunView, payloads: Payloads, kept: Kept, *, max_peers: int) -> None:
        """Store the parts.

        Args:
            view: of the run.
            payloads: of the run.
            kept: knows what is deleted.
            max_peers: payloads of a window that count at most.
        """
        self._view, self._payloads, self._kept, self._max_peers = view, payloads, kept, max_peers
        self._lists = StoredLists(view)

    def of_listed(self, manifest: Manifest, register: Mapping[Uid, Peer]) -> Finding:
        """Say which of the payloads that are listed were written when uploads were not open."""
        listed = sorted(manifest.payloads)
        peers = [register[uid] for uid in listed if uid in register and register[uid].address]
        landed = in_parallel(lambda peer: self._landed_at(peer, manifest.window), peers, _NUM_READERS)
        times = {peer.uid: at for peer, at in zip(peers, landed, strict=True) if at is not None}
        findings = [_odd_time(uid, at, manifest) for uid, at in times.items()]
        if unknown := [str(uid) for uid in listed if uid not in times]:
            words = f"when the payload(s) of uid {', '.join(unknown)} landed cannot be told any more"
            findings.append(Finding(Verdict.UNCHECKED, words))
        return joined(findings, otherwise=Finding(Verdict.AGREES) if listed else NOTHING)

    def of_unnamed(self, manifest: Manifest) -> Finding:
        """Say whose payload should have been listed, or left out with a reason, and is not named at all.

        Raises:
            StoreError: the bucket of the aggregator cannot be read.
            ChainError: nobody says who was registered, or which window is open.
        """
        candidates = {uid: peer for uid, peer in self._view.candidates(manifest.window).items() if peer.address}
        named = manifest.payloads.keys() | manifest.left_out.keys()
        drawn = named & candidates.keys()
        missing = [
            peer
            for uid, peer in sorted(candidates.items())
            if uid not in named and uid in select_peers([*drawn, uid], self._max_peers, manifest.window)
        ]
        answers = in_parallel(lambda peer: self._unnamed(manifest, peer), missing, _NUM_READERS)
        findings = [answer for answer in answers if isinstance(answer, Finding)]
        findings += self._absences(manifest.window, [answer for answer in answers if isinstance(answer, Peer)])
        return joined(findings, otherwise=Finding(Verdict.AGREES))

    def landed_in_time(self, manifest: Manifest, peer: Peer) -> bool:
        """Return whether a valid payload is there that landed while uploads were open. Raises `StoreError`."""
        at = self._payloads.landed_at(peer, manifest.window)
        if miss_of(at, (manifest.opened_at, manifest.closed_at)) is not None:
            return False
        try:
            self._payloads.decode(self._payloads.get(peer, manifest.window), peer, manifest.window)
        except PayloadError:
            return False
        return True

    def _landed_at(self, peer: Peer, window: Window) -> float | None:
        try:
            return self._payloads.landed_at(peer, window)
        except StoreError:
            return None

    def _unnamed(self, manifest: Manifest, peer: Peer) -> Finding | Peer:
        """Return what is found of a peer; the peer itself if no payload of it is there."""
        start = f"uid {peer.uid} is not named"
        try:
            if not self.landed_in_time(manifest, peer):
                return NOTHING
        except ObjectMissingError:
            return peer
        except StoreError as error:
            return Finding(Verdict.UNCHECKED, f"{start}, and its bucket cannot be read: {error}")
        return self._unlisted(peer, manifest.window, start)

    def _absences(self, window: Window, peers: list[Peer]) -> list[Finding]:
        """Say which payloads that are not there were never sent. Raises `StoreError` and `ChainError`."""
        if peers and self._kept.must_have_payloads(window):
            return in_parallel(lambda peer: self._absence(window, peer), peers, _NUM_READERS)
        return [_not_kept(peer) for peer in peers]

    def _absence(self, window: Window, peer: Peer) -> Finding:
        try:
            has_newer = self._payloads.has_newer(peer, Window(window + self._kept.keep_windows))
        except StoreError as error:
            words = f"uid {peer.uid} is not named, and what it sent, if anything, cannot be told: {error}"
            return Finding(Verdict.UNCHECKED, words)
        return _not_kept(peer) if has_newer else NOTHING  # nothing was sent

    def _unlisted(self, peer: Peer, window: Window, start: str) -> Finding:
        """Say whether a list of peers is why the payload of a peer does not count."""
        listed = self._lists.look_up(peer.uid, window)
        if listed.unknown:
            why = f"whether a list of peers left it out cannot be told: {listed.unknown}"
            return Finding(Verdict.UNCHECKED, f"{start}; {why}")
        if not listed.is_member:
            return NOTHING
        return Finding(Verdict.DOUBT, f"{start}, but a valid payload is there that landed in time")


def _not_kept(peer: Peer) -> Finding:
    words = f"uid {peer.uid} is not named, and what it sent, if anything, is not kept any more"
    return Finding(Verdict.UNCHECKED, words)


def _odd_time(uid: Uid, at: float, manifest: Manifest) -> Finding:
    miss = miss_of(at, (manifest.opened_at, manifest.closed_at))
    if miss is None:
        return Finding(Verdict.AGREES)
    return Finding(Verdict.DOUBT, f"uid {uid} is listed, and what is there was {miss[1]}")
