"""Nodes that follow an aggregator hold the same bits, whatever each of them could see of a window."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from templar_pl import LocalNetwork, TemplarStrategy
from templar_pl.chain import LocalChainConfig, load_or_create_hotkey
from templar_pl.config import CompressionConfig, WindowConfig
from templar_pl.errors import StoreError
from templar_pl.exchange import BucketReader, Buckets, ObjectInfo
from templar_pl.exchange.store import Bucket
from templar_pl.node_config import FollowConfig
from templar_pl.protocol import Manifest
from templar_pl.protocol.keys import manifest_keys, parse_payload_key
from templar_pl.training import Connection, WindowReport
from templar_pl.units import Hotkey, Window
from tests.end_to_end.small_aggregator import SmallAggregator
from tests.training.local import ConvClassifier, quiet_trainer, stripes

WINDOWS, LR = 10, 0.005
CHAIN = LocalChainConfig(pace="wall", seconds_per_block=0.5, record_windows=False)
WINDOW = WindowConfig(blocks_per_window=10, time_window_delta_seconds=1.5, gather_timeout_seconds=4.0)
COMPRESSION = CompressionConfig(topk=8, momentum_decay=0.9)
WINDOW_S = 5.0
FOLLOW = FollowConfig(aggregator="writer", wait_s=6.0)
LEFT_OUT = (2, 3)
SILENT = (5, 6, 7)
"""Windows in which one miner is left out, and whose manifests come late."""


class Reporter(ConvClassifier):
    """Keeps the report of every window it trained in."""

    def __init__(self) -> None:
        super().__init__()
        self.reports: dict[Window, WindowReport] = {}

    def on_train_epoch_end(self) -> None:
        strategy = self.trainer.strategy
        assert isinstance(strategy, TemplarStrategy)
        assert strategy.session is not None
        if (report := strategy.session.report) is not None:
            self.reports[report.window] = report


class Hidden:
    """A bucket whose payloads cannot be read before the manifest of their window stands."""

    def __init__(self, bucket: BucketReader, is_hidden: Callable[[str], bool]) -> None:
        self._bucket, self._is_hidden = bucket, is_hidden
        self.list = bucket.list

    def head(self, key: str) -> ObjectInfo:
        self._refuse(key)
        return self._bucket.head(key)

    def get(self, key: str, *, max_bytes: int) -> bytes:
        self._refuse(key)
        return self._bucket.get(key, max_bytes=max_bytes)

    def _refuse(self, key: str) -> None:
        if self._is_hidden(key):
            raise StoreError(f"{key}: no connection")


class HidingBuckets:
    """The buckets of a node that one peer's bucket answers too late."""

    def __init__(self, buckets: Buckets, hidden: Hotkey, is_hidden: Callable[[str], bool]) -> None:
        self._buckets, self._hidden, self._is_hidden = buckets, hidden, is_hidden

    def own(self) -> Bucket:
        return self._buckets.own()

    def of(self, address: str) -> BucketReader:
        bucket = self._buckets.of(address)
        return Hidden(bucket, self._is_hidden) if address == self._hidden else bucket


class HalfBlindNetwork(LocalNetwork):
    """A network on which bob's payloads are read only when their manifest stands."""

    def __init__(self, root: Path, name: str) -> None:
        super().__init__(str(root), hotkey=name, chain=CHAIN, follow=FOLLOW)
        self._keys = root / "hotkeys"

    def open(self, digest: bytes, window: WindowConfig, *, sends: bool = True) -> Connection:
        connection = super().open(digest, window, sends=sends)
        bob = load_or_create_hotkey(self._keys, "bob").hotkey
        assert connection.aggregator is not None
        writer = connection.buckets.of(connection.aggregator)

        def is_hidden(key: str) -> bool:
            window = parse_payload_key(key).window
            wanted = manifest_keys(connection.run).key(window)
            return window not in SILENT and wanted not in set(writer.list(f"{connection.run}/manifest/"))

        return replace(connection, buckets=HidingBuckets(connection.buckets, bob, is_hidden))


