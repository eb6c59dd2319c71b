"""How fast does a node catch up, and in how much memory?

    python benchmarks/catch_up.py [--windows 100] [--tensors 24] [--side 1024] [--zeros 0.001] [--peers 4]
        [--device cpu]

Publishes a run of matrices of one size into local buckets, and lets a node that has applied nothing catch up: by
aggregates alone, by the payloads of manifests, and by a checkpoint. Prints windows a second, how much faster than live
that is, and by how much the resident memory grew at the most, against the bound: one tensor of fp32, one object (of
payloads: those of a window), and room that does not grow with the model. What the
aggregates say is drawn at random; the bits at the end are compared with those of the node that was there.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from memory import extra_bytes
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from templar_pl.chain import HotkeySigner, load_or_create_hotkey, verify
from templar_pl.compression import MomentumCodec
from templar_pl.config import CompressionConfig, PeersConfig, ScheduleConfig
from templar_pl.exchange import AggregatePublisher, AggregateSource, LocalBuckets
from templar_pl.exchange.checkpoint_publisher import CheckpointPublisher
from templar_pl.exchange.checkpoint_upload import Author, Moment
from templar_pl.exchange.record import PayloadSource
from templar_pl.exchange.window_values import Collected, Identity, Limits
from templar_pl.protocol import Header, Manifest, Peer, encode_payload, payload_key
from templar_pl.training import Replica
from templar_pl.training.catch_up import CatchUp
from templar_pl.training.optimizer import DecoupledSGD, WindowSchedule
from templar_pl.training.trail import Trail
from templar_pl.units import Uid, Window

RUN, LIVE_S = "benchmark", 84.0  # a window of 7 blocks of 12 s
ROOM = 4 * 2**20
"""Bytes for blocks, chunks, threads and what the allocator keeps of them: the same for all models."""

CONFIG, SCHEDULE = CompressionConfig(), ScheduleConfig()
LIMITS = Limits(timeout_s=60, patience_s=60, max_peers=512, keep_windows=10**6, check_interrupt=lambda: None)


class Matrices(LightningModule):
    """Some matrices, and the package's own rule."""

    def __init__(self, tensors: int, side: int) -> None:
        """Draw the same numbers on every node."""
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.values = nn.ParameterList([torch.randn(side, side, generator=generator) for _ in range(tensors)])

    def configure_optimizers(self) -> Any:
        """Return what the supplied module returns."""
        optimizer = DecoupledSGD(self.parameters(), SCHEDULE.learning_rate)
        return {"optimizer": optimizer, "lr_scheduler": WindowSchedule(optimizer, SCHEDULE)}


@dataclass
class World:
    """A run in local buckets, and the node that was there."""

    folder: Path
    arguments: argparse.Namespace
    signer: HotkeySigner
    live: Replica

    @staticmethod
    def begin(folder: Path, arguments: argparse.Namespace) -> World:
        """Begin a run."""
        return World(folder, arguments, load_or_create_hotkey(folder / "keys", "a"), new_replica(arguments))

    def bucket(self) -> Any:
        """Return the bucket that everything lies in."""
        return LocalBuckets(self.folder / "store", self.signer.hotkey).own()

    @property
    def peer(self) -> Peer:
        """Aggregator, leader and every miner."""
        return Peer(Uid(0), self.signer.hotkey, self.signer.public_key, self.signer.hotkey)

    def apply(self, payloads: dict[Uid, bytes], update: list[tuple[str, Tensor]], *, publishes: bool) -> None:
        """Let a window pass, and publish what it was."""
        window, before, lr = Window(self.live.applied), self.live.fingerprint(), self.live.learning_rate
        self.live.apply(update)
        manifest = Manifest(
            run=self.live.digest,
            window=window,
            payloads={uid: hashlib.sha256(data).digest() for uid, data in payloads.items()},
            left_out={},
            opened_at=0.0,
            closed_at=1.0,
            before=before,
            after=self.live.fingerprint(),
            steps=self.live.applied,
            learning_rate=lr,
        )
        publisher = AggregatePublisher(self.bucket(), RUN, self.folder, self.signer, verify)
        standing = publisher.publish_manifest(manifest)
        if publishes:
            publisher.publish_aggregate(standing, sorted(update), shapes_of(self.live))

    def publish_checkpoint(self) -> None:
        """Publish the parameters as they are."""
        author = Author(RUN, self.live.digest, "0", self.signer, verify)
        publisher = CheckpointPublisher(self.bucket(), author, self.folder / "snapshots", keep=1)
        publisher.offer(Moment(Window(self.live.applied), self.live.applied), self.live.state)
        if publisher.wait(600) is None:
            raise SystemExit("the checkpoint was not published")

    def source(self, model: Replica) -> PayloadSource:
        """Return what reads payloads."""
        identity = Identity(RUN, model.digest, Uid(0), address="x", signer=self.signer, verify=verify)
        return PayloadSource(model.codec, identity, LocalBuckets(self.folder / "store", "x"), LIMITS)

    def catch_up(self, model: Replica) -> CatchUp:
        """Return what brings a model to the live one."""
        buckets = LocalBuckets(self.folder / "store", "x")
        source = AggregateSource(buckets, self.peer, RUN, model.digest, verify)

        def collect(window: Window) -> Collected:
            manifest = source.fetch_manifest(window).manifest
            peers = {
                uid: Peer(uid, self.peer.hotkey, self.peer.public_key, self.peer.address) for uid in manifest.payloads
            }
            found = self.source(model).fetch(window, peers, hashes=manifest.payloads)
            payloads = {uid: fetched.payload for uid, fetched in found.payloads.items()}
            return Collected(manifest.settlement(), payloads, {}, 0)

        trail = Trail(
            run=RUN,
            digest=model.digest,
            start_window=Window(0),
            verify=verify,
            buckets=buckets,
            aggregator=lambda: self.peer,
            leaders=lambda: [self.peer],
            collect=collect,
            folder=self.folder / "catch-up",
        )
        return CatchUp(model, model.codec, trail, LIMITS)


