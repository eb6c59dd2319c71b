"""A node's way through the windows of a run: catch up, take part, apply, count.

Knows no trainer: what it must do to the model it is given as a callable, so that a strategy of any engine can use it.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from templar_pl.compression import MomentumCodec
from templar_pl.errors import ConfigError
from templar_pl.exchange.retention import Retention
from templar_pl.exchange.round_trip import Collected, Identity, Limits, Outgoing, RoundTrip, Training
from templar_pl.training.network import Connection
from templar_pl.training.phases import Phase, PhaseClock
from templar_pl.units import Window

log = logging.getLogger(__name__)

NEVER = -1
"""Place of a momentum that belongs to no number of applied windows."""

Apply = Callable[[dict[str, Tensor]], None]
"""Sets the gradients to an update, steps the optimizer and the schedulers."""


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
        self._momentum_at = 0
        self._rebuilding = False
        self._saved_hotkey = ""
        self._connection: Connection | None = None
        self._round_trip: RoundTrip | None = None
        self._retention: Retention | None = None

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
    def is_rebuilding(self) -> bool:
        """Whether the window in training is one of the past."""
        return self._rebuilding

    def open(self, connection: Connection, limits: Limits, *, keep_windows: int) -> None:
        """Take part through this connection; momentum of another hotkey's checkpoint is forgotten."""
        identity = Identity(connection.run, self.digest, connection.uid, connection.signer, connection.verify)
        self._connection = connection
        self._round_trip = RoundTrip(
            self._codec,
            identity,
            buckets=connection.buckets,
            agreement=connection.agreement,
            peers=connection.chain.peers,
            limits=limits,
        )
        self._retention = Retention(connection.buckets.own(), connection.run, connection.uid, keep_windows)
        if self._saved_hotkey not in ("", connection.hotkey):
            log.info("the checkpoint is of hotkey %s: the momentum starts at zero", self._saved_hotkey)
            for momentum in self._codec.momentum.values():
                momentum.zero_()
            self._momentum_at = NEVER

    def close(self) -> None:
        """Take part no more."""
        if self._retention is not None:
            self._retention.close(timeout_s=5.0)
        if self._connection is not None:
            self._connection.close()
        self._connection = self._round_trip = self._retention = None

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
        """
        while max_applied is None or self.applied < max_applied:
            window = self.window
            if self.connection.chain.window() > window:
                if self._must_rebuild(window):
                    self._begin(rebuilding=True)
                    return window
                self._replay(window, apply)
            elif self.connection.agreement.join(window) == window:
                self._begin(rebuilding=False)
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
        self.phases.enter(Phase.COMPRESSION)
        chunks = self._codec.send_(gradients, lr)
        self._momentum_at = self.applied + 1
        outgoing = self.round_trip.encode(self.window, training, chunks)
        if not self._rebuilding:
            self.phases.enter(Phase.GATHER)
            self._wait_for_uploads(self.window)
        self.phases.enter(Phase.PUT)
        return self.round_trip.put(outgoing, is_open=not self._rebuilding)

    def receive(
        self, own: Outgoing | None, *, out: Mapping[str, Tensor | None] | None = None
    ) -> tuple[Collected, dict[str, Tensor]]:
        """Collect the window and return what it consists of and its update, written to `out` where it fits.

        Raises:
            OutOfSyncError: the window cannot be applied.
        """
        self.phases.enter(Phase.GATHER)
        collected = self.round_trip.collect(self.window, own)
        self.phases.enter(Phase.MODEL_UPDATE)
        return collected, self.round_trip.update(collected, out=out)

    def finish(self) -> None:
        """Count the window as applied; old payloads may go."""
        window = self.window
        self.applied += 1
        if self._retention is not None:
            self._retention.request(window)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed node needs, as tensors, numbers and strings."""
        hotkey = self._connection.hotkey if self._connection is not None else self._saved_hotkey
        return {
            "digest": self.digest.hex(),
            "hotkey": str(hotkey),
            "applied": self.applied,
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
        self._saved_hotkey = state["hotkey"]
        self._codec.load_state_dict(state["momentum"])

    def _wait_for_uploads(self, window: Window) -> None:
        """Wait until payloads of a window may land: where windows end by the clock, not before the window is over."""
        while not math.isinf(left := self.connection.chain.seconds_left(window)) and left > 0:
            threading.Event().wait(left)

    def _begin(self, *, rebuilding: bool) -> None:
        self._rebuilding = rebuilding
        self.phases.start(Phase.DATA_LOADING)

    def _must_rebuild(self, window: Window) -> bool:
        """Whether to train a window of the past, because this node sent a part of its momentum in it."""
        is_continuous = self._momentum_at == self.applied
        took_part = self.connection.uid in self.round_trip.settle(window).payloads
        if is_continuous and not took_part:
            self._momentum_at += 1
        if not is_continuous or not took_part or self._rebuild_windows < 1:
            return False
        self._rebuild_windows -= 1
        log.info("window %d: training again what this node sent, to rebuild its momentum", window)
        return True

    def _replay(self, window: Window, apply: Apply) -> None:
        collected = self.round_trip.collect(window)
        apply(self.round_trip.update(collected))
        self.finish()
        log.info("window %d: caught up from %d payload(s)", window, len(collected.payloads))