class Miner(threading.Thread):
    """A node that trains a number of windows."""

    def __init__(self, network: LocalNetwork) -> None:
        super().__init__(daemon=True)
        self.module, self.failure = Reporter(), ""
        self._network = network

    def run(self) -> None:
        strategy = TemplarStrategy(self._network, compression=COMPRESSION, window=WINDOW)
        try:
            quiet_trainer(strategy, WINDOWS, logger=False).fit(self.module, stripes())
        except Exception as error:  # noqa: BLE001 - a thread that dies would be seen only as a time-out
            self.failure = repr(error)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Train three miners under an aggregator that leaves one out for a while, and is gone for a while."""
    root = tmp_path_factory.mktemp("runs")
    alice = load_or_create_hotkey(root / "hotkeys", "alice").hotkey
    aggregator = SmallAggregator(root, ConvClassifier(), COMPRESSION, WINDOW, chain=CHAIN, lr=LR)
    with closing(aggregator):
        networks = {name: LocalNetwork(str(root), hotkey=name, chain=CHAIN, follow=FOLLOW) for name in ("alice", "bob")}
        miners = {name: Miner(network) for name, network in networks.items()}
        miners["carol"] = Miner(HalfBlindNetwork(root, "carol"))
        manifests = _run(aggregator, list(miners.values()), alice)
        uids = {peer.hotkey: uid for uid, peer in aggregator.connection.chain.peers().items()}
    return {
        "modules": {"writer": aggregator.module, **{name: miner.module for name, miner in miners.items()}},
        "reports": {name: miner.module.reports for name, miner in miners.items()},
        "manifests": manifests,
        "alice": uids[alice],
    }


def _run(aggregator: SmallAggregator, miners: list[Miner], left_out: Hotkey) -> list[Manifest]:
    """Run until all miners are done, and return the manifests; those of SILENT are published after it."""
    for miner in miners:
        miner.start()
    manifests, late = [], []
    for number in range(WINDOWS):
        window = Window(number)
        manifests.append(aggregator.follow(window, frozenset([left_out] if window in LEFT_OUT else [])))
        late.append(manifests[-1])
        if window not in SILENT:
            while late:
                aggregator.publish(late.pop(0))
    for miner in miners:
        miner.join(120)
        assert not miner.is_alive()
        assert not miner.failure
    return manifests


def test_all_end_with_the_same_bits_as_the_aggregator(told: dict[str, Any]) -> None:
    wanted = dict(told["modules"]["writer"].named_parameters())
    started = dict(ConvClassifier().named_parameters())

    assert any(not torch.equal(wanted[name], started[name]) for name in wanted)
    for module in told["modules"].values():
        assert all(torch.equal(wanted[name], p) for name, p in module.named_parameters())


def test_every_window_was_what_its_manifest_says(told: dict[str, Any]) -> None:
    for reports in told["reports"].values():
        assert len(reports) >= WINDOWS // 2
        for window, report in reports.items():
            assert list(report.peers) == sorted(told["manifests"][window].payloads)
            assert report.parameters_before == told["manifests"][window].before
            if window != SILENT[-1] + 1:  # in which the aggregator comes back
                assert report.has_manifest is (window not in SILENT)
            assert (report.lost, report.resynchronisations) == ("", 0)


def test_who_is_left_out_is_told_and_sends_later_what_it_kept(told: dict[str, Any]) -> None:
    left_out = [told["reports"]["alice"][window] for window in LEFT_OUT if window in told["reports"]["alice"]]

    assert left_out
    for report in left_out:
        assert told["alice"] not in report.peers
        assert report.put_failed == "left out by the manifest: not wanted"
    for name in ("bob", "carol"):
        skipped = [told["reports"][name][window].skipped for window in LEFT_OUT if window in told["reports"][name]]
        assert all(reasons == {told["alice"]: "left out by the manifest: not wanted"} for reasons in skipped)


def test_an_aggregator_that_is_gone_holds_nobody_up_for_long(told: dict[str, Any]) -> None:
    for reports in told["reports"].values():
        silent = sorted(window for window in SILENT if window in reports)
        assert silent[-1] == SILENT[-1]
        assert reports[silent[-1]].window_total_s < WINDOW_S + FOLLOW.wait_s
        assert max(reports) == WINDOWS - 1
