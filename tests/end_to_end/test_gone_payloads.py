"""A miner that takes its payload away once the aggregator has it makes nobody leave the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from templar_pl import LocalNetwork, TemplarStrategy
from templar_pl.chain import LocalChainConfig
from templar_pl.config import CompressionConfig, WindowConfig
from templar_pl.errors import StoreError
from templar_pl.exchange import LocalBucket, LocalBuckets
from templar_pl.node_config import FollowConfig
from templar_pl.protocol.keys import manifest_keys, notice_keys, parse_payload_key, payload_key
from templar_pl.training import Connection
from templar_pl.units import Hotkey, Window
from tests.end_to_end.small_aggregator import SmallAggregator
from tests.end_to_end.test_manifests import Reporter
from tests.training.local import ConvClassifier, quiet_trainer, stripes

LR, LONG_S = 0.005, 120.0
CHAIN = LocalChainConfig(pace="wall", seconds_per_block=0.5, record_windows=False)
WINDOW = WindowConfig(blocks_per_window=12, time_window_delta_seconds=1.5, gather_timeout_seconds=4.0)
COMPRESSION = CompressionConfig(topk=8, momentum_decay=0.9)
FOLLOW = FollowConfig(aggregator="writer", wait_s=20.0)
DELETED, REPLACED, LATE = Window(3), Window(4), Window(6)
"""Windows of which bob's payload is gone before others have read it; the aggregate of the last one comes late."""


class Watched:
    """A bucket that a test looks at first."""

    def __init__(self, bucket: Any, before: Callable[[str], None]) -> None:
        self._bucket, self._before = bucket, before
        self.list, self.get_file = bucket.list, bucket.get_file

    def head(self, key: str) -> Any:
        self._before(key)
        return self._bucket.head(key)

    def get(self, key: str, *, max_bytes: int) -> bytes:
        self._before(key)
        return self._bucket.get(key, max_bytes=max_bytes)


@dataclass
class BlindBuckets:
    """The buckets of a node that reads payloads of bob only when the manifest of their window stands."""

    buckets: LocalBuckets
    run: str
    bob: Callable[[], Hotkey]
    writer: Hotkey
    asked: list[str] = field(default_factory=list)
    """Keys in the bucket of the aggregator, as often as they were asked for."""

    def own(self) -> LocalBucket:
        return self.buckets.own()

    def of(self, address: str) -> Any:
        bucket = self.buckets.of(address)
        if address == self.writer:
            return Watched(bucket, self.asked.append)
        return Watched(bucket, self._hide) if address == self.bob() else bucket

    def _hide(self, key: str) -> None:
        manifest = manifest_keys(self.run).key(parse_payload_key(key).window)
        if manifest not in set(self.buckets.of(self.writer).list(f"{self.run}/manifest/")):
            raise StoreError(f"{key}: no connection")


class Miner(threading.Thread):
    """A node that trains a number of windows."""

    def __init__(self, root: Path, name: str, windows: int, blind_to: Miner | None = None) -> None:
        super().__init__(daemon=True)
        self.module, self.failure = Reporter(), ""
        self.connection: Connection | None = None
        self.buckets: BlindBuckets | None = None
        self._windows, self._network = windows, self._network_of(root, name, blind_to)

    def _network_of(self, root: Path, name: str, blind_to: Miner | None) -> LocalNetwork:
        miner = self

        class Watching(LocalNetwork):
            def open(self, digest: bytes, window: WindowConfig, *, sends: bool = True) -> Connection:
                connection = super().open(digest, window, sends=sends)
                miner.connection = connection
                if blind_to is None:
                    return connection
                assert connection.aggregator is not None
                assert isinstance(connection.buckets, LocalBuckets)
                run, writer, other = connection.run, connection.aggregator, blind_to
                miner.buckets = BlindBuckets(connection.buckets, run, lambda: other.hotkey, writer)
                return replace(connection, buckets=miner.buckets)

        return Watching(str(root), hotkey=name, chain=CHAIN, follow=FOLLOW)

    @property
    def hotkey(self) -> Hotkey:
        return Hotkey("") if self.connection is None else self.connection.hotkey

    def run(self) -> None:
        strategy = TemplarStrategy(self._network, compression=COMPRESSION, window=WINDOW)
        try:
            quiet_trainer(strategy, self._windows).fit(self.module, stripes())
        except Exception as error:  # noqa: BLE001 - a thread that dies would be seen only as a time-out
            self.failure = repr(error)

    def take_away(self, window: Window, instead: bytes = b"") -> None:
        """Delete the own payload of a window, or put other bytes in its place."""
        assert self.connection is not None
        bucket = self.connection.buckets.own()
        key = payload_key(self.connection.run, window, self.connection.uid)
        size = bucket.head(key).size
        bucket.delete([key])
        if instead:
            bucket.put(key, instead * size)

    def wait_until_it_asked(self, window: Window, times: int) -> None:
        """Wait until this node has asked so often for the notice of a window."""
        pause, buckets = threading.Event(), self.buckets
        assert buckets is not None
        while buckets.asked.count(notice_keys(buckets.run).key(window)) < times and self.is_alive():
            pause.wait(0.05)


