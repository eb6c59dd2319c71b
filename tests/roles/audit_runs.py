"""Runs to audit, written by the real publishers: miners with momentum, an aggregator, and a replica of the model."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from templar_pl.chain import HotkeySigner, load_or_create_hotkey, verify
from templar_pl.compression import MomentumCodec
from templar_pl.config import CompressionConfig, PeersConfig, ScheduleConfig, WindowConfig
from templar_pl.errors import Fault
from templar_pl.exchange import AggregatePublisher, LocalBuckets, read_aggregate
from templar_pl.exchange.aggregates import FileBucket
from templar_pl.exchange.checkpoint_publisher import CheckpointPublisher
from templar_pl.exchange.checkpoint_upload import Author, Moment
from templar_pl.hparams import HParams
from templar_pl.protocol import (
    AggregateHead,
    Exclusion,
    Header,
    Manifest,
    Payload,
    Peer,
    decode_manifest,
    encode_payload,
    payload_key,
)
from templar_pl.roles.audit_findings import AuditedWindow
from templar_pl.roles.audit_run import RunAudit
from templar_pl.training.optimizer import DecoupledSGD, WindowSchedule
from templar_pl.training.replica import Replica
from templar_pl.training.run_view import RunView
from templar_pl.units import Uid, Window

RUN = "my-run"
START, WINDOWS, EVERY = 20, 12, 4
DELTA_S = WindowConfig.time_window_delta_seconds
COMPRESSION = CompressionConfig(chunk_size=4, topk=3, momentum_decay=0.9)
SCHEDULE = ScheduleConfig(learning_rate=0.01, warmup_steps=5, t_max=7, weight_decay=0.1)
SENDERS = frozenset({Uid(0), Uid(1), Uid(2)})
LEFT_OUT = Uid(2)
"""Whose payload is missing in every third window."""


class Small(LightningModule):
    """A few parameters of odd shapes, stepped as the package steps them, or by another optimizer."""

    def __init__(self, seed: int = 1, *, adamw: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3, bias=False))
        self._adamw = adamw

    def configure_optimizers(self):  # type: ignore[override]  # what Lightning returns has no short name
        if self._adamw:
            return torch.optim.AdamW(self.parameters(), lr=0.01)
        optimizer = DecoupledSGD(self.parameters(), SCHEDULE.learning_rate, weight_decay=SCHEDULE.weight_decay)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": WindowSchedule(optimizer, SCHEDULE)}}


@dataclass(frozen=True)
class Member:
    """A node of the run."""

    uid: Uid
    signer: HotkeySigner
    bucket: FileBucket


class Miner:
    """Trains at random, and sends what a miner sends."""

    def __init__(self, member: Member, replica: Replica, run: str, compression: CompressionConfig) -> None:
        self._member, self._replica, self._run = member, replica, run
        shapes = {name: tuple(p.shape) for name, p in replica.parameters.items()}
        self._codec = MomentumCodec(shapes, compression, torch.device("cpu"))

    def send(self, window: Window) -> tuple[bytes, Payload]:
        generator = torch.Generator().manual_seed(1000 * window + self._member.uid)
        gradients = {n: torch.randn(p.shape, generator=generator) for n, p in self._replica.parameters.items()}
        chunks = self._codec.send_(gradients, dict.fromkeys(gradients, 0.01))
        header = Header(
            run=self._replica.digest,
            window=window,
            uid=self._member.uid,
            public_key=self._member.signer.public_key,
            pages=bytes(32),
            fingerprint=self._replica.fingerprint(),
            loss=2.5,
            batches=3,
            tokens=300,
        )
        data = encode_payload(header, chunks, self._codec.grids, self._member.signer)
        self._member.bucket.put(payload_key(self._run, window, self._member.uid), data)
        return hashlib.sha256(data).digest(), Payload(header, chunks)


@dataclass(frozen=True)
class Plan:
    """What is written."""

    run: str
    start: Window
    windows: int = WINDOWS
    compression: CompressionConfig = COMPRESSION
    ends_at: Callable[[Window], float] = lambda _: time.time()
    """When each window is over; payloads are written now all the same."""


def write_run(plan: Plan, replica: Replica, aggregator: Member, miners: list[Member], folder: Path) -> None:
    """Write payloads, manifests, aggregates and checkpoints of a run, and how its model goes on."""
    publisher = AggregatePublisher(aggregator.bucket, plan.run, folder, aggregator.signer, verify)
    author = Author(plan.run, replica.digest, "0.1.0", aggregator.signer, verify)
    checkpoints = CheckpointPublisher(aggregator.bucket, author, folder / "snapshots", keep=99)
    senders = {member.uid: Miner(member, replica, plan.run, plan.compression) for member in miners}
    shapes = {name: tuple(p.shape) for name, p in replica.parameters.items()}
    for applied in range(plan.windows + 1):
        window = Window(plan.start + applied)
        if applied % EVERY == 0:
            assert checkpoints.offer(Moment(window, applied), replica.state)
            assert checkpoints.wait(60) is not None
        if applied == plan.windows:
            return
        opened_at, before, rate = plan.ends_at(window), replica.fingerprint(), replica.learning_rate
        absent = {LEFT_OUT} if applied % 3 == 2 else set()
        sent = {uid: sender.send(window) for uid, sender in senders.items() if uid not in absent}
        chunks = [payload.chunks for _, payload in sent.values()]
        replica.apply(replica.codec.updates(chunks))
        manifest = Manifest(
            run=replica.digest,
            window=window,
            payloads={uid: sha256 for uid, (sha256, _) in sent.items()},
            left_out={uid: Exclusion(Fault.MISSING, "there is no object") for uid in absent},
            opened_at=opened_at,
            closed_at=opened_at + DELTA_S,
            before=before,
            after=replica.fingerprint(),
            steps=replica.applied,
            learning_rate=rate,
        )
        publisher.publish_aggregate(publisher.publish_manifest(manifest), replica.codec.updates(chunks), shapes)


@dataclass(frozen=True)
class World:
    """A run in folders below `folder`, as an outsider sees it."""

    folder: Path
    start: Window
    adamw: bool = False

    @property
    def aggregator(self) -> HotkeySigner:
        return self.key("aggregator")

    def key(self, name: str) -> HotkeySigner:
        return load_or_create_hotkey(self.folder / "keys", name)

    def miner(self, uid: int) -> HotkeySigner:
        return self.key(f"miner{uid}")

    def bucket(self, signer: HotkeySigner) -> FileBucket:
        return LocalBuckets(self.folder / "store", signer.hotkey).own()

    def path(self, signer: HotkeySigner, key: str) -> Path:
        return self.folder / "store" / signer.hotkey / key

    def payload(self, window: int, uid: int) -> Path:
        return self.path(self.miner(uid), payload_key(RUN, Window(window), Uid(uid)))

    def stored(self, kind: str, window: int, ending: str) -> Path:
        return self.path(self.aggregator, f"{RUN}/{kind}/{window:09d}{ending}")

    def replica(self, seed: int = 1) -> Replica:
        module = Small(seed, adamw=self.adamw)
        return Replica(module, COMPRESSION, PeersConfig(), b"s" * 32, torch.device("cpu"))

    def manifest(self, window: int) -> Manifest:
        return decode_manifest(self.stored("manifest", window, ".json").read_bytes(), verify)[1]

    def update(self, window: int) -> dict[str, Tensor]:
        """Return what the aggregate of a window says."""
        manifest = self.stored("manifest", window, ".json").read_bytes()
        head = AggregateHead(
            run=self.replica().digest,
            window=Window(window),
            public_key=self.aggregator.public_key,
            manifest=hashlib.sha256(manifest).digest(),
        )
        path = self.stored("aggregate", window, ".bin")
        return dict(read_aggregate(path, self.shapes(), head, verify))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(p.shape) for name, p in self.replica().parameters.items()}

    def lie(self, window: int, *, update: Mapping[str, Tensor] | None = None, **changes: object) -> None:
        """Publish another manifest and aggregate of a window, all of it signed as it should be."""
        manifest = replace(self.manifest(window), **changes)
        update = self.update(window) if update is None else update
        for kind, ending in (("manifest", ".json"), ("aggregate", ".json"), ("aggregate", ".bin")):
            self.stored(kind, window, ending).unlink()
        publisher = AggregatePublisher(self.bucket(self.aggregator), RUN, self.folder, self.aggregator, verify)
        by_name = ((name, update[name]) for name in sorted(update))
        publisher.publish_aggregate(publisher.publish_manifest(manifest), by_name, self.shapes())

    def publish_checkpoint(self, seed: int, window: int, by: HotkeySigner | None = None) -> None:
        """Publish a checkpoint of other parameters, signed as it should be."""
        replica = self.replica(seed)
        for _ in range(window - self.start):
            replica.apply((name, torch.zeros(p.shape)) for name, p in replica.parameters.items())
        self.publish_state(replica, window, by)

    def publish_state(self, replica: Replica, window: int, by: HotkeySigner | None = None) -> None:
        """Publish a checkpoint of what a replica holds in the place of what is there."""
        signer = by or self.aggregator
        folder = self.path(signer, f"{RUN}/checkpoint/{window:09d}")
        for path in folder.iterdir() if folder.exists() else ():
            path.unlink()
        author = Author(RUN, replica.digest, "0.1.0", signer, verify)
        publisher = CheckpointPublisher(self.bucket(signer), author, self.folder / "snapshots", keep=99)
        assert publisher.offer(Moment(Window(window), window - self.start), replica.state)
        assert publisher.wait(60) is not None

    def send(self, uid: int, window: int, *, signer: HotkeySigner | None = None) -> None:
        """Put a payload of a miner into its bucket, signed by it or by somebody else."""
        bucket = self.bucket(self.miner(uid))
        member = Member(Uid(uid), signer or self.miner(uid), bucket)
        Miner(member, self.replica(), RUN, COMPRESSION).send(Window(window))

    def write(self) -> World:
        members = [Member(Uid(u), self.miner(u), self.bucket(self.miner(u))) for u in range(3)]
        aggregator = Member(Uid(3), self.aggregator, self.bucket(self.aggregator))
        write_run(Plan(RUN, self.start), self.replica(), aggregator, members, self.folder)
        return self

    def copied_to(self, folder: Path) -> World:
        shutil.copytree(self.folder, folder)
        return replace(self, folder=folder)

    def peers(self) -> Mapping[Uid, Peer]:
        keys = [*(self.miner(u) for u in range(3)), self.aggregator]
        return {Uid(u): Peer(Uid(u), key.hotkey, key.public_key, key.hotkey) for u, key in enumerate(keys)}

    def view(self, peers: Mapping[Uid, Peer] | None = None) -> RunView:
        known = self.peers() if peers is None else peers
        return RunView(
            run=RUN,
            buckets=LocalBuckets(self.folder / "store", "nobody"),
            register=lambda _: known,
            ends_at=lambda _: None,
            open_window=lambda: Window(self.start + WINDOWS),
            candidates=lambda _: {uid: peer for uid, peer in known.items() if uid in SENDERS},
            aggregator=self.peers()[Uid(3)],
            validator=None,
            start_window=self.start,
            verify=verify,
            close=lambda: None,
        )

    def audit(
        self,
        first: int | None = None,
        last: int | None = None,
        *,
        view: RunView | None = None,
        keep_windows: int = 100,
        max_peers: int = 15,
        seed: int = 7,
        check_interrupt: Callable[[], None] = lambda: None,
    ) -> list[AuditedWindow]:
        """Audit with a replica whose own parameters are others, unless `seed` is 1."""
        folder = self.folder / "audit"
        folder.mkdir(exist_ok=True)
        numbers = HParams(
            window=WindowConfig(stale_retention=keep_windows),
            peers=PeersConfig(max_topk_peers=max_peers, minimum_peers=1),
        )
        audit = RunAudit(view or self.view(), self.replica(seed), numbers, folder, check_interrupt, patience_s=0.5)
        return list(audit.windows(audit.begin(first, last)))
