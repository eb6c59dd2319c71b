"""What a window consists of and its update, as a node receives it that takes part.

A miner may delete or replace its payload when the aggregator has it and others do not. Then the aggregate of the
window, which has the same bits, takes the place of the payloads.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from templar_pl.compression import UpdateCodec
from templar_pl.errors import AggregateError, DocumentError, ObjectMissingError, OutOfSyncError, StoreError
from templar_pl.exchange.aggregates import StandingManifest, read_aggregate
from templar_pl.exchange.disk import explained
from templar_pl.exchange.record import GRACE_S, SLICE_S
from templar_pl.exchange.round_trip import RoundTrip
from templar_pl.exchange.window_values import Collected, GoneError, Limits, Outgoing
from templar_pl.protocol.agreement import Settlement
from templar_pl.training.past_windows import download, in_background, sweep, wait_for
from templar_pl.training.phases import Phase, PhaseClock
from templar_pl.training.trail import Trail
from templar_pl.units import Window

log = logging.getLogger(__name__)


class WindowReceiver:
    """Collects windows and makes their updates."""

    def __init__(
        self,
        round_trip: RoundTrip,
        codec: UpdateCodec,
        trail: Trail,
        *,
        seconds_left: Callable[[Window], float],
        wait_s: float,
        limits: Limits,
    ) -> None:
        """Store the parts.

        Args:
            round_trip: collects payloads.
            codec: knows the shapes of all parameters.
            trail: where aggregates are found.
            seconds_left: returns the seconds until a window is over.
            wait_s: seconds for which an aggregate is waited for at least.
            limits: of them `check_interrupt`.
        """
        self._round_trip, self._codec, self._trail = round_trip, codec, trail
        self._seconds_left, self._wait_s, self._limits = seconds_left, wait_s, limits
        self._shapes = {name: grid.shape for name, grid in codec.grids.items()}
        self.aggregates = 0
        """Windows that were applied from their aggregate, because listed payloads could not be had."""

    def collect(self, window: Window, own: Outgoing | None, fingerprint: bytes) -> tuple[Collected, str]:
        """Return what a window consists of, and why this node is lost; empty if it is not.

        Args:
            window: to be applied next.
            own: what this node has sent.
            fingerprint: of the parameters.
        """
        try:
            collected = self._round_trip.record.collect(window, own)
        except GoneError as error:
            collected = error.collected
        except OutOfSyncError as error:
            return Collected(Settlement(window, {}, 0.0, 0.0), {}, {}, 0), str(error)
        standing = collected.standing
        if standing is None or standing.manifest.before == fingerprint:
            return collected, ""
        before, mine = standing.manifest.before.hex()[:16], fingerprint.hex()[:16]
        return collected, f"the manifest is of parameters {before}, those of this node are {mine}"

    def update(
        self, collected: Collected, phases: PhaseClock, *, out: Mapping[str, Tensor | None] | None = None
    ) -> dict[str, Tensor]:
        """Return the update of a window, written to `out` where it fits.

        Args:
            collected: what the window consists of; taken at the parameters of this node.
            phases: where the time goes.
            out: tensors that may be written to.

        Raises:
            OutOfSyncError: payloads lack, and there is no aggregate either.
        """
        if collected.standing is None or not collected.gone:
            phases.enter(Phase.MODEL_UPDATE)
            return self._round_trip.update(collected, out=out)
        log.warning("%s; its aggregate is applied instead", collected.gone)
        try:
            path = self._await_aggregate(collected.standing)
            phases.enter(Phase.MODEL_UPDATE)
            update = self._read(path, collected.standing, out)
        except (AggregateError, DocumentError, StoreError) as error:
            raise OutOfSyncError(f"{collected.gone}; its aggregate neither: {error}") from error
        self.aggregates += 1
        return update

    def _await_aggregate(self, standing: StandingManifest) -> Path:
        """Fetch the aggregate of a window, which follows its manifest.

        It is waited for until the next window is over, since that is lost only then, and for `wait_s` at least: the
        other way, a checkpoint, costs more, and most often leads by the same aggregate.

        Raises:
            StoreError: it does not come.
            DocumentError: what is in its place is none.
        """
        start = time.monotonic()

        def check_interrupt() -> None:
            """A window that is sent is better applied."""
            if time.monotonic() - start > GRACE_S:
                self._limits.check_interrupt()

        while True:
            try:
                return self._fetch(standing, check_interrupt)
            except StoreError:
                waited_s = time.monotonic() - start
                left_s = max(self._wait_s - waited_s, self._seconds_left(Window(standing.manifest.window + 1)))
                if left_s <= 0:
                    raise
            check_interrupt()
            threading.Event().wait(min(SLICE_S, left_s))

    def _fetch(self, standing: StandingManifest, check_interrupt: Callable[[], None]) -> Path:
        # Not where a catch-up has its files, which are of the same names.
        source, folder = self._trail.aggregates(), self._trail.folder / "live"
        if source is None:
            raise ObjectMissingError("the aggregator has no bucket that the chain knows of")
        sweep(folder, standing.manifest.window)
        call = in_background(lambda: download(source, standing, self._shapes, folder), name="aggregate")
        return wait_for(call, check_interrupt)

    def _read(
        self, path: Path, standing: StandingManifest, out: Mapping[str, Tensor | None] | None
    ) -> dict[str, Tensor]:
        """Read an aggregate and delete its file. Raises `AggregateError` or `StoreError`."""
        try:
            update = read_aggregate(path, self._shapes, standing.head, self._trail.verify)
            return self._codec.known_update(update, out=out)
        finally:
            with explained("delete", path):
                path.unlink(missing_ok=True)
