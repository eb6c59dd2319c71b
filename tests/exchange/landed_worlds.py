"""Miners of windows that end by the clock, with a store in memory whose clock the test sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from templar_pl.chain import HotkeySigner, load_or_create_hotkey, verify
from templar_pl.compression import MomentumCodec
from templar_pl.config import CompressionConfig
from templar_pl.errors import Fault, PayloadError, StoreError
from templar_pl.exchange.landed import LandedRecord
from templar_pl.exchange.record import PayloadSource
from templar_pl.exchange.round_trip import RoundTrip
from templar_pl.exchange.store import BucketReader
from templar_pl.exchange.window_values import Collected, Identity, Limits, Outgoing, Training
from templar_pl.protocol.peer import Peer
from templar_pl.units import Uid, Window
from tests.exchange.fakes import MemoryBuckets, MemoryDisk, Scripted

SHAPES = {"matrix": (20, 33), "vector": (7,)}
CONFIG = CompressionConfig(chunk_size=8, topk=4, momentum_decay=0.5)
DIGEST = bytes(range(32))
NOW = Window(5)
"""The window in question: it is over, and its uploads began at second OPEN and end at second CLOSED."""
OPEN, CLOSED = 1000.25, 1010.0
NAMES = ("alice", "bob", "carol")


@dataclass
class Clock:
    """A chain whose time stands still between calls, except where a test moves it."""

    opened: Window = Window(NOW + 1)  # noqa: RUF009 - a number
    left_s: float = 0.0

    def window(self) -> Window:
        return self.opened

    def seconds_left(self, window: Window) -> float:
        left, self.left_s = self.left_s, 0.0
        return left

    def upload_interval(self, window: Window) -> tuple[float, float]:
        shift = 100.0 * (window - NOW)
        return OPEN + shift, CLOSED + shift


@dataclass
class World:
    """A store whose clock the test sets, a register, and miners."""

    folder: Path
    store_time: float = OPEN + 1
    clock: Clock = field(default_factory=Clock)
    disk: MemoryDisk = field(default_factory=MemoryDisk)
    register: dict[Uid, Peer] = field(default_factory=dict)
    since: dict[Uid, Window] = field(default_factory=dict)
    """First window a uid is a candidate for; those not named here are for all."""

    def add(self, name: str, **settings: float) -> Miner:
        signer = load_or_create_hotkey(self.folder, name)
        uid = Uid(len(self.register))
        self.register[uid] = Peer(uid, signer.hotkey, signer.public_key, name)
        return Miner(self, name, uid, signer, **settings)

    def candidates(self, window: Window) -> dict[Uid, Peer]:
        return {uid: peer for uid, peer in self.register.items() if self.since.get(uid, window) <= window}

    def time(self) -> float:
        return self.store_time


class Miner:
    """Everything one process has."""

    def __init__(
        self,
        world: World,
        name: str,
        uid: Uid,
        signer: HotkeySigner,
        *,
        patience_s: float = 0.0,
        timeout_s: float = 0.5,
    ) -> None:
        self.world, self.uid = world, uid
        self.codec = MomentumCodec(SHAPES, CONFIG, torch.device("cpu"))
        self.buckets = MemoryBuckets(world.disk, name, world.time)
        self.broken: Callable[[str, str], None] = do_nothing
        self.identity = identity = Identity("run", DIGEST, uid, name, signer, verify)
        self.limits = limits = Limits(timeout_s, patience_s, max_peers=15, keep_windows=10, check_interrupt=do_nothing)
        self.source = source = PayloadSource(self.codec, identity, self, limits)
        self.record = LandedRecord(
            world.clock, world.candidates, identity, source=source, own_bucket=self.own, limits=limits
        )
        self.round_trip = RoundTrip(
            self.codec, identity, buckets=self, record=self.record, source=source, timeout_s=timeout_s
        )

    def own(self) -> Scripted:
        return Scripted(self.buckets.own(), self.broken)

    def of(self, address: str) -> BucketReader:
        return Scripted(self.buckets.of(address), self.broken)  # type: ignore[arg-type]  # never written

    def train(self) -> None:
        """Fold a made-up gradient into the momentum."""
        generator = torch.Generator().manual_seed(self.uid)
        gradients = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
        self.codec.accumulate_(gradients, dict.fromkeys(SHAPES, 0.1))

    def send(self) -> Outgoing:
        """Train, compress and publish."""
        self.train()
        training = Training(pages=bytes(32), fingerprint=bytes(32), loss=1.0, batches=1, tokens=10)
        return self.round_trip.put(self.round_trip.encode(NOW, training, self.codec.compress_()), is_open=True)

    def momentum(self) -> dict[str, torch.Tensor]:
        return {name: momentum.clone() for name, momentum in self.codec.momentum.items()}


def fault(collected: Collected, miner: Miner) -> Fault:
    error = collected.skipped[miner.uid]
    assert isinstance(error, PayloadError)
    return error.fault


def raise_store_error(*_: str) -> None:
    raise StoreError("no connection")


def do_nothing(*_: str) -> None:
    """Let everything happen."""
