"""Goes through the windows of a run, and says of each whether everything that is stored of it agrees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from templar_pl.errors import ConfigError, DocumentError, ObjectMissingError
from templar_pl.exchange.network_checkpoints import Source, Wanted
from templar_pl.hparams import HParams
from templar_pl.protocol import Manifest
from templar_pl.protocol.peer import Peer
from templar_pl.roles.audit_checkpoints import CheckpointAudit
from templar_pl.roles.audit_findings import NOTHING, AuditedWindow, Check
from templar_pl.roles.audit_kept import DELETION_S, Kept
from templar_pl.roles.audit_replay import Replay
from templar_pl.roles.audit_store import Evidence, StoreAudit
from templar_pl.training.replica import Replica
from templar_pl.training.run_view import RunView
from templar_pl.units import Window

_TRIES = 3
"""How often the windows to audit are chosen anew, if those that were to be replayed from are deleted meanwhile."""


@dataclass(frozen=True)
class Span:
    """Which windows are audited."""

    begin: Window
    """Where the replay begins: at a checkpoint at or before `first`, or with `first` where there is none."""

    first: Window
    last: Window


class RunAudit:
    """An audit of one run."""

    def __init__(
        self,
        view: RunView,
        replica: Replica,
        numbers: HParams,
        folder: Path,
        check_interrupt: Callable[[], None],
        patience_s: float = DELETION_S,
    ) -> None:
        """Look which checkpoints there are.

        Args:
            view: of the run.
            replica: of the model, with its first parameters; the audit takes it over.
            numbers: of the run.
            folder: for what is fetched; of this process alone; must exist.
            check_interrupt: asked often; raises what should end the audit.
            patience_s: seconds to wait for a deletion that is under way.

        Raises:
            StoreError: a bucket cannot be read.
        """
        self._view, self._check_interrupt = view, check_interrupt
        self._replay = Replay(replica, view.verify, check_interrupt)
        self._kept = Kept(view, numbers.window.stale_retention, check_interrupt, patience_s)
        self._store = StoreAudit(view, replica.digest, replica.codec.grids, self._kept, folder, numbers)
        wanted = Wanted(view.run, replica.digest, view.start_window, replica.state, view.verify)
        sources = [_source(view, peer) for peer in (view.aggregator, view.validator) if peer is not None]
        self._checkpoints = CheckpointAudit(sources, wanted, folder)

    def begin(self, first: int | None, last: int | None) -> Span:
        """Choose the windows, and bring the replay to where it begins.

        Without `first` it is the oldest window with a manifest that can be replayed: the run's first one, or one before
        which there is a checkpoint. Manifests older than what the aggregator keeps are deleted, so what lies before
        them cannot be replayed.

        Args:
            first: window asked for; None for the oldest.
            last: window asked for; None for the newest.

        Raises:
            ConfigError: there are no manifests, or a window is outside of those that have one.
            StoreError: a bucket, or the own disk, fails.
            OutOfSyncError: the disk failed while a checkpoint was loaded.
        """
        windows = self._kept.windows()
        span = self._choose(windows, first, last)
        for _ in range(_TRIES):
            before, windows = windows, self._kept.windows()
            if not self._replay.lost or windows[:1] == before[:1]:
                break
            self._checkpoints.list_anew()  # what it was to begin with was deleted meanwhile
            span = self._choose(windows, first, last)
        return span

    def _choose(self, windows: list[Window], first: int | None, last: int | None) -> Span:
        """Choose among the windows that there are, and bring the replay to where it begins."""
        if not windows:
            raise ConfigError(
                f"there is nothing to audit: {self._view.aggregator.hotkey} has no manifest of run {self._view.run}"
            )
        oldest, newest = windows[0], windows[-1]
        for name, window in (("first", first), ("last", last)):
            if window is not None and not oldest <= window <= newest:
                raise ConfigError(f"--{name} must be in {oldest}..{newest}, the windows with a manifest, got {window}")
        begins = [w for w in {self._view.start_window, *self._checkpoints.windows} if oldest <= w <= newest]
        start = Window(min(begins, default=oldest) if first is None else first)
        end = newest if last is None else Window(last)
        if end < start:
            raise ConfigError(f"--last must be at least --first, {start}, got {end}")
        return Span(self._go_to([w for w in begins if w <= start], start), start, end)

    def windows(self, span: Span) -> Iterator[AuditedWindow]:
        """Audit window after window, those before `first` that are replayed among them.

        After the last one comes what stands before the next, if there is a checkpoint.

        Raises:
            StoreError: the bucket of the aggregator, or the own disk, fails.
            ChainError: nobody says who was registered.
            OutOfSyncError: the disk failed while a checkpoint was loaded.
        """
        before = self._manifest(Window(span.begin - 1)) if span.begin > self._view.start_window else None
        for number in range(span.begin, span.last + 1):
            self._check_interrupt()
            found = self._store.read(Window(number), before)
            self._look_at_checkpoints(found, before)
            self._replay.step(found)
            before = found.manifest
            yield _audited(found)
        after = Evidence(Window(span.last + 1))
        self._look_at_checkpoints(after, before)
        if after.findings.get(Check.CHECKPOINT, NOTHING) != NOTHING:
            yield _audited(after)

    def _go_to(self, begins: list[Window], first: Window) -> Window:
        """Bring the replay to the newest of some windows that it can begin with; return that window."""
        for window in sorted(begins, reverse=True):
            manifest = self._manifest(window)
            if self._checkpoints.begin(self._replay, window, None if manifest is None else manifest.before):
                return window
        if self._view.start_window in begins:
            return self._view.start_window  # with the parameters that this machine draws
        self._replay.lose(f"there is no good checkpoint at window {first}, nor one before it that manifests go on from")
        return first

    def _manifest(self, window: Window) -> Manifest | None:
        """Return a manifest if it can be read: what is wrong with it is reported where its window is audited."""
        try:
            return self._store.manifest(window).manifest
        except (ObjectMissingError, DocumentError):
            return None

    def _look_at_checkpoints(self, found: Evidence, before: Manifest | None) -> None:
        must = found.manifest.before if found.manifest is not None else before.after if before is not None else None
        found.add(Check.CHECKPOINT, *self._checkpoints.look(self._replay, found.window, must))


def _source(view: RunView, peer: Peer) -> Source:
    return Source(f"uid {peer.uid}", peer.public_key, view.buckets.of(peer.address))


def _audited(found: Evidence) -> AuditedWindow:
    return AuditedWindow(found.window, {check: found.findings.get(check, NOTHING) for check in Check})
