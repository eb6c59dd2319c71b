"""Two miners and an aggregator as processes: all hold the same parameters, also after the aggregator was killed."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from templar_pl.chain import load_or_create_hotkey, verify
from templar_pl.errors import ObjectMissingError
from templar_pl.exchange import LocalBuckets
from templar_pl.protocol import MAX_RUN_FILE_BYTES, Manifest, decode_manifest, decode_run_file, manifest_keys, run_key
from templar_pl.protocol.header import HEADER_BYTES, unpack_header
from templar_pl.units import Window
from tests.end_to_end.node import ROOT, TINY, Node

# A miner that missed a window joins again only if the manifest of one is out long before the next one ends.
CLOCK = (
    "--chain.pace=wall",
    "--chain.seconds_per_block=1",
    "--chain.record_windows=false",
    "--window.blocks_per_window=5",
    "--window.time_window_delta_seconds=1.5",
    "--window.gather_timeout_seconds=6",
    "--window.checkpoint_frequency=5",
)
LONG_S = 240.0  # a loaded machine of two cores


class Published:
    """What lies in the buckets of a run in a folder."""

    def __init__(self, folder: Path) -> None:
        [self._store] = folder.glob("runs/net268/local-*/store-*")
        self._run = self._store.parent.name
        self._signer = load_or_create_hotkey(folder / "runs" / "net268" / "hotkeys", "aggregator")
        self._bucket = LocalBuckets(self._store, self._signer.hotkey).own()

    def manifests(self) -> list[Manifest]:
        """Return all manifests up to the first one that is missing."""
        found: list[Manifest] = []
        with suppress(ObjectMissingError):
            while True:
                key = manifest_keys(self._run).key(Window(len(found)))
                public_key, manifest = decode_manifest(self._bucket.get(key, max_bytes=10**6), verify)
                assert public_key == self._signer.public_key
                found.append(manifest)
        return found

    def num_manifests(self) -> int:
        """Return how many there are, those behind a gap too."""
        return len(list(self._bucket.list(manifest_keys(self._run).prefix)))

    def begins(self) -> int:
        data = self._bucket.get(run_key(self._run), max_bytes=MAX_RUN_FILE_BYTES)
        return decode_run_file(data, verify)[1].start_window

    def fingerprints(self, manifest: Manifest) -> set[bytes]:
        """Return the parameters at which those who are listed took their gradients."""
        paths = [
            path
            for uid in manifest.payloads
            for path in self._store.glob(f"*/{self._run}/payload/{manifest.window:09d}/{uid}.bin")
        ]
        assert len(paths) == len(manifest.payloads)
        data = [path.read_bytes() for path in paths]
        return {unpack_header(one[:HEADER_BYTES], len(one) - HEADER_BYTES - 64).fingerprint for one in data}


def start(folder: Path, name: str) -> Node:
    if name == "aggregator":
        config = str(ROOT / "configs" / "aggregator.yaml")
        return Node(folder, name, ["--config", config, *TINY, *CLOCK], command="aggregate")
    return Node(folder, name, [*CLOCK, "--follow.aggregator=aggregator", "--trainer.max_epochs=-1"])


def wait_until(is_so: Callable[[], bool], nodes: dict[str, Node]) -> None:
    deadline = time.monotonic() + LONG_S
    while not is_so():
        for name, node in nodes.items():
            assert node.process.poll() is None, f"{name} ended:\n{node.text()}"
        texts = "\n".join(node.text() for node in nodes.values())
        assert time.monotonic() < deadline, f"not so in {LONG_S:g} s:\n{texts}"
        time.sleep(0.1)


@pytest.fixture
def nodes() -> Iterator[dict[str, Node]]:
    started: dict[str, Node] = {}
    yield started
    for node in started.values():
        if node.process.poll() is None:
            node.kill()


def test_miners_and_an_aggregator_that_is_killed_stay_bit_equal(tmp_path: Path, nodes: dict[str, Node]) -> None:
    nodes["aggregator"] = start(tmp_path, "aggregator")
    nodes["aggregator"].wait_for("begins with window 0")
    nodes |= {name: start(tmp_path, name) for name in ("alice", "bob")}
    published = Published(tmp_path)

    def count() -> int:
        """Return how many windows both took part in."""
        return sum(len(manifest.payloads) == 2 for manifest in published.manifests())

    wait_until(lambda: count() >= 2, nodes)
    nodes["aggregator"].kill()
    nodes["aggregator"] = start(tmp_path, "aggregator")
    nodes["aggregator"].wait_for("going on from the own checkpoint")
    before = count()
    wait_until(lambda: count() >= before + 3, nodes)
    nodes["aggregator"].process.send_signal(signal.SIGTERM)

    assert nodes["aggregator"].finish() == 143, nodes["aggregator"].text()
    found = published.manifests()
    assert published.begins() == 0
    assert len(found) == published.num_manifests()
    for last, manifest in pairwise(found):
        assert manifest.before == last.after
        assert published.fingerprints(manifest) <= {manifest.before}
    assert [manifest.steps for manifest in found] == list(range(1, len(found) + 1))
