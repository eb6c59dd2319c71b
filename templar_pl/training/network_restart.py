"""Start a model anew from the newest network checkpoint that can be used, whoever published it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from templar_pl.errors import CheckpointError, Fault, OutOfSyncError, StoreError
from templar_pl.exchange.aggregates import AggregateSource
from templar_pl.exchange.network_checkpoints import Fetched, Source, Wanted, fetch_latest, latest_window
from templar_pl.protocol.checkpoint import Checkpoint
from templar_pl.protocol.model_state import ModelState
from templar_pl.training.past_windows import in_background, is_outage, wait_for
from templar_pl.training.trail import Trail, name_of, said_before
from templar_pl.units import Window

log = logging.getLogger(__name__)

MAX_LOADS = 5
"""Checkpoints of one peer that are fetched whole at most, to find one that can be loaded."""


class Loadable(Protocol):
    """A model that a checkpoint can be loaded into."""

    @property
    def state(self) -> ModelState:
        """The model as checkpoints hold it."""
        ...

    def load(self, folder: Path, checkpoint: Checkpoint) -> None:
        """Load a checkpoint from its files, and go to its place in the run; raises as `load_checkpoint`."""
        ...


class NetworkRestart:
    """Finds and loads checkpoints of those whose word counts."""

    def __init__(self, trail: Trail, check_interrupt: Callable[[], None]) -> None:
        """Store the parts.

        Args:
            trail: whose checkpoints count.
            check_interrupt: asked while files are fetched; raises what should end that.
        """
        self._trail, self._check_interrupt = trail, check_interrupt
        self._refused: set[tuple[bytes, Window]] = set()
        self._last: tuple[bytes, Window] | None = None
        self._reasons: list[str] = []
        self.is_outage = False
        """Whether the last try loaded nothing and may only have met a store that fails."""

    @property
    def reasons(self) -> str:
        """Why the last try loaded nothing."""
        return "; ".join(self._reasons) or "nobody whose checkpoints count is registered"

    def load(self, model: Loadable, since: Window, until: Window | None = None) -> Checkpoint | None:
        """Load the newest checkpoint of anybody that can be used.

        Args:
            model: to be loaded into.
            since: window of the oldest checkpoint that is taken.
            until: window of the newest; None for any.

        Returns:
            The checkpoint; None if there is none, and the model is as it was.

        Raises:
            OutOfSyncError: loading failed half-way, and no other can be used: the model must not be.
        """
        self._reasons, self.is_outage = [], False
        broken: OutOfSyncError | None = None
        for source in self._newest_first(model, since):
            try:
                return self._load_from(source, model, self._wanted(model, source, since, until))
            except OutOfSyncError as error:
                broken = error
                self._reasons.append(f"{source.name}: {error}")
            except (CheckpointError, StoreError) as error:
                self.is_outage = self.is_outage or is_outage(error)
                self._reasons.append(" ".join(str(error).splitlines()))
        if broken is not None:
            raise broken
        return None

    def distrust(self) -> None:
        """Take the checkpoint that was loaded last no more."""
        if self._last is not None:
            self._refused.add(self._last)

    def _newest_first(self, model: Loadable, since: Window) -> list[Source]:
        """Return who names a checkpoint that is new enough, or none though it may have some; the newest one's first."""
        found: list[tuple[Window, Source]] = []
        for leader in self._trail.leaders():
            if not leader.address:
                continue
            try:
                source = self._trail.source(leader)
                newest = latest_window(source, self._wanted(model, source, since, None))
            except StoreError as error:
                self.is_outage = self.is_outage or is_outage(error)
                self._reasons.append(f"{name_of(leader)}: {error}")
                continue
            if newest is None or newest >= since:
                found.append((Window(-1) if newest is None else newest, source))
            else:
                self._reasons.append(f"{source.name}: its newest checkpoint is of window {newest}")
        # Equal ones stay in the order in which they count.
        return [source for _, source in sorted(found, key=lambda pair: -pair[0])]

    def _load_from(self, source: Source, model: Loadable, wanted: Wanted) -> Checkpoint:
        """Load the newest good one of a peer. Raises `CheckpointError` if there is none, else as `load`."""
        folder = self._trail.folder / source.public_key.hex()[:16]
        for _ in range(MAX_LOADS):
            fetching = in_background(lambda: fetch_latest(source, wanted, folder), name="network-checkpoint")
            found = wait_for(fetching, self._check_interrupt)
            try:
                model.load(found.folder, found.checkpoint)
            except (CheckpointError, StoreError) as error:
                self._refuse(source, found, error)
            except OutOfSyncError as error:
                self._refuse(source, found, error)
                raise
            else:
                log.info("window %d: loaded the checkpoint of %s", found.checkpoint.window, source.name)
                _discard(found)
                self._last = source.public_key, found.checkpoint.window
                return found.checkpoint
        raise CheckpointError(f"{MAX_LOADS} checkpoints could not be loaded", fault=Fault.CONTENT)

    def _refuse(self, source: Source, found: Fetched, error: Exception) -> None:
        log.warning("window %d: the checkpoint of %s cannot be used: %s", found.checkpoint.window, source.name, error)
        self._refused.add((source.public_key, found.checkpoint.window))

    def _wanted(self, model: Loadable, source: Source, since: Window, until: Window | None) -> Wanted:
        trail = self._trail
        aggregates = trail.aggregates()

        def accept(checkpoint: Checkpoint) -> None:
            if (source.public_key, checkpoint.window) in self._refused:
                raise CheckpointError("it could not be loaded before, or led elsewhere", fault=Fault.CONTENT)
            if aggregates is not None:
                _compare(checkpoint, aggregates, trail.start_window)

        run, start = trail.run, trail.start_window
        return Wanted(run, trail.digest, start, model.state, trail.verify, accept, since=since, until=until)


def _compare(checkpoint: Checkpoint, aggregates: AggregateSource, start_window: Window) -> None:
    """Pass over a checkpoint of other parameters than the manifests say, as far as there are any.

    Raises:
        CheckpointError: it is one.
    """
    before = said_before(aggregates, checkpoint.window, start_window)
    if before is not None and before != checkpoint.fingerprint:
        raise CheckpointError(
            f"its parameters have fingerprint {checkpoint.fingerprint.hex()}, by the manifests {before.hex()}",
            fault=Fault.CONTENT,
        )


def _discard(found: Fetched) -> None:
    """Delete the files of a checkpoint that is loaded; those that cannot be deleted now are by the next fetch."""
    try:
        found.discard()
    except StoreError as error:
        log.warning("%s", error)
