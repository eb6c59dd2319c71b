"""The aggregator's way through the windows of a run: what each of them was is written down, and applied.

A window is whatever its manifest says. Where one stands, from an earlier life of this process, it is followed to the
letter; where none does, one is made of what landed in time. So a process that was killed goes on where it stopped, and
what it missed is rebuilt.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial

from torch import Tensor

from templar_pl.errors import AggregateError, OutOfSyncError
from templar_pl.exchange import StandingManifest
from templar_pl.exchange.window_values import Collected
from templar_pl.protocol import Exclusion, Manifest
from templar_pl.protocol.payload import Payload
from templar_pl.roles.aggregate_outbox import Outbox
from templar_pl.roles.checkpoint_keeper import CheckpointKeeper
from templar_pl.roles.window_payloads import WindowPayloads
from templar_pl.training.patience import Patience
from templar_pl.training.replica import Replica
from templar_pl.training.session import reason_of
from templar_pl.units import Uid, Window

log = logging.getLogger(__name__)


class Aggregator:
    """Says what the windows of a run were, one after the other."""

    def __init__(
        self,
        replica: Replica,
        run: bytes,
        *,
        payloads: WindowPayloads,
        outbox: Outbox,
        keeper: CheckpointKeeper,
        patience: Patience,
    ) -> None:
        """Store the parts.

        Args:
            replica: the model, with the windows applied that its own checkpoint has.
            run: digest of the run's settings; 32 bytes.
            payloads: gathers them.
            outbox: publishes what a window was.
            keeper: publishes checkpoints.
            patience: for waits.
        """
        self._replica, self._run = replica, run
        self._payloads, self._outbox, self._keeper = payloads, outbox, keeper
        self._patience = patience
        self._computing = threading.Lock()
        self._fingerprint, self._is_checked = replica.fingerprint(), True

    def run(self, start_window: Window, max_applied: int | None) -> None:
        """Apply window after window, each when it is over.

        Args:
            start_window: the first window of the run.
            max_applied: stop when so many windows of the run are applied; None for never.

        Raises:
            OutOfSyncError: what a window was cannot be had any more.
            ConfigError: another process publishes with this hotkey.
            StoreError: the store did not answer for too long.
            ChainError: the chain did not.
        """
        newest = self._outbox.newest()
        if self._replica.applied > 0:
            self._complete(Window(start_window + self._replica.applied - 1))
        while max_applied is None or self._replica.applied < max_applied:
            window = Window(start_window + self._replica.applied)
            standing = self._outbox.standing(window)
            if standing is None:
                _refuse_second(window, newest)
                self._payloads.look_for_peers()
                self._wait_until_over(window)
                self._make(window)
            else:
                self._follow(standing)
            self._keeper.note(self._replica.applied, self._replica.state)
        self._outbox.flush()

    def _complete(self, window: Window) -> None:
        """Make the aggregate of the last window of the own checkpoint again, if it was cut off.

        All earlier ones are complete, since an aggregate is begun when the one before is out.
        """
        standing = self._outbox.standing(window)
        if standing is None:
            return
        if self._outbox.has_aggregate(standing):
            self._payloads.forget(window)
            return
        try:
            self._send(standing, self._payloads.listed(standing))
        except OutOfSyncError as error:
            log.warning("nobody can catch up through window %d: %s", window, error)

    def _wait_until_over(self, window: Window) -> None:
        while (left_s := self._payloads.seconds_left(window)) > 0:
            self._outbox.check()
            self._patience.pause(min(left_s, 1.0))

    def _make(self, window: Window) -> None:
        """Write down and apply what landed in time."""
        self._check_parameters(window)
        collected = self._payloads.landed(window)
        gathered_at = time.monotonic()
        rate, before = self._replica.learning_rate, self._fingerprint
        self._apply(collected.payloads)
        self._fingerprint = self._replica.fingerprint()
        manifest = Manifest(
            run=self._run,
            window=window,
            payloads=collected.settlement.payloads,
            left_out={uid: Exclusion.because(error) for uid, error in collected.skipped.items()},
            opened_at=collected.settlement.opened_at,
            closed_at=collected.settlement.closed_at,
            before=before,
            after=self._fingerprint,
            steps=self._replica.applied,
            learning_rate=rate,
        )
        standing = self._outbox.publish(manifest)
        _say(collected, time.monotonic() - gathered_at)
        self._send(standing, collected.payloads)

    def _follow(self, standing: StandingManifest) -> None:
        """Apply what a manifest that stands says."""
        manifest = standing.manifest
        if (manifest.before, manifest.steps) != (self._fingerprint, self._replica.applied + 1):
            raise OutOfSyncError(
                f"window {manifest.window}: its manifest is of parameters {manifest.before.hex()} and step "
                f"{manifest.steps}, this node has {self._fingerprint.hex()} and comes to step "
                f"{self._replica.applied + 1}: the own checkpoint and the own manifests are not of one run"
            )
        if self._apply_aggregate(standing):
            self._payloads.forget(manifest.window)  # this process may have ended between the notice and that
        else:
            payloads = self._payloads.listed(standing)
            self._apply(payloads)
            self._send(standing, payloads)
        self._fingerprint, self._is_checked = manifest.after, False
        log.info("window %d: applied as its manifest says, %d payload(s)", manifest.window, len(manifest.payloads))

    def _apply(self, payloads: Mapping[Uid, Payload]) -> None:
        self._replica.apply(self._update(payloads))

    def _apply_aggregate(self, standing: StandingManifest) -> bool:
        """Apply the own aggregate of a window; return whether there is one."""
        path = self._outbox.fetch(standing)
        if path is None:
            return False
        try:
            self._replica.apply(self._outbox.read(path, standing))
        except AggregateError as error:
            raise OutOfSyncError(
                f"window {standing.manifest.window}: the own aggregate cannot be used: {error}; delete its notice and "
                "start again, it is made again then"
            ) from error
        finally:
            path.unlink(missing_ok=True)
        return True

    def _send(self, standing: StandingManifest, payloads: Mapping[Uid, Payload]) -> None:
        # Computed once more, while the next window is waited for: keeping it would take as much memory as the model.
        window = standing.manifest.window
        self._outbox.send(standing, partial(self._update, payloads), partial(self._payloads.forget, window))

    def _update(self, payloads: Mapping[Uid, Payload]) -> Iterator[tuple[str, Tensor]]:
        """Compute an update tensor by tensor, one at a time in this process."""
        update = self._replica.codec.updates([payload.chunks for payload in payloads.values()])
        while True:
            # Full precision of matrix products is a setting of the process, so two threads must not compute at once.
            with self._computing:
                computed = next(update, None)
            if computed is None:
                return
            yield computed
            del computed  # or it would be here while the next one is computed

    def _check_parameters(self, window: Window) -> None:
        """Compare what following came to with what the last manifest says; once, since each window follows from it."""
        if self._is_checked:
            return
        if (found := self._replica.fingerprint()) != self._fingerprint:
            raise OutOfSyncError(
                f"window {window}: the parameters after all that was published are {found.hex()}, the last manifest "
                f"says {self._fingerprint.hex()}: this node cannot go on from its newest checkpoint. Delete that one "
                "from the own bucket and start again, which begins with the one before"
            )
        self._is_checked = True


def _refuse_second(window: Window, newest: Window | None) -> None:
    """Refuse to say anew what a window was whose manifest was published and is deleted. Raises `OutOfSyncError`.

    Manifests come without gaps, and others have applied them; what lies in the buckets now may be something else.
    """
    if newest is not None and window <= newest:
        raise OutOfSyncError(
            f"window {window}: its manifest was published, since that of window {newest} is there, or its aggregate, "
            "and is deleted: it is not written a second time. No newer checkpoint of this node can be used: restore "
            "the manifest or such a checkpoint, or begin another --store.run"
        )


def _say(collected: Collected, seconds: float) -> None:
    left_out = "".join(f" | left out peer {uid}: {reason_of(error)}" for uid, error in collected.skipped.items())
    log.info(
        "window %d: %d payload(s) | manifest out %.2f s after the gather%s",
        collected.settlement.window,
        len(collected.payloads),
        seconds,
        left_out,
    )
