"""A node's way through the windows of a run: catch up, take part, apply, count.

Knows no trainer: what it must do to the model it is given as a callable, so that a strategy of any engine can use it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from templar_pl.compression import MomentumCodec
from templar_pl.errors import ChainError, ConfigError, OutOfSyncError, StoreError
from templar_pl.exchange.window_values import Collected, Limits, Outgoing, Training
from templar_pl.protocol.payload import Payload
from templar_pl.training.catch_up import CatchUp
from templar_pl.training.catch_up_status import Watch
from templar_pl.training.fitted_model import FittedModel, FollowingModel
from templar_pl.training.network import Connection
from templar_pl.training.open_run import OpenRun
from templar_pl.training.opening import open_trail
from templar_pl.training.own_momentum import NEVER, OwnMomentum
from templar_pl.training.phases import Phase, PhaseClock
from templar_pl.training.receiver import WindowReceiver
from templar_pl.units import Window

log = logging.getLogger(__name__)


class WindowRun:
    """The windows of one node in one run."""

    def __init__(self, codec: MomentumCodec, digest: bytes, *, rebuild_windows: int) -> None:
        """Start at the first window, with the codec's momentum.

        Args:
            codec: momentum of all parameters.
            digest: 32 bytes, of the settings and parameter shapes all nodes of the run share.
            rebuild_windows: own windows to train again at most after a crash, to rebuild the momentum.
        """
        self.phases = PhaseClock()
        self.applied = 0
        self._codec, self.digest = codec, digest
        self.momentum = OwnMomentum(codec, rebuild_windows=rebuild_windows)
        self.total_tokens = 0
        """Tokens this node has trained on since the run began, those of windows trained again counted once."""

        self.lost = ""
        """Why the parameters are not those of the others; empty if nothing says so."""

        self.resynchronisations = 0
        """Times that this process was lost."""

        self._is_between = True
        self._rebuilds: Payload | None = None
        self._hotkey = ""
        self._start_window = 0
        self._check_interrupt: Callable[[], None] = lambda: None
        self._catch_up: CatchUp | None = None
        self._receiver: WindowReceiver | None = None
        self._has_begun = False  # whether this life has taken part, so that it knows of all that was sent
        self._opened: OpenRun | None = None

    @property
    def at_boundary(self) -> bool:
        """Whether parameters and momentum belong to the same window, and to the run; only then they may be saved."""
        return self._is_between and not self.lost

    @property
    def is_open(self) -> bool:
        """Whether the network is open."""
        return self._opened is not None

    @property
    def opened(self) -> OpenRun:
        """The open network. Raises `RuntimeError` before `open`."""
        if self._opened is None:
            raise RuntimeError("the network is not open")
        return self._opened

    @property
    def connection(self) -> Connection:
        """See `opened`."""
        return self.opened.connection

    @property
    def window(self) -> Window:
        """The window to be applied next."""
        return Window(self.connection.start_window + self.applied)

    @property
    def follows(self) -> bool:
        """Whether an aggregator is followed."""
        return self.connection.agreement is None and self.connection.aggregator is not None

    @property
    def rebuilds(self) -> Payload | None:
        """What this node sent for the window in training, if that is one of the past; else None."""
        return self._rebuilds

    @property
    def catch_up(self) -> CatchUp:
        """What brings the model to the others. Raises `RuntimeError` before `open`."""
        if self._catch_up is None:
            raise RuntimeError("the network is not open")
        return self._catch_up

    @property
    def receiver(self) -> WindowReceiver:
        """What makes updates of windows. Raises `RuntimeError` before `open`."""
        if self._receiver is None:
            raise RuntimeError("the network is not open")
        return self._receiver

    def open(
        self,
        connection: Connection,
        limits: Limits,
        *,
        model: FittedModel,
        folder: Path,
        debug_windows: int,
        watch: Watch | None = None,
    ) -> None:
        """Take part through this connection; momentum of another hotkey's checkpoint is forgotten.

        Args:
            connection: the open network.
            limits: of the exchange.
            model: what is trained.
            folder: for files on their way while this node catches up; of this process alone.
            debug_windows: windows that objects for debugging stay in the own bucket; 0 for none.
            watch: shown how far this node is from the others.

        Raises:
            ConfigError: the checkpoint this node resumed from is of a run that began elsewhere.
        """
        try:
            self._adopt(connection)
        except ConfigError:
            connection.close()
            raise
        self._check_interrupt, self._has_begun = limits.check_interrupt, False
        opened = OpenRun(connection, self._codec, self.digest, limits, phases=self.phases, debug_windows=debug_windows)
        trail = open_trail(connection, self.digest, opened.chain, opened.round_trip.record, folder)
        self._opened = opened
        self._catch_up = CatchUp(FollowingModel(model, self), self._codec, trail, limits, watch=watch)
        left, wait_s = opened.chain.seconds_left, connection.manifest_wait_s
        self._receiver = WindowReceiver(
            opened.round_trip, self._codec, trail, seconds_left=left, wait_s=wait_s, limits=limits
        )

    def close(self) -> None:
        """Take part no more."""
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()

    def note_progress(self) -> None:
        """Note that training goes on, so that the others keep waiting for this node."""
        if self._opened is not None:
            self._opened.note_progress()

    def seconds_left(self) -> float:
        """Seconds until the window in training ends; infinite if it ends when all have sent, or is one of the past."""
        return math.inf if self._rebuilds is not None else self.opened.chain.seconds_left(self.window)

    def next_to_train(self, max_applied: int | None) -> Window | None:
        """Apply what was missed, and take part in the window that is open.

        Own windows of the past whose gradient the momentum lacks are trained again, as if they were open: their
        payloads stand already, so only the momentum comes out of it. A node that is lost, new or far behind starts from
        a checkpoint of those it follows, if there is one.

        Args:
            max_applied: stop after so many windows of the run; None for never.

        Returns:
            The window to train on, or None when `max_applied` windows are applied.

        Raises:
            OutOfSyncError: this node cannot catch up.
            ConfigError: the checkpoint this node resumed from is of another chain.
        """
        is_new = self.applied == 0 and not self._has_begun and not self.catch_up.restart(until=self._last(max_applied))
        while self.lost or max_applied is None or self.applied < max_applied:
            self._check_interrupt()
            self.note_progress()
            if self.lost:
                self.catch_up.recover(f"window {self.window}: {self.lost}")
                continue
            window, opened = self.window, self.opened.chain.window()
            if opened < window:
                self._wait_for(window, opened)
                if is_new:  # the first parameters may be there by now
                    self.catch_up.restart(until=self._last(max_applied))
            elif opened > window:
                if self._rebuilds_or_moves(opened, self._last(max_applied)):
                    return window
            elif self._joins(window):
                self._begin(None)
                return window
        return None

    def send(self, gradients: Mapping[str, Tensor | None], lr: Mapping[str, float], training: Training) -> Outgoing:
        """Fold the window's gradient into the momentum, and publish the largest of it.

        Args:
            gradients: of every parameter; those that are not None are finite and at most MAX_GRADIENT.
            lr: learning rate of every parameter.
            training: what the payload says about the window.

        Raises:
            StoreError: the put failed; the momentum keeps everything.
            ChainError: the window was closed without this node; the momentum keeps everything.
        """
        self._is_between = False
        self.phases.enter(Phase.COMPRESSION)
        outgoing, sending = self.opened.round_trip.compress_(
            self.window, training, gradients, lr, may_upload=self._may_upload()
        )
        self.momentum.keep(outgoing, self.applied + 1)
        self.phases.enter(Phase.GATHER)
        try:
            self.opened.chain.wait_for_uploads(self.seconds_left)
        except ChainError:
            if sending is not None:
                sending.give_up()
            self._codec.restore_()
            raise
        self.phases.enter(Phase.PUT)
        try:
            return self.opened.round_trip.put(outgoing, is_open=self._rebuilds is None, sending=sending)
        except StoreError:
            self.opened.round_trip.record.abstain(self.window)
            raise

    def receive(
        self, own: Outgoing | None, fingerprint: bytes, *, out: Mapping[str, Tensor | None] | None = None
    ) -> tuple[Collected, dict[str, Tensor]]:
        """Collect the window and return what it consists of and its update, written to `out` where it fits.

        A node that turns out to be lost gets no update: what comes of the window is overwritten when it catches up.

        Args:
            own: what this node has sent.
            fingerprint: of the parameters.
            out: tensors that may be written to.

        Raises:
            OutOfSyncError: the window cannot be applied, and this node cannot catch up.
        """
        self.phases.enter(Phase.GATHER)
        collected, why_lost = self.receiver.collect(self.window, own, fingerprint)
        self.momentum.settle(collected, self.connection.uid, own, is_open=self._rebuilds is None)
        if not why_lost:
            try:
                return collected, self.receiver.update(collected, self.phases, out=out)
            except OutOfSyncError as error:
                why_lost = str(error)
        self.lose(why_lost)
        return collected, {}

    def lose(self, reason: str) -> None:
        """Note that the parameters are not those of the others, so that they are replaced before the next window.

        Raises:
            OutOfSyncError: nobody is known whose parameters could take their place.
        """
        if self.connection.aggregator is None and self.connection.validator is None:
            raise OutOfSyncError(reason)
        self.resynchronisations += 1
        log.warning("window %d: out of step with the others, resynchronising: %s", self.window, reason)
        self.lost = reason

    def finish(self) -> None:
        """Count the window as applied."""
        self.applied += 1
        self._is_between = True

    def leave(self) -> None:
        """See `Place.leave`."""
        self._is_between = False

    def arrive(self, applied: int, *, is_loaded: bool) -> None:
        """See `Place.arrive`.

        The momentum stays as long as it knows of all that was sent: it is what this node has computed and not sent. Of
        what an earlier life sent in windows that a checkpoint passes by it does not, so it starts at zero then.
        """
        if is_loaded:
            if not self.lost and 0 < applied <= self.applied:
                self.resynchronisations += 1
            if self._has_begun and self.momentum.place != NEVER:
                self.momentum.go_to(applied)
            else:
                self.momentum.forget()
            self.lost = ""
        elif applied > self.applied:
            self.tidy(self.window)
        self.applied, self._is_between = applied, True

    def tidy(self, window: Window, report: bytes = b"") -> None:
        """Have old objects deleted in the background, and what there is to report of an applied window written."""
        if self._opened is not None:
            self._opened.tidy(window, report)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed node needs, as tensors, numbers and strings."""
        return {
            "digest": self.digest.hex(),
            "hotkey": str(self._hotkey),
            "total_tokens": self.total_tokens,
            "applied": self.applied,
            "start_window": self._start_window,
            **self.momentum.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state. Raises `ConfigError` if it belongs to a run with other settings."""
        if state["digest"] != self.digest.hex():
            raise ConfigError(
                "the checkpoint belongs to a run with other settings or parameter shapes "
                f"(digest {state['digest'][:8]}, this run has {self.digest.hex()[:8]}): "
                "resume with the settings it was trained with, or start without --ckpt_path"
            )
        self.applied = int(state["applied"])
        self._hotkey, self.total_tokens = state["hotkey"], int(state["total_tokens"])
        self._start_window = int(state["start_window"])
        self.momentum.load_state_dict(state)

    def _may_upload(self) -> bool:
        """Whether a payload of the window may land now already."""
        try:
            left_s = self.seconds_left()
        except ChainError:
            return False  # asked again when everything is compressed
        return self._rebuilds is None and (left_s <= 0 or math.isinf(left_s))

    def _wait_for(self, window: Window, opened: Window) -> None:
        """Wait until the run begins. Raises `ConfigError` if the chain cannot be that of the run."""
        if self.applied > 0:
            raise ConfigError(
                f"{self.applied} windows are applied, but the chain is at window {opened} only: it is not the one "
                "the checkpoint was made with. Start without --ckpt_path, or give the run another name"
            )
        while opened < window:
            self._check_interrupt()
            self.note_progress()
            self.opened.chain.wait_for_start(opened, window)
            opened = self.opened.chain.window()

    def _adopt(self, connection: Connection) -> None:
        """Go on from a checkpoint, if it is one of this run, as the node that this connection is of."""
        if self.applied and self._start_window != connection.start_window:
            raise ConfigError(
                f"the checkpoint is of a run that began with window {self._start_window}, this one began with window "
                f"{connection.start_window}: start without --ckpt_path, or give the run another name"
            )
        self._start_window = connection.start_window
        if self.applied and self._hotkey != connection.hotkey:
            log.info("the checkpoint is of hotkey %s: the momentum starts at zero", self._hotkey or "unknown")
            self.momentum.forget()
        self._hotkey = connection.hotkey

    def _begin(self, rebuilds: Payload | None) -> None:
        self._rebuilds = rebuilds
        self._has_begun = self._has_begun or rebuilds is None
        self.phases.start(Phase.PEER_UPDATE)
        self.opened.chain.read_register()
        self.phases.enter(Phase.DATA_LOADING)

    def _last(self, max_applied: int | None) -> Window | None:
        """Return the window before which this node stops; None if it does not."""
        return None if max_applied is None else Window(self.connection.start_window + max_applied)

    def _rebuilds_or_moves(self, opened: Window, last: Window | None) -> bool:
        """Go on towards the window now open; return whether an own window of the past is to be trained again first."""
        goal = opened if last is None else min(opened, last)
        if self.catch_up.jump(goal):
            return False
        rebuilds = self.momentum.to_rebuild(self.opened.round_trip.record, self.window, self.applied)
        if rebuilds is None:
            self.catch_up.advance(goal)
            return False
        self._begin(rebuilds)
        return True

    def _joins(self, window: Window) -> bool:
        """Whether this node has the parameters of the others, and takes part in the window that is open."""
        if not self.catch_up.arrive():
            return False
        return self.opened.chain.ask(lambda: self.opened.round_trip.record.join(window)) == window