def new_replica(arguments: argparse.Namespace) -> Replica:
    """Return a node that has applied nothing."""
    module = Matrices(arguments.tensors, arguments.side)
    return Replica(module, CONFIG, PeersConfig(), b"", torch.device(arguments.device))


def shapes_of(model: Replica) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all parameters."""
    return {name: tuple(parameter.shape) for name, parameter in model.parameters.items()}


def random_update(model: Replica, window: int, zeros: float) -> Iterator[tuple[str, Tensor]]:
    """Draw an update with this share of zeros."""
    generator = torch.Generator().manual_seed(window)
    for name, shape in shapes_of(model).items():
        drawn = torch.rand(shape, generator=generator)
        signs = torch.where(drawn < 0.5, -1.0, 1.0)
        yield name, torch.where((drawn - 0.25).abs() < zeros / 2, 0.0, signs)


def by_aggregates(world: World) -> None:
    """Let windows pass that have aggregates."""
    for window in range(world.arguments.windows):
        update = list(random_update(world.live, window, world.arguments.zeros))
        world.apply({}, update, publishes=True)


def by_payloads(world: World) -> None:
    """Let a tenth as many windows pass that have payloads only."""
    codec = MomentumCodec(shapes_of(world.live), CONFIG, torch.device("cpu"))
    chunks = []
    for peer in range(world.arguments.peers):
        gradients = dict(random_update(world.live, peer, 0.0))
        chunks.append(codec.send_(gradients, dict.fromkeys(gradients, 1.0)))
    for window in range(max(1, world.arguments.windows // 10)):
        payloads = {}
        for uid, said in enumerate(chunks):
            header = Header(
                run=world.live.digest,
                window=Window(window),
                uid=Uid(uid),
                public_key=world.signer.public_key,
                pages=bytes(32),
                fingerprint=bytes(32),
                loss=1.0,
                batches=1,
                tokens=1,
            )
            payloads[Uid(uid)] = encode_payload(header, said, world.live.codec.grids, world.signer)
            world.bucket().put(payload_key(RUN, Window(window), Uid(uid)), payloads[Uid(uid)])
        world.apply(payloads, list(world.live.codec.updates(chunks)), publishes=False)


def by_checkpoint(world: World) -> None:
    """Let windows pass that only a checkpoint tells of."""
    for window in range(3):
        world.live.apply(random_update(world.live, window, 0.0))
    world.publish_checkpoint()


def largest_object(bucket: Any, keys: list[str]) -> int:
    """Return the bytes of the largest object; payloads of one window count as one."""
    sizes: dict[str, int] = {}
    for key in keys:
        whole = key.rpartition("/")[0] if "/payload/" in key else key
        sizes[whole] = sizes.get(whole, 0) + bucket.head(key).size
    return max(sizes.values(), default=0)


def measure(way: Any, arguments: argparse.Namespace) -> tuple[int, float, int, int]:
    """Return windows, seconds, bytes of memory, and bytes of the largest object of one way to catch up."""
    with tempfile.TemporaryDirectory() as name:
        world = World.begin(Path(name), arguments)
        way(world)
        goal, wanted = Window(world.live.applied), world.live.fingerprint()
        keys = [key for key in world.bucket().list(f"{RUN}/") if not key.endswith(".json")]
        largest = largest_object(world.bucket(), keys)
        model = new_replica(arguments)
        catch_up = world.catch_up(model)
        del world.live
        ctypes.CDLL(None).malloc_trim(0)  # or what was freed would hide what is taken
        start = time.perf_counter()

        def go() -> None:
            catch_up.restart()
            catch_up.follow(lambda: goal)

        grown = extra_bytes(go)
        seconds = time.perf_counter() - start
        if model.fingerprint() != wanted:
            raise SystemExit("the bits differ from those of the live node")
        return goal, seconds, grown, largest


def parse_arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=100)
    parser.add_argument("--tensors", type=int, default=24)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--zeros", type=float, default=0.001)
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments()
    numel = arguments.tensors * arguments.side**2
    tensor = 4 * arguments.side**2
    table = Table(title=f"{numel / 1e6:.0f} M parameters in {arguments.tensors} matrices, {arguments.zeros:.3%} zeros")
    columns = (
        "way",
        "windows",
        "seconds",
        "windows/s",
        "x live (84 s)",
        "memory MiB",
        "/ bound",
        "/ (tensor + object)",
    )
    is_within = True
    for column in columns:
        table.add_column(column, justify="left" if column == "way" else "right")
    for name, way in (("aggregates", by_aggregates), ("payloads", by_payloads), ("checkpoint", by_checkpoint)):
        windows, seconds, grown, largest = measure(way, arguments)
        table.add_row(
            name,
            str(windows),
            f"{seconds:.2f}",
            f"{windows / seconds:.3g}",
            f"{math.floor(LIVE_S * windows / seconds)}",
            f"{grown / 2**20:.1f}",
            f"{grown / (tensor + largest + ROOM):.2f}",
            f"{grown / (tensor + largest):.2f}",
        )
        is_within = is_within and grown <= tensor + largest + ROOM
    console = Console(width=120)
    console.print(table)
    console.print(f"within the bound (one tensor, one object, {ROOM / 2**20:.0f} MiB): {'yes' if is_within else 'no'}")


if __name__ == "__main__":
    main()
