"""A run that took place: payloads, manifests, aggregates and checkpoints in real buckets, and what a live node held.

Two miners send what real codecs make of random gradients; an aggregator follows live and publishes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from templar_pl.chain import HotkeySigner, load_or_create_hotkey, verify
from templar_pl.compression import MomentumCodec
from templar_pl.config import CompressionConfig, PeersConfig, ScheduleConfig
from templar_pl.errors import ObjectMissingError
from templar_pl.exchange import AggregatePublisher, AggregateSource, LocalBuckets, read_aggregate
from templar_pl.exchange.agreed import AgreedRecord
from templar_pl.exchange.checkpoint_publisher import Author, CheckpointPublisher, Moment
from templar_pl.exchange.landed import LandedRecord
from templar_pl.exchange.record import PayloadSource
from templar_pl.exchange.window_values import Collected, Identity, Limits
from templar_pl.protocol import (
    AggregateNotice,
    Header,
    Manifest,
    Peer,
    aggregate_keys,
    encode_notice,
    encode_payload,
    manifest_keys,
    notice_keys,
    payload_key,
)
from templar_pl.protocol.agreement import Settlement
from templar_pl.protocol.keys import checkpoint_keys
from templar_pl.training import Replica
from templar_pl.training.catch_up import CatchUp
from templar_pl.training.catch_up_status import Watch
from templar_pl.training.optimizer import DecoupledSGD, WindowSchedule
from templar_pl.training.trail import Trail
from templar_pl.units import Uid, Window

RUN, START = "past", Window(40)
CPU = torch.device("cpu")
SCHEDULE = ScheduleConfig(learning_rate=2e-3, warmup_steps=4, t_max=50, weight_decay=0.1)
CONFIG = CompressionConfig(topk=4, chunk_size=8)
Optimize = Callable[[LightningModule], Any]


def decoupled(module: LightningModule) -> Any:
    optimizer = DecoupledSGD(module.parameters(), 1.0, weight_decay=SCHEDULE.weight_decay)
    return {"optimizer": optimizer, "lr_scheduler": WindowSchedule(optimizer, SCHEDULE)}


def adamw(module: LightningModule) -> Any:
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30)]


class Small(LightningModule):
    """A few tensors of odd shapes; its first numbers follow from a seed."""

    def __init__(self, optimize: Optimize = decoupled, seed: int = 0, width: int = 13) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        shapes = {"matrix": (width, 7), "vector": (11,), "scalar": (), "cube": (2, 3, 5)}
        self.values = nn.ParameterDict(
            {n: nn.Parameter(torch.randn(s, generator=generator)) for n, s in shapes.items()}
        )
        self._optimize = optimize

    def configure_optimizers(self) -> Any:
        return self._optimize(self)


def new_replica(optimize: Optimize = decoupled, seed: int = 0) -> Replica:
    return Replica(Small(optimize, seed), CONFIG, PeersConfig(), b"settings", CPU)


@dataclass
class Clock:
    """A clock by which every payload landed in time."""

    opened: Window

    def window(self) -> Window:
        return self.opened

    def seconds_left(self, window: Window) -> float:
        return -1e6

    def upload_interval(self, window: Window) -> tuple[float, float]:
        return 0.0, 2.0**40


@dataclass
class Miner:
    """Sends a payload each window."""

    uid: Uid
    signer: HotkeySigner
    codec: MomentumCodec

    def send(self, folder: Path, window: Window, model: Replica) -> bytes:
        """Put a payload into the own bucket and return it."""
        generator = torch.Generator().manual_seed(1000 * self.uid + window)
        gradients = {n: torch.randn(p.shape, generator=generator) for n, p in model.parameters.items()}
        chunks = self.codec.send_(gradients, dict.fromkeys(gradients, 0.1))
        header = Header(
            run=model.digest,
            window=window,
            uid=self.uid,
            public_key=self.signer.public_key,
            pages=bytes(32),
            fingerprint=model.fingerprint(),
            loss=1.0,
            batches=1,
            tokens=1,
        )
        data = encode_payload(header, chunks, self.codec.grids, self.signer)
        LocalBuckets(folder / "store", self.signer.hotkey).own().put(payload_key(RUN, window, self.uid), data)
        return data


@dataclass
class PastRun:
    """A run, and everything that its nodes left behind."""

    folder: Path
    optimize: Optimize = decoupled
    checkpoints: tuple[int, ...] = ()
    """After so many windows, by the aggregator."""

    patience_s: float = 0.5
    live: Replica = field(init=False)
    prints: list[bytes] = field(default_factory=list)
    """Of the live parameters after 0, 1, ... windows."""

    def __post_init__(self) -> None:
        keys = self.folder / "keys"
        self.aggregator, self.validator = (load_or_create_hotkey(keys, name) for name in ("aggregator", "validator"))
        self.live = new_replica(self.optimize)
        shapes = {n: tuple(p.shape) for n, p in self.live.parameters.items()}
        self.shapes = shapes
        self.miners = [
            Miner(Uid(uid), load_or_create_hotkey(keys, f"miner-{uid}"), MomentumCodec(shapes, CONFIG, CPU))
            for uid in (2, 5)
        ]
        self.prints.append(self.live.fingerprint())
        if 0 in self.checkpoints:
            self.publish_checkpoint()

    @property
    def opened(self) -> Window:
        return Window(START + self.live.applied)

    def bucket(self, signer: HotkeySigner | None = None) -> Any:
        return LocalBuckets(self.folder / "store", (signer or self.aggregator).hotkey).own()

    def peer(self, signer: HotkeySigner, uid: int) -> Peer:
        return Peer(Uid(uid), signer.hotkey, signer.public_key, signer.hotkey)

    def go_on(self, windows: int, *, aggregates: bool = True, manifests: bool = True) -> PastRun:
        """Let windows pass."""
        for _ in range(windows):
            self._pass(aggregates=aggregates, manifests=manifests)
        return self

    def _pass(self, *, aggregates: bool, manifests: bool) -> None:
        window, before, lr = self.opened, self.live.fingerprint(), self.live.learning_rate
        data = {miner.uid: miner.send(self.folder, window, self.live) for miner in self.miners}
        source = self.payloads()
        keys = {miner.uid: miner.signer.public_key for miner in self.miners}
        chunks = [source.decode(uid, keys[uid], window, payload).chunks for uid, payload in data.items()]
        update = self.live.codec.update(chunks)
        self.live.apply(update.items())
        self.prints.append(self.live.fingerprint())
        if manifests:
            self.publish(window, before, lr, data, update if aggregates else None)
        if self.live.applied in self.checkpoints:
            self.publish_checkpoint()

    def publish(
        self, window: Window, before: bytes, lr: float, data: dict[Uid, bytes], update: dict[str, Tensor] | None
    ) -> None:
        """Publish a manifest and, with an update, the aggregate."""
        publisher = AggregatePublisher(self.bucket(), RUN, self.folder, self.aggregator, verify)
        manifest = Manifest(
            run=self.live.digest,
            window=window,
            payloads={uid: hashlib.sha256(payload).digest() for uid, payload in data.items()},
            left_out={},
            opened_at=0.0,
            closed_at=2.0**40,
            before=before,
            after=self.prints[-1],
            steps=self.live.applied,
            learning_rate=lr,
        )
        standing = publisher.publish_manifest(manifest)
        if update is not None:
            publisher.publish_aggregate(standing, sorted(update.items()), self.shapes)

    def publish_checkpoint(self, signer: HotkeySigner | None = None, model: Replica | None = None) -> None:
        """Publish the live model, or another one, by the aggregator or another one."""
        model, signer = model or self.live, signer or self.aggregator
        author = Author(RUN, model.digest, "0.1.0", signer, verify)
        one = CheckpointPublisher(self.bucket(signer), author, self.folder / "snapshots", keep=9)
        assert one.offer(Moment(Window(START + model.applied), model.applied), model.state)
        assert one.wait(60) is not None

    def payloads(self) -> PayloadSource:
        mine = self.miners[0].signer
        identity = Identity(RUN, self.live.digest, Uid(99), address="x", signer=mine, verify=verify)
        limits = self.limits()
        return PayloadSource(self.live.codec, identity, LocalBuckets(self.folder / "store", "joiner"), limits)

    def limits(self, check_interrupt: Callable[[], None] = lambda: None) -> Limits:
        return Limits(
            timeout_s=0.3, patience_s=self.patience_s, max_peers=8, keep_windows=1000, check_interrupt=check_interrupt
        )

    def collect(self, window: Window) -> Collected:
        """Collect a window of the past as a node does that follows the aggregator."""
        peers = {miner.uid: self.peer(miner.signer, miner.uid) for miner in self.miners}
        signer = self.miners[0].signer
        identity = Identity(RUN, self.live.digest, Uid(99), address="x", signer=signer, verify=verify)
        run = self
        try:
            manifest = self.source().fetch_manifest(window).manifest
        except ObjectMissingError:
            landed = LandedRecord(
                Clock(self.opened),
                lambda _: peers,
                identity,
                source=self.payloads(),
                own_bucket=self.bucket,
                limits=self.limits(),
            )
            return landed.collect(window, None)

        class Agreed:
            def settle(self, window: Window, timeout_s: float) -> Settlement:
                return manifest.settlement()

        agreed: Any = Agreed()
        return AgreedRecord(agreed, identity, run.payloads(), lambda _: peers, self.limits()).collect(window, None)

    def source(self) -> AggregateSource:
        buckets = LocalBuckets(self.folder / "store", "joiner")
        return AggregateSource(buckets, self.peer(self.aggregator, 0), RUN, self.live.digest, verify)

    def trail(self, **changes: Any) -> Trail:
        parts: dict[str, Any] = {
            "run": RUN,
            "digest": self.live.digest,
            "start_window": START,
            "verify": verify,
            "buckets": LocalBuckets(self.folder / "store", "joiner"),
            "aggregator": lambda: self.peer(self.aggregator, 0),
            "leaders": lambda: [self.peer(self.aggregator, 0), self.peer(self.validator, 1)],
            "collect": self.collect,
            "folder": self.folder / "catch-up",
        }
        return Trail(**(parts | changes))

    def catch_up(
        self,
        model: Replica,
        *,
        watch: Watch | None = None,
        check_interrupt: Callable[[], None] = lambda: None,
        **changes: Any,
    ) -> CatchUp:
        return CatchUp(model, model.codec, self.trail(**changes), self.limits(check_interrupt), watch=watch)

    # What can go wrong with what was left behind.

    def delete_aggregate(self, applied: int) -> None:
        """Take away the aggregate of the window after so many."""
        window = Window(START + applied)
        self.bucket().delete([aggregate_keys(RUN).key(window), notice_keys(RUN).key(window)])

    def replace_aggregate(self, applied: int, change: Callable[[bytearray], None] | None = None) -> None:
        """Publish another aggregate: all of the update turned round, or changed bytes that nothing but a hash fits."""
        window = Window(START + applied)
        standing = self.source().fetch_manifest(window)
        path = self.folder / "other.bin"
        self.source().fetch_aggregate(self.source().fetch_notice(standing), self.shapes, path)
        other = [(n, -u) for n, u in read_aggregate(path, self.shapes, standing.head, verify)]
        self.delete_aggregate(applied)
        publisher = AggregatePublisher(self.bucket(), RUN, self.folder, self.aggregator, verify)
        if change is None:
            publisher.publish_aggregate(standing, other, self.shapes)
            return
        data = bytearray(path.read_bytes())
        change(data)
        path.write_bytes(data)
        digest = self.bucket().put_file(aggregate_keys(RUN).key(window), path)
        notice = AggregateNotice(
            run=self.live.digest, window=window, manifest=standing.sha256, sha256=digest.sha256, size=digest.size
        )
        self.bucket().put(notice_keys(RUN).key(window), encode_notice(notice, self.aggregator))

    def delete_manifest(self, applied: int) -> None:
        self.bucket().delete([manifest_keys(RUN).key(Window(START + applied))])

    def delete_payload(self, applied: int) -> None:
        """Take away the payload of the first miner."""
        miner = self.miners[0]
        self.bucket(miner.signer).delete([payload_key(RUN, Window(START + applied), miner.uid)])

    def break_checkpoint(self, applied: int) -> None:
        """Change a byte in the middle of the parameters."""
        window = Window(START + applied)
        path = self.folder / "store" / self.aggregator.hotkey / checkpoint_keys(RUN, "model.safetensors").key(window)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.chmod(0o644)
        path.write_bytes(data)


def assert_is_live(model: Replica, run: PastRun) -> None:
    """Compare every bit with the live node: parameters, optimizer, learning rate."""
    assert model.applied == run.live.applied
    assert model.fingerprint() == run.prints[-1]
    assert all(torch.equal(p, run.live.parameters[n]) for n, p in model.parameters.items())
    assert model.learning_rate == run.live.learning_rate
    mine, theirs = model.state.optimizer, run.live.state.optimizer
    assert mine is not None
    assert theirs is not None
    for name, parameter in model.parameters.items():
        kept, wanted = mine.state[parameter], theirs.state[run.live.parameters[name]]
        assert kept.keys() == wanted.keys()
        assert all(kept[key] is wanted[key] or torch.equal(kept[key], wanted[key]) for key in wanted), name


def never(window: Window) -> Collected:
    """Collect nothing: who follows aggregates and checkpoints asks for no payload."""
    raise AssertionError(f"payloads of window {window} are asked for")


def ahead(run: PastRun, applied: int, optimize: Optimize = decoupled) -> Replica:
    """Return a model that has followed the run so far."""
    model = new_replica(optimize)
    run.catch_up(model, leaders=list).follow(lambda: Window(START + applied))
    return model
