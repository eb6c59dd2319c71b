"""Runs whose windows are over: real payloads of senders that train nothing, put when they had to be."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from templar_pl.chain import HotkeySigner, LocalChain, LocalChainConfig, load_or_create_hotkey, verify
from templar_pl.compression import MomentumCodec
from templar_pl.config import CompressionConfig, PeersConfig, ScheduleConfig, WindowConfig
from templar_pl.exchange import AggregateSource, FileDigest, LocalBucket, LocalBuckets, LocalReader
from templar_pl.hparams import HParams
from templar_pl.node_config import FollowConfig
from templar_pl.protocol import Expected, Peer, decode_payload, payload_key
from templar_pl.protocol.header import Header
from templar_pl.protocol.payload import encode_payload
from templar_pl.roles.aggregate import AggregateConfig
from templar_pl.roles.node import Node
from templar_pl.training import Connection, LocalNetwork, Network, RecoveryConfig, Replica
from templar_pl.training.optimizer import DecoupledSGD, WindowSchedule
from templar_pl.units import Block, Uid, Window

WINDOW_S = 5
DELTA_S = 2.0
CPU = torch.device("cpu")
CHAIN = LocalChainConfig(pace="wall", seconds_per_block=1, record_windows=False)
NUMBERS = HParams(
    compression=CompressionConfig(chunk_size=8, topk=4),
    window=WindowConfig(
        blocks_per_window=WINDOW_S,
        time_window_delta_seconds=DELTA_S,
        gather_timeout_seconds=20,
        checkpoint_frequency=3,
        stale_retention=50,
    ),
    peers=PeersConfig(max_topk_peers=4, minimum_peers=1),
    schedule=ScheduleConfig(learning_rate=0.01, warmup_steps=4, t_max=20, weight_decay=0.01),
)
AGGREGATOR = "aggregator"

Hook = Callable[[str, str], None]
"""Called with the name of a method and the key of an object; may raise, wait or end the process."""


class Tiny(LightningModule):
    """Two layers with odd sizes."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = nn.Sequential(nn.Linear(13, 21), nn.Linear(21, 5))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        schedule = NUMBERS.schedule
        optimizer = DecoupledSGD(self.parameters(), schedule.learning_rate, weight_decay=schedule.weight_decay)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": WindowSchedule(optimizer, schedule)}}


def replica(seed: int = 0, precision: str = "32-true") -> Replica:
    return Replica(Tiny(seed), NUMBERS.compression, NUMBERS.peers, b"settings", CPU, precision=precision)


class WatchedBucket(LocalBucket):
    """A bucket whose writes are watched; and its reads, before they are made."""

    def __init__(self, root: Path, address: str, before: Hook, after: Hook) -> None:
        super().__init__(root, address)
        self._before, self._after = before, after

    def get(self, key: str, *, max_bytes: int) -> bytes:
        self._before("get", key)
        return super().get(key, max_bytes=max_bytes)

    def get_file(self, key: str, path: Path, expected: FileDigest) -> None:
        self._before("get_file", key)
        super().get_file(key, path, expected)

    def list(self, prefix: str) -> Iterator[str]:
        self._before("list", prefix)
        return super().list(prefix)

    def delete(self, keys: Iterable[str]) -> None:
        deleted = list(keys)
        self._before("delete", " ".join(deleted))
        super().delete(deleted)

    def put(self, key: str, data: bytes) -> None:
        self._before("put", key)
        super().put(key, data)
        self._after("put", key)

    def put_once(self, key: str, data: bytes) -> bool:
        self._before("put_once", key)
        is_new = super().put_once(key, data)
        self._after("put_once", key)
        return is_new

    def put_file(self, key: str, path: Path) -> FileDigest:
        self._before("put_file", key)
        digest = super().put_file(key, path)
        self._after("put_file", key)
        return digest


class WatchedBuckets(LocalBuckets):
    def __init__(self, root: Path, address: str, before: Hook, after: Hook) -> None:
        super().__init__(root, address)
        self._address, self._watched = address, WatchedBucket(root, address, before, after)

    def own(self) -> WatchedBucket:
        return self._watched

    def of(self, address: str) -> LocalReader:
        return self._watched if address == self._address else super().of(address)


def nothing(_: str, __: str) -> None:
    """Let it go on."""


class WatchedNetwork(LocalNetwork):
    """A network whose own bucket is watched."""

    def __init__(
        self, folder: Path, before: Hook = nothing, after: Hook = nothing, follow: FollowConfig | None = None
    ) -> None:
        super().__init__(str(folder), "run", AGGREGATOR, CHAIN, follow=follow)
        self._hooks = before, after

    def open(self, digest: bytes, window: WindowConfig, *, sends: bool = True) -> Connection:
        connection = super().open(digest, window, sends=sends)
        birth_ms = int(1000 * connection.chain.timestamp(Block(0)))
        buckets = WatchedBuckets(self.run_dir / f"store-{birth_ms}", connection.address, *self._hooks)
        return replace(connection, buckets=buckets)


