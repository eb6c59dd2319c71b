"""The checkpoints of a run: where a replay begins, and whether those it meets are what it has come to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from templar_pl.errors import CheckpointError, DocumentError, ObjectMissingError, StoreError, TransientError
from templar_pl.exchange.checkpoint_files import digests, load_checkpoint, write_snapshot
from templar_pl.exchange.disk import explained
from templar_pl.exchange.large_objects import FileDigest
from templar_pl.exchange.network_checkpoints import (
    Fetched,
    Source,
    Wanted,
    checkpoint_windows,
    fetch_checkpoint,
    read_latest,
)
from templar_pl.protocol.checkpoint import CHECKPOINT_FILE, MAX_CHECKPOINT_BYTES, Checkpoint
from templar_pl.protocol.keys import checkpoint_keys
from templar_pl.protocol.model_state import describe
from templar_pl.roles.audit_findings import NOTHING, Finding, Verdict
from templar_pl.roles.audit_replay import Replay
from templar_pl.units import Window

Place = tuple[str, Window]


class CheckpointAudit:
    """Reads checkpoints of those whose word counts."""

    def __init__(self, sources: Sequence[Source], wanted: Wanted, folder: Path) -> None:
        """Look which ones there are.

        Args:
            sources: whose checkpoints count, the first one's first.
            wanted: what they must be of; its state is that of the replay.
            folder: for one that is fetched and a snapshot of the replay; of this process alone; must exist.

        Raises:
            StoreError: a bucket cannot be read.
        """
        self._sources, self._wanted, self._folder = list(sources), wanted, folder
        self._loaded: Place | None = None
        self.list_anew()

    def list_anew(self) -> None:
        """Look once more which ones there are. Raises `StoreError`."""
        run = self._wanted.run
        self._windows = {source.name: frozenset(checkpoint_windows(source, run)) for source in self._sources}

    @property
    def windows(self) -> list[Window]:
        """Return the windows before which there is a checkpoint, ascending."""
        return sorted(frozenset().union(*self._windows.values()))

    def begin(self, replay: Replay, window: Window, must: bytes | None) -> bool:
        """Load a checkpoint of a window into the replay; return whether there was a good one.

        A bad one is not reported here: `look` does, when the replay comes to its window.

        Args:
            replay: has applied nothing yet.
            window: the next one.
            must: fingerprint of the parameters by the manifests; None if none says it.
        """
        return any(
            self._load(replay, source, window, must).verdict == Verdict.AGREES
            for source in self._sources
            if window in self._windows[source.name]
        )

    def look(self, replay: Replay, window: Window, must: bytes | None) -> list[Finding]:
        """Compare the checkpoints that stand before a window with the replay, which has come to it.

        A replay that has lost its way goes on from a good one.

        Args:
            replay: has applied all windows before.
            window: the next one.
            must: fingerprint of the parameters by the manifests; None if none says it.
        """
        findings = []
        for source in self._sources:
            if window not in self._windows[source.name]:
                continue
            if (source.name, window) == self._loaded:
                findings.append(Finding(Verdict.AGREES, "the replay begins with it"))
            elif replay.lost:
                findings.append(self._load(replay, source, window, must))
            else:
                findings.append(self._compare(replay, source, window))
            findings.append(self._look_at_latest(source, window))
        return findings

    def _load(self, replay: Replay, source: Source, window: Window, must: bytes | None) -> Finding:
        """Load a checkpoint, unless manifests say that the parameters are others there."""
        found = self._fetch(source, window)
        if isinstance(found, Finding):
            return found
        try:
            if must is not None and found.checkpoint.fingerprint != must:
                return _differs(source, f"has parameters {_short(found.checkpoint)}, manifests say {must.hex()[:16]}")
            load_checkpoint(found.folder, found.checkpoint, self._wanted.state)
        except CheckpointError as error:
            return _differs(source, str(error))
        finally:
            found.discard()
        self._loaded = (source.name, window)
        replay.go_on_from(found.checkpoint.applied)
        return Finding(Verdict.AGREES, f"the replay goes on from that of {source.name}")

    def _compare(self, replay: Replay, source: Source, window: Window) -> Finding:
        found = self._fetch(source, window)
        if isinstance(found, Finding):
            return found
        try:
            return self._compare_with(replay, source, found.checkpoint)
        finally:
            found.discard()

    def _compare_with(self, replay: Replay, source: Source, checkpoint: Checkpoint) -> Finding:
        """Compare a checkpoint, whose files are what it says, with a snapshot of the replay."""
        if checkpoint.fingerprint != replay.at:
            return _differs(source, f"has parameters {_short(checkpoint)}, the replay has {replay.at.hex()[:16]}")
        state = self._wanted.state
        if checkpoint.state is not None and checkpoint.state != describe(state):
            return _differs(source, "has another state of optimizer or schedules than the replay")
        if checkpoint.state is not None:
            own = self._snapshot()
            stored = {name: FileDigest(file.size, file.sha256) for name, file in checkpoint.files.items()}
            if odd := sorted(name for name in own.keys() | stored.keys() if own.get(name) != stored.get(name)):
                return _differs(source, f"has another {odd[0]} than the replay")
        return Finding(Verdict.AGREES)

    def _snapshot(self) -> dict[str, FileDigest]:
        """Return what the files of a checkpoint would hold that were taken now. Raises `StoreError`."""
        folder = self._folder / "own"
        with explained("write", folder):
            folder.mkdir(exist_ok=True)
        try:
            write_snapshot(folder, self._wanted.state)
            return digests(folder)
        finally:
            for path in folder.iterdir():
                path.unlink()

    def _fetch(self, source: Source, window: Window) -> Fetched | Finding:
        """Return a checkpoint whose files are what it says, or what is wrong with it. Raises `TransientError`."""
        try:
            return fetch_checkpoint(source, self._wanted, window, self._folder / "fetched")
        except TransientError:
            raise
        except ObjectMissingError as error:
            if self._is_there(source, window):
                return _differs(source, str(error))
            return Finding(Verdict.GONE, f"that of {source.name} was deleted meanwhile")
        except (CheckpointError, DocumentError, StoreError) as error:
            return _differs(source, str(error))

    def _is_there(self, source: Source, window: Window) -> bool:
        """Whether there still is what says what a checkpoint is, which is deleted before its files are."""
        try:
            source.bucket.head(checkpoint_keys(self._wanted.run, CHECKPOINT_FILE).key(window))
        except ObjectMissingError:
            return False
        return True

    def _look_at_latest(self, source: Source, window: Window) -> Finding:
        """Compare what names the newest checkpoint with the newest one."""
        if window != max(self._windows[source.name]):
            return NOTHING
        try:
            latest = read_latest(source, self._wanted)
            if latest.window != window:
                return NOTHING  # another one is newer by now, or this one is not named yet
            key = checkpoint_keys(self._wanted.run, CHECKPOINT_FILE).key(window)
            data = source.bucket.get(key, max_bytes=MAX_CHECKPOINT_BYTES)
        except ObjectMissingError:
            return NOTHING
        except TransientError:
            raise
        except (DocumentError, StoreError) as error:
            return _differs(source, f"is the newest, and what names that cannot be used: {error}")
        if hashlib.sha256(data).digest() != latest.sha256:
            return _differs(source, "is another one than latest.json names")
        return Finding(Verdict.AGREES)


def _differs(source: Source, words: str) -> Finding:
    return Finding(Verdict.DIFFERS, f"that of {source.name}: {words}")


def _short(checkpoint: Checkpoint) -> str:
    return checkpoint.fingerprint.hex()[:16]
