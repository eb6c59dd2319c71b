"""What the store says of a window, and whether that is in order: all that needs no replay.

Whoever keeps the windows of a run is asked for the manifest and the aggregate, each miner for its payload.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from templar_pl.compression.grid import ChunkGrid
from templar_pl.errors import (
    DocumentError,
    ObjectMissingError,
    OversizedError,
    PayloadError,
    StoreError,
    TransientError,
)
from templar_pl.exchange import AggregateSource, StandingManifest
from templar_pl.exchange.large_objects import in_parallel
from templar_pl.hparams import HParams
from templar_pl.protocol import (
    AggregateHead,
    AggregateNotice,
    Manifest,
    Payload,
    Peer,
    Shapes,
)
from templar_pl.roles.audit_findings import NOTHING, Check, Finding, Verdict, joined
from templar_pl.roles.audit_kept import Kept
from templar_pl.roles.audit_landings import LandingAudit
from templar_pl.roles.audit_payloads import Payloads
from templar_pl.training.run_view import RunView
from templar_pl.units import Uid, Window

_NUM_READERS = 16  # payloads of one window are read side by side
_TIME_SLACK_S = 0.001  # sums of times are rounded


@dataclass(frozen=True)
class StoredAggregate:
    """An aggregate on the own disk, whose hash is the one that its notice says."""

    path: Path
    head: AggregateHead
    """What it must say it is, by its notice."""


@dataclass
class Evidence:
    """What the store has of a window."""

    window: Window
    standing: StandingManifest | None = None
    """None if there is none that can be read."""

    payloads: dict[Uid, Payload] | None = None
    """All that the manifest lists, in uid order; None if one of them cannot be used."""

    aggregate: StoredAggregate | None = None
    """None if there is none that can be used."""

    is_deleted: bool = False
    """Whether the aggregator has deleted it meanwhile, with all that was before it."""

    findings: dict[Check, Finding] = field(default_factory=dict)

    @property
    def manifest(self) -> Manifest | None:
        """What the aggregator says of the window."""
        return None if self.standing is None else self.standing.manifest

    def add(self, check: Check, *findings: Finding) -> None:
        """Join findings with what was found by the same check before."""
        before = self.findings.get(check, NOTHING)
        self.findings[check] = joined((before, *findings), otherwise=_agreeing((before, *findings)))


class StoreAudit:
    """Reads what the store has of one window after the other."""

    def __init__(
        self, view: RunView, digest: bytes, grids: Mapping[str, ChunkGrid], kept: Kept, folder: Path, numbers: HParams
    ) -> None:
        """Store the parts.

        Args:
            view: of the run.
            digest: 32 bytes, of the settings and parameter shapes all nodes of the run share.
            grids: the chunks of every parameter.
            kept: knows what is deleted.
            folder: for an aggregate at a time; must exist.
            numbers: of the run.
        """
        self._view, self._digest = view, digest
        self._shapes: Shapes = {name: grid.shape for name, grid in grids.items()}
        self._path, self._kept = folder / "aggregate.bin", kept
        self._delta_s = numbers.window.time_window_delta_seconds
        self._payloads = Payloads(view, digest, grids)
        self._landings = LandingAudit(view, self._payloads, kept, max_peers=numbers.peers.max_topk_peers)
        self._source = AggregateSource(view.buckets, view.aggregator, view.run, digest, view.verify)

    def manifest(self, window: Window) -> StandingManifest:
        """Read the manifest of a window. Raises as `AggregateSource.fetch_manifest`."""
        return self._source.fetch_manifest(window)

    def read(self, window: Window, before: Manifest | None) -> Evidence:
        """Read what there is of a window, and judge it as far as the store itself allows.

        Args:
            window: of the run.
            before: the manifest of the window before it, if it could be read.

        Raises:
            StoreError: the bucket of the aggregator cannot be read; that of nobody else ends an audit.
            ChainError: nobody says who was registered, or which window is open.
        """
        found = Evidence(window)
        self._read_manifest(found, before)
        if found.manifest is not None:
            register = self._view.register(window)
            self._read_payloads(found, found.manifest, register)
            self._look_at_left_out(found, found.manifest, register)
            found.add(Check.IN_TIME, self._landings.of_listed(found.manifest, register))
            found.add(Check.NOT_NAMED, self._landings.of_unnamed(found.manifest))
        self._read_aggregate(found)
        return found

    def _read_manifest(self, found: Evidence, before: Manifest | None) -> None:
        try:
            found.standing = self._source.fetch_manifest(found.window)
        except ObjectMissingError:
            words = "there is none, though a later window has one"
            found.add(Check.MANIFEST, self._missing(found, words, otherwise=Verdict.UNCHECKED))
        except DocumentError as error:
            found.add(Check.MANIFEST, Finding(Verdict.DIFFERS, str(error)))
        else:
            found.add(Check.MANIFEST, *self._judge(found.standing.manifest, before))

    def _judge(self, manifest: Manifest, before: Manifest | None) -> Iterable[Finding]:
        yield Finding(Verdict.AGREES)
        steps = manifest.window - self._view.start_window + 1
        if manifest.steps != steps:
            yield Finding(Verdict.DIFFERS, f"it counts {manifest.steps} steps, must count {steps}")
        if abs((open_s := manifest.closed_at - manifest.opened_at) - self._delta_s) > _TIME_SLACK_S:
            words = f"its uploads were open for {open_s:.3f} s, must be for {self._delta_s:g} s"
            yield Finding(Verdict.DIFFERS, words)
        ended_at = self._view.ends_at(manifest.window)
        if ended_at is not None and abs(manifest.opened_at - ended_at) > _TIME_SLACK_S:
            words = f"its uploads began {manifest.opened_at - ended_at:.3f} s after its end by the clock of the chain"
            yield Finding(Verdict.DIFFERS, words)
        if before is None:
            return
        if manifest.before != before.after:
            words = f"it goes on from {_short(manifest.before)}, the window before led to {_short(before.after)}"
            yield Finding(Verdict.DIFFERS, words)
        if manifest.opened_at < before.opened_at:
            words = f"its uploads began {before.opened_at - manifest.opened_at:.1f} s before those of the window before"
            yield Finding(Verdict.DIFFERS, words)

    def _read_payloads(self, found: Evidence, manifest: Manifest, register: Mapping[Uid, Peer]) -> None:
        listed = sorted(manifest.payloads)
        answers = in_parallel(lambda uid: self._payload(manifest, uid, register.get(uid)), listed, _NUM_READERS)
        read = dict(zip(listed, answers, strict=True))
        usable = {uid: answer for uid, answer in read.items() if isinstance(answer, Payload)}
        found.payloads = usable if len(usable) == len(listed) else None
        wrong = [answer for answer in read.values() if isinstance(answer, Finding)]
        words = f"{len(usable)} of {len(listed)}"
        found.add(Check.PAYLOADS, joined(wrong, otherwise=Finding(Verdict.AGREES, words)))

    def _payload(self, manifest: Manifest, uid: Uid, peer: Peer | None) -> Payload | Finding:
        """Return a payload that is listed and in order, or why it is not to be had."""
        if peer is None or not peer.address:
            # Else a payload of somebody who never was would stand for any update.
            return self._unread(manifest.window, f"uid {uid} is not registered, its bucket is not known")
        try:
            data = self._payloads.get(peer, manifest.window)
            if (sha256 := hashlib.sha256(data).digest()) != (listed := manifest.payloads[uid]):
                return Finding(Verdict.DIFFERS, f"uid {uid} has sha256 {_short(sha256)}, listed is {_short(listed)}")
            return self._payloads.decode(data, peer, manifest.window)
        except ObjectMissingError:
            return self._absence(manifest.window, peer)
        except (OversizedError, PayloadError) as error:
            return Finding(Verdict.DIFFERS, f"uid {uid} is listed: {error}")
        except StoreError as error:
            return self._unread(manifest.window, f"uid {uid} cannot be read: {error}")

    def _unread(self, window: Window, words: str) -> Finding:
        return Finding(Verdict.UNKNOWN if self._kept.must_have_payloads(window) else Verdict.GONE, words)

    def _absence(self, window: Window, peer: Peer) -> Finding:
        """Say whether a payload that is not there may have been deleted by its owner."""
        keep = self._kept.keep_windows
        words = f"uid {peer.uid} is not there, though payloads are kept for {keep} windows"
        gone = Finding(Verdict.GONE, f"uid {peer.uid} is deleted, as all are after {keep} windows")
        if not self._kept.must_have_payloads(window):
            return gone
        try:
            has_newer = self._payloads.has_newer(peer, Window(window + keep))
        except StoreError as error:
            return Finding(Verdict.UNKNOWN, f"{words}, and whether newer ones are cannot be told: {error}")
        return gone if has_newer else Finding(Verdict.DIFFERS, words)

    def _look_at_left_out(self, found: Evidence, manifest: Manifest, register: Mapping[Uid, Peer]) -> None:
        peers = [register[uid] for uid in sorted(manifest.left_out) if uid in register and register[uid].address]
        findings = in_parallel(lambda peer: self._left_out(manifest, peer), peers, _NUM_READERS)
        words = f"{len(manifest.left_out)}"
        otherwise = Finding(Verdict.AGREES, words) if manifest.left_out else NOTHING
        found.add(Check.LEFT_OUT, joined(findings, otherwise=otherwise))

    def _left_out(self, manifest: Manifest, peer: Peer) -> Finding:
        """Doubt that a payload was rightly left out if it is there, valid and in time."""
        try:
            if not self._landings.landed_in_time(manifest, peer):
                return NOTHING
        except StoreError:
            return NOTHING
        fault = manifest.left_out[peer.uid].fault
        words = f"uid {peer.uid} is left out as {fault}, but a valid payload is there that landed in time"
        return Finding(Verdict.DOUBT, words)

    def _read_aggregate(self, found: Evidence) -> None:
        notice = self._notice(found)
        if notice is None:
            return
        key = self._view.aggregator.public_key
        head = AggregateHead(run=self._digest, window=found.window, public_key=key, manifest=notice.manifest)
        try:
            self._source.fetch_aggregate(notice, self._shapes, self._path)
        except TransientError:
            raise  # nothing is known of it
        except ObjectMissingError:
            found.add(Check.AGGREGATE, self._missing(found, "its notice is there, but not the aggregate itself"))
        except (DocumentError, StoreError) as error:
            found.add(Check.AGGREGATE, Finding(Verdict.DIFFERS, str(error)))
        else:
            found.aggregate = StoredAggregate(self._path, head)

    def _notice(self, found: Evidence) -> AggregateNotice | None:
        """Return the notice of a window's aggregate, None if there is no good one."""
        try:
            notice = self._source.find_notice(found.window)
        except ObjectMissingError:
            found.add(Check.AGGREGATE, self._no_notice(found))
            return None
        except DocumentError as error:
            found.add(Check.AGGREGATE, Finding(Verdict.DIFFERS, str(error)))
            return None
        if found.standing is None and not found.is_deleted:
            found.add(Check.AGGREGATE, Finding(Verdict.UNKNOWN, "the manifest that it is of cannot be read"))
        elif found.standing is not None and notice.manifest != found.standing.sha256:
            is_, must = _short(notice.manifest), _short(found.standing.sha256)
            found.add(Check.AGGREGATE, Finding(Verdict.DIFFERS, f"it is of manifest {is_}, must be of {must}"))
        return notice

    def _no_notice(self, found: Evidence) -> Finding:
        """Say whether an aggregate may be missing: it may follow the manifest of the next window, and be deleted."""
        window = found.window
        if not self._kept.has_newer(Window(window + 2)):
            return Finding(Verdict.GONE, "it is not published yet")
        if self._kept.must_have_payloads(window):
            return self._missing(found, "there is none, though later windows have manifests")
        if found.payloads is None:  # else the update is made of those
            found.is_deleted = found.is_deleted or self._kept.is_deleted(window)
        return Finding(Verdict.GONE, "it is deleted")

    def _missing(self, found: Evidence, words: str, *, otherwise: Verdict = Verdict.GONE) -> Finding:
        """Say that something of the aggregator is missing; `otherwise` if that is since it deletes old windows."""
        if not found.is_deleted and not self._kept.is_deleted(found.window):
            return Finding(Verdict.DIFFERS, words)
        found.is_deleted = True
        return Finding(otherwise, "it was deleted while it was audited, as older than the aggregator keeps")


def _agreeing(findings: Iterable[Finding]) -> Finding:
    """Return the finding with the most to say of some that do not contradict."""
    return max(findings, key=lambda finding: (finding.verdict == Verdict.AGREES, len(finding.words)))


def _short(digest: bytes) -> str:
    return digest.hex()[:16]