def aggregator(folder: Path, windows: int | None, *, network: Network | None = None, **changes: Any) -> Node:
    """Return an aggregator that stops after so many windows."""
    node = Node(
        network=network or WatchedNetwork(folder),
        module=Tiny(),
        data=LightningDataModule(),
        hparams=NUMBERS,
        settings_digest=b"settings",
        recovery=RecoveryConfig(patience_s=10),
        device=CPU,
        precision="32-true",
        options={"aggregate": AggregateConfig(), "windows": windows, "netuid": 7},
        check_interrupt=lambda: None,
    )
    return replace(node, **changes)


@dataclass
class Sender:
    """A miner that has only momentum."""

    uid: Uid
    signer: HotkeySigner
    bucket: LocalBucket
    codec: MomentumCodec
    folder: Path


class PastRun:
    """A local run that began so many windows ago, with senders."""

    def __init__(
        self,
        folder: Path,
        names: Iterable[str] = ("alice", "bob", "carol"),
        windows: int = 9,
        precision: str = "32-true",
    ) -> None:
        self.folder, self.precision, self.digest = folder, precision, replica(precision=precision).digest
        self.shapes = {name: tuple(p.shape) for name, p in replica().parameters.items()}
        # A second into the window that is open: as many are over.
        self.birth = float(int(time.time()) - windows * WINDOW_S - 1)
        self._store = folder / "run" / f"store-{int(1000 * self.birth)}"
        self.senders = {name: self.join(name) for name in names}

    def send_all(self, windows: int) -> None:
        """Put the payloads of all senders for so many windows."""
        for window in range(windows):
            for name in self.senders:
                self.send(name, window)

    def send(self, name: str, window: int, *, after_s: float = 0.5, key: str | None = None) -> bytes:
        """Put a payload so many seconds after the end of its window; return it."""
        sender = self.senders[name]
        generator = torch.Generator().manual_seed(1000 * sender.uid + window)
        gradients = {name: torch.randn(shape, generator=generator) for name, shape in self.shapes.items()}
        chunks = sender.codec.send_(gradients, dict.fromkeys(gradients, 1.0))
        header = Header(
            run=self.digest,
            window=Window(window),
            uid=sender.uid,
            public_key=sender.signer.public_key,
            pages=bytes(32),
            fingerprint=bytes(32),
            loss=1.0,
            batches=1,
            tokens=10,
        )
        data = encode_payload(header, chunks, sender.codec.grids, sender.signer)
        self.put(name, key or payload_key("run", Window(window), sender.uid), data, self.end_of(window) + after_s)
        return data

    def put(self, name: str, key: str, data: bytes, at: float) -> None:
        """Put an object as of a time."""
        self.senders[name].bucket.put(key, data)
        os.utime(self.senders[name].folder / key, (at, at))

    def update(self, window: Window, payloads: Collection[Uid]) -> dict[str, Tensor]:
        """Compute the update of what some of the senders put."""
        codec = MomentumCodec(self.shapes, NUMBERS.compression, CPU)
        read = []
        for sender in self.senders.values():
            if sender.uid in payloads:
                data = sender.bucket.get(payload_key("run", window, sender.uid), max_bytes=10**6)
                expected = Expected(run=self.digest, window=window, uid=sender.uid, public_key=sender.signer.public_key)
                read.append(decode_payload(data, codec.grids, expected, verify).chunks)
        return codec.update(read)

    def network(self) -> LocalNetwork:
        return WatchedNetwork(self.folder)

    def end_of(self, window: int) -> float:
        return self.birth + (window + 1) * WINDOW_S

    def bucket(self, name: str = AGGREGATOR) -> LocalBucket:
        return LocalBuckets(self._store, self.signer(name).hotkey).own()

    def signer(self, name: str = AGGREGATOR) -> HotkeySigner:
        return load_or_create_hotkey(self.folder / "hotkeys", name)

    def source(self) -> AggregateSource:
        """Return what the aggregator published, as another node reads it."""
        signer = self.signer()
        peer = Peer(Uid(99), signer.hotkey, signer.public_key, signer.hotkey)
        return AggregateSource(LocalBuckets(self._store, "reader"), peer, "run", self.digest, verify)

    def join(self, name: str, *, sends: bool = True) -> Sender:
        """Register a node when the run began."""
        signer = self.signer(name)
        config = replace(CHAIN, blocks_per_window=WINDOW_S, delta_s=DELTA_S)
        chain = LocalChain(
            self.folder / "run" / "chain.sqlite", signer, config, run=self.digest.hex(), now=lambda: self.birth
        )
        chain.open()
        uid = chain.register(sends=sends)
        chain.commit(signer.hotkey)
        assert chain.timestamp(Block(0)) == self.birth
        chain.close()
        codec = MomentumCodec(self.shapes, NUMBERS.compression, CPU)
        return Sender(uid, signer, self.bucket(name), codec, self._store / signer.hotkey)
