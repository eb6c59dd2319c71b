"""A node's way through the windows of a run: catch up, take part, apply, count.

Knows no trainer: what it must do to the model it is given as a callable, so that a strategy of any engine can use it.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

from torch import Tensor

from templar_pl.compression import MomentumCodec
from templar_pl.errors import ChainError, ConfigError, StoreError
from templar_pl.exchange.record import SLICE_S
from templar_pl.exchange.retention import Retention
from templar_pl.exchange.round_trip import RoundTrip
from templar_pl.exchange.window_values import Collected, Identity, Limits, Outgoing, Training
from templar_pl.protocol.keys import WindowKeys, debug_keys, payload_keys
from templar_pl.protocol.payload import Payload
from templar_pl.protocol.peer import Peer
from templar_pl.training.heartbeat import Heartbeat
from templar_pl.training.network import Connection
from templar_pl.training.opening import open_round_trip
from templar_pl.training.phases import Phase, PhaseClock
from templar_pl.units import Uid, Window

log = logging.getLogger(__name__)

T = TypeVar("T")

CLOSE_TIMEOUT_S = 5.0  # a thread is at most in one call to a store or chain

NEVER = -1
"""Place of a momentum that belongs to no number of applied windows."""

Apply = Callable[[Iterable[tuple[str, Tensor]]], None]
"""Steps the optimizer with the update of one parameter after the other, then the schedulers."""


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
        self._codec, self.digest, self._rebuild_windows = codec, digest, rebuild_windows
        self.at_boundary = True
        """Whether parameters and momentum belong to the same window; only then they may be saved."""

        self.total_tokens = 0
        """Tokens this node has trained on since the run began, those of windows trained again counted once."""

        self._momentum_at = 0
        self._rebuilds: Payload | None = None
        self._hotkey = ""
        self._start_window = 0
        self._patience_s = 0.0
        self._check_interrupt: Callable[[], None] = _do_nothing
        self._heartbeat: Heartbeat | None = None
        self._connection: Connection | None = None
        self._round_trip: RoundTrip | None = None
        self._retention: Retention | None = None
        self._debug_keys: WindowKeys | None = None
        self._writes_debug = False
        self._says_start = False
        self._peers: dict[Uid, Peer] = {}

    @property
    def connection(self) -> Connection:
        """The open network. Raises `RuntimeError` before `open`."""
        if self._connection is None:
            raise RuntimeError("the network is not open")
        return self._connection

    @property
    def round_trip(self) -> RoundTrip:
        """The exchange of one window. Raises `RuntimeError` before `open`."""
        if self._round_trip is None:
            raise RuntimeError("the network is not open")
        return self._round_trip

    @property
    def window(self) -> Window:
        """The window to be applied next."""
        return Window(self.connection.start_window + self.applied)

    @property
    def rebuilds(self) -> Payload | None:
        """What this node sent for the window in training, if that is one of the past; else None."""
        return self._rebuilds

    def open(self, connection: Connection, limits: Limits, *, debug_windows: int) -> None:
        """Take part through this connection; momentum of another hotkey's checkpoint is forgotten.

        Args:
            connection: the open network.
            limits: of the exchange.
            debug_windows: windows that objects for debugging stay in the own bucket; 0 for none.

        Raises:
            ConfigError: the checkpoint this node resumed from is of a run that began elsewhere.
        """
        self._adopt(connection)
        identity = Identity(
            connection.run,
            self.digest,
            connection.uid,
            address=connection.address,
            signer=connection.signer,
            verify=connection.verify,
        )
        self._round_trip = open_round_trip(
            self._codec,
            identity,
            connection,
            limits,
            known=self._register,
            candidates=lambda window: self._ask(lambda: connection.chain.candidates(window)),
        )
        payloads, self._debug_keys = (make(connection.run, connection.uid) for make in (payload_keys, debug_keys))
        keep = {payloads: limits.keep_windows, self._debug_keys: debug_windows}
        self._retention, self._writes_debug = Retention(connection.buckets.own(), keep), debug_windows > 0
        self._patience_s, self._check_interrupt = limits.patience_s, limits.check_interrupt
        if connection.agreement is not None:
            self._heartbeat = Heartbeat(connection.agreement.touch, limits.patience_s)
            self._heartbeat.start()

    def close(self) -> None:
        """Take part no more."""
        if self._heartbeat is not None:
            self._heartbeat.stop(CLOSE_TIMEOUT_S)
        if self._retention is not None:
            self._retention.close(CLOSE_TIMEOUT_S)
        if self._connection is not None:
            self._connection.close()
        self._connection = self._round_trip = self._retention = self._heartbeat = None

    def note_progress(self) -> None:
        """Note that training goes on, so that the others keep waiting for this node."""
        if self._heartbeat is not None:
            self._heartbeat.progress()

    def seconds_left(self) -> float:
        """Seconds until the window in training ends; infinite if it ends when all have sent, or is one of the past."""
        if self._rebuilds is not None:
            return math.inf
        return self._ask(lambda: self.connection.chain.seconds_left(self.window))

    def next_to_train(self, apply: Apply, max_applied: int | None) -> Window | None:
        """Apply what was missed, and take part in the window that is open.

        Own windows of the past whose gradient the momentum lacks are trained again, as if they were open: their
        payloads stand already, so only the momentum comes out of it.

        Args:
            apply: applies an update to the model.
            max_applied: stop after so many windows of the run; None for never.

        Returns:
            The window to train on, or None when `max_applied` windows are applied.

        Raises:
            OutOfSyncError: a missed window cannot be replayed.
            ConfigError: the checkpoint this node resumed from is of another chain.
        """
        while max_applied is None or self.applied < max_applied:
            self._check_interrupt()
            self.note_progress()
            window = self.window
            opened = self._ask(self.connection.chain.window)
            if opened < window and self.applied == 0:
                self._wait_for_start(opened)
            elif opened < window:
                raise ConfigError(
                    f"{self.applied} windows are applied, but the chain is at window {opened} only: it is not the one "
                    "the checkpoint was made with. Start without --ckpt_path, or give the run another name"
                )
            elif opened > window:
                rebuilds = self._to_rebuild()
                if rebuilds is not None:
                    self._begin(rebuilds)
                    return window
                self._replay(apply)
            elif self._ask(lambda: self.round_trip.record.join(window)) == window:  # noqa: B023 - called at once
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
        self.at_boundary = False
        self.phases.enter(Phase.COMPRESSION)
        outgoing, sending = self.round_trip.compress_(
            self.window, training, gradients, lr, may_upload=self._may_upload()
        )
        self._momentum_at = self.applied + 1
        self.phases.enter(Phase.GATHER)
        try:
            self._wait_for_uploads()
        except ChainError:
            if sending is not None:
                sending.give_up()
            self._codec.restore_()
            raise
        self.phases.enter(Phase.PUT)
        try:
            return self.round_trip.put(outgoing, is_open=self._rebuilds is None, sending=sending)
        except StoreError:
            self.round_trip.record.abstain(self.window)
            raise

    def receive(
        self, own: Outgoing | None, *, out: Mapping[str, Tensor | None] | None = None
    ) -> tuple[Collected, dict[str, Tensor]]:
        """Collect the window and return what it consists of and its update, written to `out` where it fits.

        Raises:
            OutOfSyncError: the window cannot be applied.
        """
        self.phases.enter(Phase.GATHER)
        collected = self.round_trip.record.collect(self.window, own)
        if own is None:
            self._give_up_what_counts(collected)
        self.phases.enter(Phase.MODEL_UPDATE)
        return collected, self.round_trip.update(collected, out=out)

    def finish(self) -> None:
        """Count the window as applied."""
        self.applied += 1
        self.at_boundary = True

    def tidy(self, window: Window, report: bytes = b"") -> None:
        """Have old objects deleted in the background, and what there is to report of an applied window written."""
        if self._retention is None or self._debug_keys is None:
            return
        notes = {self._debug_keys.key(window): report} if report and self._writes_debug else {}
        self._retention.request(window, notes)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed node needs, as tensors, numbers and strings."""
        return {
            "digest": self.digest.hex(),
            "hotkey": str(self._hotkey),
            "total_tokens": self.total_tokens,
            "applied": self.applied,
            "start_window": self._start_window,
            "momentum_at": self._momentum_at,
            "momentum": self._codec.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state. Raises `ConfigError` if it belongs to a run with other settings."""
        if state["digest"] != self.digest.hex():
            raise ConfigError(
                "the checkpoint belongs to a run with other settings or parameter shapes "
                f"(digest {state['digest'][:8]}, this run has {self.digest.hex()[:8]}): "
                "resume with the settings it was trained with, or start without --ckpt_path"
            )
        self.applied, self._momentum_at = int(state["applied"]), int(state["momentum_at"])
        self._hotkey, self.total_tokens = state["hotkey"], int(state["total_tokens"])
        self._start_window = int(state["start_window"])
        self._codec.load_state_dict(state["momentum"])

    def _may_upload(self) -> bool:
        """Whether a payload of the window may land now already."""
        try:
            left_s = self.seconds_left()
        except ChainError:
            return False  # asked again when everything is compressed
        return self._rebuilds is None and (left_s <= 0 or math.isinf(left_s))

    def _wait_for_uploads(self) -> None:
        """Wait until payloads of the window may land: where windows end by the clock, not before it is over."""
        while not math.isinf(left := self.seconds_left()) and left > 0:
            self._check_interrupt()
            threading.Event().wait(min(left, SLICE_S))

    def _register(self, uids: Collection[Uid]) -> Mapping[Uid, Peer]:
        """Return the register as read at the start of the window, or anew if it lacks one of `uids` or its address."""
        if any(uid not in self._peers or not self._peers[uid].address for uid in uids):
            before = self.phases.phase
            self.phases.enter(Phase.PEER_UPDATE)
            self._peers = self._ask(lambda: self.connection.chain.peers(uids))
            if before is not None:
                self.phases.enter(before)
        return self._peers

    def _ask(self, question: Callable[[], T]) -> T:
        """Ask the chain, again and again for `patience_s` if it does not answer. Raises `ChainError` after that."""
        give_up = time.monotonic() + self._patience_s
        while True:
            try:
                return question()
            except ChainError as error:
                if time.monotonic() >= give_up:
                    raise
                log.warning("the chain does not answer, asking again: %s", error)
                self._check_interrupt()
                threading.Event().wait(SLICE_S)

    def _wait_for_start(self, opened: Window) -> None:
        """Wait for a while until the first window of the run opens."""
        before = Window(self.window - 1)
        left_s = self._ask(lambda: self.connection.chain.seconds_left(before))
        if not self._says_start:
            self._says_start = True
            log.info("window %d is open; the run begins with window %d, in %.0f s", opened, self.window, left_s)
        threading.Event().wait(min(max(left_s, 0.0), SLICE_S))

    def _adopt(self, connection: Connection) -> None:
        """Go on from a checkpoint, if it is one of this run, as the node that this connection is of."""
        self._connection = connection
        if self.applied and self._start_window != connection.start_window:
            raise ConfigError(
                f"the checkpoint is of a run that began with window {self._start_window}, this one began with window "
                f"{connection.start_window}: start without --ckpt_path, or give the run another name"
            )
        self._start_window = connection.start_window
        if self.applied and self._hotkey != connection.hotkey:
            log.info("the checkpoint is of hotkey %s: the momentum starts at zero", self._hotkey or "unknown")
            self._forget_momentum()
        self._hotkey = connection.hotkey

    def _begin(self, rebuilds: Payload | None) -> None:
        self._rebuilds = rebuilds
        self.phases.start(Phase.PEER_UPDATE)
        self._peers = self._ask(self.connection.chain.peers)
        self.phases.enter(Phase.DATA_LOADING)

    def _to_rebuild(self) -> Payload | None:
        """Return what this node sent for a window of the past, if its momentum can be rebuilt by training it again."""
        if self._momentum_at != self.applied:
            return None
        try:
            payload = self.round_trip.record.own_payload(self.window)
        except StoreError as error:
            log.warning("%s", error)
        else:
            if payload is None:
                self._momentum_at += 1
                return None
            if self._rebuild_windows > 0:
                self._rebuild_windows -= 1
                log.info("window %d: training again what this node sent, to rebuild its momentum", self.window)
                return payload
        log.info("window %d: what this node sent is not trained again: the momentum starts at zero", self.window)
        self._forget_momentum()
        return None

    def _forget_momentum(self) -> None:
        for momentum in self._codec.momentum.values():
            momentum.zero_()
        self._momentum_at = NEVER

    def _replay(self, apply: Apply) -> None:
        window = self.window
        collected = self.round_trip.record.collect(window, None)
        self.at_boundary = False
        apply(self.round_trip.updates(collected))
        self.finish()
        self.tidy(window)
        log.info("window %d: caught up from %d payload(s)", window, len(collected.payloads))

    def _give_up_what_counts(self, collected: Collected) -> None:
        """Take out of the momentum what was taken for not sent, and landed in time all the same."""
        payload = collected.payloads.get(self.connection.uid)
        if payload is not None and self._rebuilds is None:
            log.info("window %d: the own payload landed after all", self.window)
            self._codec.subtract_(payload.chunks)


def _do_nothing() -> None:
    """Let a wait go on."""