@contextmanager
def run_of(root: Path, windows: int) -> Iterator[tuple[SmallAggregator, Miner, Miner]]:
    """Start an aggregator, bob, and carol, who does not see bob's payloads in time."""
    aggregator = SmallAggregator(root, ConvClassifier(), COMPRESSION, WINDOW, chain=CHAIN, lr=LR)
    with closing(aggregator):
        bob = Miner(root, "bob", windows)
        carol = Miner(root, "carol", windows, blind_to=bob)
        for miner in (bob, carol):
            miner.start()
        yield aggregator, bob, carol
        for miner in (bob, carol):
            miner.join(LONG_S)
            assert not miner.is_alive()


def test_who_cannot_read_a_listed_payload_any_more_applies_the_aggregate_of_its_window(tmp_path: Path) -> None:
    with run_of(tmp_path, LATE + 2) as (aggregator, bob, carol):
        for number in range(LATE + 2):
            window = Window(number)
            manifest = aggregator.follow(window)
            if window in (DELETED, REPLACED, LATE):
                assert len(manifest.payloads) == 2
                bob.take_away(window, b"x" if window == REPLACED else b"")
            standing = aggregator.publish(manifest)
            if window == LATE:
                carol.wait_until_it_asked(window, times=2)
            aggregator.publish_aggregate(standing)

    assert (bob.failure, carol.failure) == ("", "")
    wanted = dict(aggregator.module.named_parameters())
    started = dict(ConvClassifier().named_parameters())
    assert any(not torch.equal(wanted[name], started[name]) for name in wanted)
    for miner in (bob, carol):
        assert all(torch.equal(wanted[name], p) for name, p in miner.module.named_parameters())
        reports = miner.module.reports
        assert {LATE, Window(LATE + 1)} <= reports.keys()
        assert {(report.lost, report.resynchronisations) for report in reports.values()} == {("", 0)}
        assert not any(report.put_failed for window, report in reports.items() if window >= DELETED)
    reports = carol.module.reports
    assert {window for window, report in reports.items() if report.gone} == {DELETED, REPLACED, LATE}
    assert "no object" in reports[DELETED].gone
    assert "sha256 is" in reports[REPLACED].gone
    assert [reports[window].aggregates for window in (DELETED, REPLACED, LATE)] == [1, 2, 3]
    assert not any(report.gone or report.aggregates for report in bob.module.reports.values())


def test_an_aggregate_that_leads_elsewhere_than_its_manifest_says_makes_a_node_lost(tmp_path: Path) -> None:
    with run_of(tmp_path, DELETED + 2) as (aggregator, bob, carol):
        for number in range(DELETED + 2):
            window = Window(number)
            manifest = aggregator.follow(window)
            if window == DELETED:
                bob.take_away(window)
            aggregator.publish_aggregate(aggregator.publish(manifest), sign=-1 if window == DELETED else 1)

    assert bob.failure == ""
    assert "OutOfSyncError" in carol.failure
    assert "the aggregate leads to parameters" in carol.failure
    assert carol.module.reports[DELETED].lost
    assert carol.module.reports[DELETED].resynchronisations == 1
