"""A validator that follows nobody: it gathers for itself, and its own checkpoints are all there is to go back to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from templar_pl.chain import verify
from templar_pl.errors import StoreError
from templar_pl.exchange import LocalBucket, LocalBuckets
from templar_pl.exchange.checkpoint_upload import Author
from templar_pl.exchange.landed import LandedRecord
from templar_pl.exchange.record import PayloadSource
from templar_pl.exchange.store import BucketReader, ObjectInfo
from templar_pl.exchange.window_values import Collected
from templar_pl.protocol import Peer
from templar_pl.roles.copy_guide import CopyGuide
from templar_pl.roles.own_copy import OwnCopy
from templar_pl.training.catch_up import CatchUp
from templar_pl.training.network_checkpoint import NetworkCheckpoints
from templar_pl.training.trail import Trail
from templar_pl.units import Uid, Window
from tests.roles.scored_runs import RUN, World, limits_and_identity, validator_of

KEEP_WINDOWS = 40
FREQUENCY = 2


class Silent:
    """A bucket that does not answer."""

    def head(self, key: str) -> ObjectInfo:
        raise StoreError("no answer")

    def get(self, key: str, *, max_bytes: int) -> bytes:
        raise StoreError("no answer")

    def list(self, prefix: str) -> Iterator[str]:
        raise StoreError("no answer")


class Hidden:
    """The buckets of a world, of which one does not answer while it is told not to."""

    def __init__(self, buckets: LocalBuckets) -> None:
        self._buckets = buckets
        self.silent: str | None = None

    def own(self) -> LocalBucket:
        return self._buckets.own()

    def of(self, address: str) -> BucketReader:
        return Silent() if address == self.silent else self._buckets.of(address)


class Lonely:
    """Such a validator, in its first or in a later life, whose gather can be made to miss a miner."""

    def __init__(
        self, world: World, folder: Path, *, aggregator: Peer | None = None, keep_windows: int = KEEP_WINDOWS
    ) -> None:
        self.world, self._replica = world, world.replica()
        self._hidden = Hidden(world.buckets)
        self.misses: list[int] = []
        """Windows that it gathers without the payload of the last miner; as often as they are listed."""

        self.times_lost = 0

        identity, limits = limits_and_identity(world, timeout_s=1.0)
        limits = replace(limits, keep_windows=keep_windows)
        source = PayloadSource(self._replica.codec, identity, self._hidden, limits)
        own = world.buckets.own
        self._record = LandedRecord(
            world.chain, world.chain.candidates, identity, source=source, own_bucket=own, limits=limits
        )
        me = Peer(Uid(0), world.validator.hotkey, world.validator.public_key, world.validator.hotkey)

        trail = Trail(
            run=RUN,
            digest=self._replica.digest,
            start_window=Window(0),
            verify=verify,
            buckets=world.buckets,
            aggregator=lambda: aggregator,
            leaders=lambda: [me],
            collect=self._collect,
            folder=folder / "fetched",
        )
        author = Author(RUN, self._replica.digest, "1", world.validator, verify)
        self._checkpoints = NetworkCheckpoints(
            own(), author, folder / "checkpoints", start_window=Window(0), frequency=FREQUENCY, keep=9
        )
        catch_up = CatchUp(self._replica, self._replica.codec, trail, limits)
        guide = CopyGuide(catch_up, trail, lambda: Window(max(0, world.chain.window() + 1 - keep_windows)))
        self._scorer, self.journal = validator_of(
            world, folder, replica=self._replica, guide=guide, note=self._note, lost=guide.start()
        )

    @property
    def fingerprint(self) -> bytes:
        return self._replica.fingerprint()

    def judge(self, *windows: int) -> None:
        for window in windows:
            self.world.open(window + 2)
            self._scorer.run(1)
            self._checkpoints.close(20)

    def _collect(self, window: Window) -> Collected:
        """Collect a window, without the payload of the last miner if it is to miss that."""
        if window in self.misses:
            self.misses.remove(window)
            self._hidden.silent = self.world.miners[-1].signer.hotkey
        try:
            return self._record.collect(window, None)
        finally:
            self._hidden.silent = None

    def _note(self, copy: OwnCopy) -> None:
        self.times_lost = copy.times_lost
        if copy.is_proven:
            self._checkpoints.offer(self._replica.applied, self._replica.state)
