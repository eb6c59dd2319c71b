"""The momentum of one node on its way through a run: which own payloads it knows of, and when it lets go of one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from templar_pl.compression import MomentumCodec
from templar_pl.errors import StoreError
from templar_pl.exchange.record import WindowRecord
from templar_pl.exchange.window_values import Collected, Outgoing
from templar_pl.protocol.payload import Payload
from templar_pl.units import Uid, Window

log = logging.getLogger(__name__)

NEVER = -1
"""Place of a momentum that belongs to no number of applied windows."""


class OwnMomentum:
    """Keeps the momentum such that it is the sum of what this node has computed and not sent."""

    def __init__(self, codec: MomentumCodec, *, rebuild_windows: int) -> None:
        """Start at the first window.

        Args:
            codec: holds it.
            rebuild_windows: own windows to train again at most after a crash, to rebuild it.
        """
        self._codec, self._rebuild_windows = codec, rebuild_windows
        self.place = 0
        """Windows of the run whose own payloads it knows of; NEVER if it does not know of them all."""

        self._made: Outgoing | None = None

    def keep(self, outgoing: Outgoing, place: int) -> None:
        """Know of what was made for a window until that is settled: it may land though the put fails.

        Args:
            outgoing: the payload, whatever becomes of it.
            place: windows of the run whose own payloads are known of with it.
        """
        self._made, self.place = outgoing, place

    def forget(self) -> None:
        """Start at zero: nothing is known of what was sent."""
        for momentum in self._codec.momentum.values():
            momentum.zero_()
        self.place = NEVER

    def go_to(self, applied: int) -> None:
        """Go on from a checkpoint of so many windows, knowing of all that was sent.

        Windows behind it that it knows of already are not trained again: their gradients would count twice.
        """
        self.place = max(self.place, applied)

    def to_rebuild(self, record: WindowRecord, window: Window, applied: int) -> Payload | None:
        """Return what this node sent for a window of the past, if the momentum can be rebuilt by training it again.

        Args:
            record: what windows consisted of.
            window: of the past.
            applied: windows applied so far: all before this one.
        """
        if self.place != applied:
            return None
        try:
            payload = record.own_payload(window)
        except StoreError as error:
            log.warning("%s", error)
        else:
            if payload is None:
                self.place += 1
                return None
            if self._rebuild_windows > 0:
                self._rebuild_windows -= 1
                log.info("window %d: training again what this node sent, to rebuild its momentum", window)
                return payload
        log.info("window %d: what this node sent is not trained again: the momentum starts at zero", window)
        self.forget()
        return None

    def settle(self, collected: Collected, uid: Uid, own: Outgoing | None, *, is_open: bool) -> None:
        """Let go of exactly what counts of this node in a window.

        Args:
            collected: what the window consists of.
            uid: of this node.
            own: what the momentum has let go of for the window; None if nothing.
            is_open: whether the window was trained for the first time.
        """
        window, counts = collected.settlement.window, collected.payloads.get(uid)
        listed = collected.settlement.payloads.get(uid)
        made, self._made = self._made, None
        if counts is None and own is None and made is not None and listed == made.sha256:
            counts = made.payload  # it cannot be had, and need not be
        if counts is None and listed is not None and collected.gone and is_open:
            log.warning("window %d: the own payload counts and cannot be had: the momentum starts at zero", window)
            self.forget()
            return
        if own is None:
            if counts is not None and is_open:
                log.info("window %d: the own payload landed after all", window)
                self._codec.subtract_(counts.chunks)
            return
        # Without a manifest the window is what this node has seen of it, its own payload included.
        if collected.standing is None or listed == own.sha256:
            return
        log.warning("window %d: the manifest leaves out the own payload: it goes back into the momentum", window)
        self._codec.put_back_(own.payload.chunks)
        if counts is not None:
            self._codec.subtract_(counts.chunks)

    def state_dict(self) -> dict[str, Any]:
        """Return it with its place."""
        return {"momentum_at": self.place, "momentum": self._codec.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state."""
        self.place = int(state["momentum_at"])
        self._codec.load_state_dict(state["momentum"])
