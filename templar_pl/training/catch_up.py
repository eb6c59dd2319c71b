"""Bring a model to where the others are: a checkpoint of the network, then window after window.

A window is applied from the aggregate of whoever is followed; else from the payloads that its manifest lists; else from
what landed in time by the clock, as long as that is there. Learning rate and step are as if the windows had been live.
Memory: the model, a few tensors and, on the disk, two aggregates.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from templar_pl.compression import UpdateCodec
from templar_pl.errors import AggregateError, OutOfSyncError, StoreError
from templar_pl.exchange.aggregates import StandingManifest, read_aggregate
from templar_pl.exchange.record import SLICE_S
from templar_pl.exchange.window_values import Limits
from templar_pl.protocol import max_aggregate_bytes
from templar_pl.protocol.checkpoint import Checkpoint
from templar_pl.protocol.model_state import ModelState, optimizer_tensors
from templar_pl.training.catch_up_status import CatchUpMeter, Watch
from templar_pl.training.claimed import ClaimedFingerprint
from templar_pl.training.network_restart import NetworkRestart
from templar_pl.training.past_windows import PastWindow, PastWindows
from templar_pl.training.trail import Trail
from templar_pl.units import Window

log = logging.getLogger(__name__)

LATE_AGGREGATES = 2
"""Windows behind the goal at which an aggregate that is not there may still be on its way: it follows its manifest."""


ANY = Window(0)
"""No checkpoint is older."""


class Target(Protocol):
    """A model that follows a run; `Replica` is one."""

    @property
    def applied(self) -> int:
        """Windows of the run applied."""
        ...

    @property
    def state(self) -> ModelState:
        """The model as checkpoints hold it."""
        ...

    def apply(self, update: Iterable[tuple[str, Tensor]]) -> None:
        """Apply the update of the next window, given parameter by parameter, and count it."""
        ...

    def load(self, folder: Path, checkpoint: Checkpoint) -> None:
        """Load a checkpoint from its files, and go to its place in the run; raises as `load_checkpoint`."""
        ...


class CatchUp:
    """Brings one model to where the others are, as often as it falls behind."""

    def __init__(
        self, target: Target, codec: UpdateCodec, trail: Trail, limits: Limits, *, watch: Watch | None = None
    ) -> None:
        """Store the parts; nothing is read before the first call.

        Args:
            target: the model.
            codec: makes updates of payloads.
            trail: where past windows are found.
            limits: of them `patience_s`, for which a store that fails is asked again, and `check_interrupt`.
            watch: shown how far it is.
        """
        self._target, self._codec, self._trail, self._limits = target, codec, trail, limits
        self._shapes = {name: grid.shape for name, grid in codec.grids.items()}
        self._meter = CatchUpMeter(watch)
        self._network = NetworkRestart(trail, limits.check_interrupt)
        self._past: PastWindows | None = None
        self._claimed = ClaimedFingerprint(lambda: target.state.parameters, lambda: target.applied)
        self._is_careful = False
        self._distrusted: set[Window] = set()  # their aggregates are not used any more
        self._left: set[Window] = set()  # they sent this node to a checkpoint
        self._looked_at = 0
        self._failing_since: float | None = None

    @property
    def window(self) -> Window:
        """The window to be applied next."""
        return Window(self._trail.start_window + self._target.applied)

    @property
    def reasons(self) -> str:
        """Why the last restart loaded nothing."""
        return self._network.reasons

    def distrust_checkpoint(self) -> None:
        """Take the checkpoint that was loaded last no more: it led elsewhere."""
        self._network.distrust()

    def restart(self, *, is_lost: bool = False, since: Window = ANY, until: Window | None = None) -> bool:
        """Load the newest network checkpoint that can be used.

        Args:
            is_lost: whether the parameters are wrong: then any checkpoint of the run is taken, else only one that lies
                ahead. A model that has applied nothing takes any, too: its first parameters are those of the network.
            since: window of the oldest one that is taken.
            until: window of the newest one that is taken; None for any.

        A model that has applied nothing and is not lost waits up to `patience_s` for a store that fails: without the
        checkpoint it would be lost.

        Returns:
            Whether one was loaded. If not, the model is as it was.

        Raises:
            OutOfSyncError: loading failed half-way, and no other checkpoint can be used.
        """
        takes_any = is_lost or self._target.applied == 0
        oldest = self._trail.start_window if takes_any else Window(self.window + 1)
        is_new = takes_any and not is_lost
        is_loaded = self._insist(max(oldest, since), until) if is_new else self._load_since(max(oldest, since), until)
        if not is_loaded and not is_lost:
            log.debug("no checkpoint of the network is loaded: %s", self._network.reasons)
        return is_loaded

    def recover(self, reason: str) -> None:
        """Go to a checkpoint, because the parameters are not those of the others.

        From here on the fingerprint is compared after each window, until this node is with the others.

        Args:
            reason: what is wrong, for the log.

        Raises:
            OutOfSyncError: there is no checkpoint that can be used, or the store failed for `patience_s`.
        """
        self._is_careful = True
        log.warning("%s: starting anew from a checkpoint of the network", reason)
        if not self._insist(self._trail.start_window, None):
            raise OutOfSyncError(f"{reason}, and no checkpoint of the network can be used: {self._network.reasons}")

    def follow(self, now: Callable[[], Window]) -> None:
        """Apply all windows before the one that `now` returns, which is asked again before each of them.

        Raises:
            OutOfSyncError: it is impossible; says which window lacks what.
        """
        while True:
            while (goal := now()) > self.window:
                self.advance(goal)
            if self.arrive():
                return

    def advance(self, goal: Window) -> None:
        """Apply the next window; or go to a checkpoint, where that is nearer or needed.

        Args:
            goal: until which all windows are to be applied; after the next one to be applied.

        Raises:
            OutOfSyncError: it is impossible; says which window lacks what.
        """
        self._limits.check_interrupt()
        self._meter.show(self.window, goal)
        if self.jump(goal):
            return
        past = self._look_back(goal)
        before = None if past.standing is None else past.standing.manifest.before
        if before is not None and before != (mine := self._claimed.now()):
            is_not = f"those of this node are {mine.hex()[:16]}"
            self._leave(past.window, f"the manifest is of parameters {before.hex()[:16]}, {is_not}")
        elif past.standing is not None and past.aggregate is not None and past.window not in self._distrusted:
            self._apply_aggregate(past, past.standing, past.aggregate)
        else:
            self._replay(past, goal)

    def jump(self, goal: Window) -> bool:
        """Go to a checkpoint if that saves more bytes than it costs; one is looked for again when this node falls back.

        Args:
            goal: as of `advance`; no later checkpoint is taken.

        Returns:
            Whether one was loaded.
        """
        behind, worth = goal - self.window, self._worth_of_a_checkpoint()
        if behind <= max(worth, self._looked_at):
            return False
        self._looked_at = behind
        return self._load_since(Window(self.window + worth), goal)

    def distrust_aggregate(self, window: Window) -> None:
        """Use the aggregate of a window no more: it leads elsewhere than its manifest says."""
        self._distrusted.add(window)

    def arrive(self) -> bool:
        """Check that the parameters are those that the last manifest says, and show no more.

        Returns:
            Whether they are. If not, a checkpoint was loaded, and the windows after it must be applied again.

        Raises:
            OutOfSyncError: they are not, and there is no checkpoint.
        """
        if self._past is not None:
            self._past.settle()
        if not self._claimed.is_true():
            self.recover(f"window {self.window}: the aggregates led to other parameters than the manifests say")
            return False
        self._left.clear()
        self._past, self._is_careful, self._looked_at, self._failing_since = None, False, 0, None
        self._meter.stop(self.window)
        return True

    def _worth_of_a_checkpoint(self) -> int:
        """Return how many windows' aggregates have the bytes of a checkpoint, at most."""
        state = self._target.state
        tensors = [*state.parameters.values(), *optimizer_tensors(state).values()]
        return 1 + sum(t.numel() * t.element_size() for t in tensors) // max_aggregate_bytes(self._shapes)

    def _load_since(self, since: Window, until: Window | None) -> bool:
        checkpoint = self._network.load(self._target, since, until)
        if checkpoint is None:
            return False
        self._failing_since = None
        self._claimed.claim(checkpoint.fingerprint, is_computed=True)
        return True

    def _insist(self, since: Window, until: Window | None) -> bool:
        """Do what `_load_since` does, again for `patience_s` as long as it may only be the store that fails."""
        give_up = time.monotonic() + self._limits.patience_s
        while not self._load_since(since, until):
            if not self._network.is_outage or time.monotonic() >= give_up:
                return False
            log.warning("the store fails, asking again for a checkpoint: %s", self._network.reasons)
            self._pause()
        return True

    def _look_back(self, goal: Window) -> PastWindow:
        """Return what there is of the next window, and begin to fetch that of the one after it."""
        if self._past is None:
            trail, source = self._trail, self._trail.aggregates()
            if source is None:
                return PastWindow(self.window, missing="no aggregator is followed, or it has no bucket")
            self._past = PastWindows(
                source, self._shapes, trail.folder, trail.verify, check_interrupt=self._limits.check_interrupt
            )
        return self._past.take(self.window, next_too=self.window + 1 < goal)

    def _apply_aggregate(self, past: PastWindow, standing: StandingManifest, path: Path) -> None:
        try:
            # As gradients are, so that no tensor is copied.
            self._target.apply(
                read_aggregate(path, self._shapes, standing.head, self._trail.verify, dtype=torch.float32)
            )
        except (AggregateError, StoreError) as error:  # it was whole when it was fetched
            self._distrusted.add(past.window)
            self.recover(f"window {past.window}: its aggregate changed while it was applied: {error}")
            return
        path.unlink(missing_ok=True)
        self._claimed.claim(standing.manifest.after, is_computed=False)
        self._count()
        if self._is_careful and not self._claimed.is_true():
            self._distrusted.add(past.window)
            self.recover(f"window {past.window}: its aggregate leads to other parameters than its manifest says")

    def _replay(self, past: PastWindow, goal: Window) -> None:
        """Apply the payloads of a window, which has no aggregate that can be used."""
        try:
            collected = self._trail.collect(past.window)
        except OutOfSyncError as error:
            self._go_round(past, goal, error)
            return
        self._target.apply(self._codec.updates([payload.chunks for payload in collected.payloads.values()]))
        log.info("window %d: caught up from %d payload(s)", past.window, len(collected.payloads))
        self._claimed.forget()
        self._count()
        if past.standing is not None and past.standing.manifest.after != self._claimed.now():
            self._leave(past.window, "its payloads lead to other parameters than its manifest says")

    def _go_round(self, past: PastWindow, goal: Window, error: OutOfSyncError) -> None:
        """Go to a checkpoint behind a window that cannot be applied; wait if it may only be the store that fails."""
        if self._load_since(Window(past.window + 1), goal):
            return
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        # The aggregate of a window that is hardly over may still be on its way.
        is_late = past.standing is not None and goal - past.window <= LATE_AGGREGATES
        may_come = past.is_outage or self._network.is_outage or is_late
        if not may_come or now - self._failing_since > self._limits.patience_s:
            raise OutOfSyncError(
                f"window {past.window} cannot be applied. {past.missing}. Payloads: {error}. Later checkpoints: "
                f"{self._network.reasons}"
            ) from error
        log.warning("window %d: asking again: %s", past.window, past.missing)
        self._pause()

    def _pause(self) -> None:
        self._limits.check_interrupt()
        threading.Event().wait(SLICE_S)

    def _leave(self, window: Window, reason: str) -> None:
        """Go to a checkpoint, once because of each window.

        Raises:
            OutOfSyncError: for the second time, or there is no checkpoint.
        """
        if window in self._left:
            raise OutOfSyncError(f"window {window}: {reason}, also from a checkpoint on: what was published is wrong")
        self._left.add(window)
        self.recover(f"window {window}: {reason}")

    def _count(self) -> None:
        self._failing_since = None
        self._meter.count()
