"""Processes of their own: one publishes a run of a few large matrices, another catches up and tells its memory.

Arguments: publish or follow, the folder, and by what: aggregates, payloads or checkpoint. What follows prints a JSON
map of bytes: `grown` (resident memory at its peak, more than before the last windows), `tensor` (the largest, fp32) and
`object` (the largest object read; of payloads, those of one window together).
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from templar_pl.chain import HotkeySigner, load_or_create_hotkey, verify
from templar_pl.compression import MomentumCodec, SparseChunks
from templar_pl.config import CompressionConfig, PeersConfig
from templar_pl.exchange import AggregatePublisher, AggregateSource, LocalBuckets
from templar_pl.exchange.checkpoint_publisher import Author, CheckpointPublisher, Moment
from templar_pl.exchange.record import PayloadSource
from templar_pl.exchange.window_values import Collected, Identity, Limits
from templar_pl.protocol import Header, Manifest, Peer, encode_payload, manifest_keys, payload_key
from templar_pl.training import Replica
from templar_pl.training.catch_up import CatchUp
from templar_pl.training.optimizer import DecoupledSGD
from templar_pl.training.trail import Trail
from templar_pl.units import Uid, Window

RUN, WINDOWS, MATRICES, SIDE, PEERS = "large", 4, 3, 2048, 4
CPU = torch.device("cpu")
CONFIG = CompressionConfig()
LIMITS = Limits(timeout_s=60, patience_s=60, max_peers=8, keep_windows=100, check_interrupt=lambda: None)


class Matrices(LightningModule):
    """Some matrices of the same numbers on every node."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.values = nn.ParameterList([torch.randn(SIDE, SIDE, generator=generator) for _ in range(MATRICES)])

    def configure_optimizers(self) -> Any:
        return DecoupledSGD(self.parameters(), 2.0**-8)


def new_replica() -> Replica:
    return Replica(Matrices(), CONFIG, PeersConfig(), b"", CPU)


def signs(model: Replica, seed: int) -> dict[str, Tensor]:
    """Draw an update with a few zeros."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {n: torch.rand(p.shape, generator=generator) for n, p in model.parameters.items()}
    return {n: torch.where(d < 0.5, -1.0, 1.0) * (d > 0.001) for n, d in sorted(drawn.items())}


class Live:
    """The node that was there, and leaves behind what it did."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.model = folder, new_replica()
        self.signer = load_or_create_hotkey(folder / "keys", "a")
        self.bucket = LocalBuckets(folder / "store", self.signer.hotkey).own()
        self.shapes = {n: tuple(p.shape) for n, p in self.model.parameters.items()}

    def publish(self, by: str) -> None:
        """Let the windows pass."""
        if by == "payloads":
            self._pass_with_payloads()
        else:
            for window in range(WINDOWS):
                self._pass({}, signs(self.model, window), has_aggregate=by == "aggregates")
        if by == "checkpoint":
            author = Author(RUN, self.model.digest, "0", self.signer, verify)
            publisher = CheckpointPublisher(self.bucket, author, self.folder / "snapshots", keep=1)
            publisher.offer(Moment(Window(WINDOWS), WINDOWS), self.model.state)
            assert publisher.wait(600) is not None

    def _pass_with_payloads(self) -> None:
        codec = MomentumCodec(self.shapes, CONFIG, CPU)
        said = [codec.send_(g, dict.fromkeys(g, 1.0)) for g in (signs(self.model, peer) for peer in range(PEERS))]
        for window in range(WINDOWS):
            payloads = {}
            for uid, chunks in enumerate(said):
                payloads[Uid(uid)] = data = self._payload(Window(window), Uid(uid), chunks)
                self.bucket.put(payload_key(RUN, Window(window), Uid(uid)), data)
            self._pass(payloads, self.model.codec.update(said), has_aggregate=False)

    def _payload(self, window: Window, uid: Uid, chunks: Mapping[str, SparseChunks]) -> bytes:
        header = Header(
            run=self.model.digest,
            window=window,
            uid=uid,
            public_key=self.signer.public_key,
            pages=bytes(32),
            fingerprint=bytes(32),
            loss=1.0,
            batches=1,
            tokens=1,
        )
        return encode_payload(header, chunks, self.model.codec.grids, self.signer)

    def _pass(self, payloads: dict[Uid, bytes], update: dict[str, Tensor], *, has_aggregate: bool) -> None:
        before = self.model.fingerprint()
        self.model.apply(update.items())
        manifest = Manifest(
            run=self.model.digest,
            window=Window(self.model.applied - 1),
            payloads={uid: hashlib.sha256(data).digest() for uid, data in payloads.items()},
            left_out={},
            opened_at=0.0,
            closed_at=1.0,
            before=before,
            after=self.model.fingerprint(),
            steps=self.model.applied,
            learning_rate=self.model.learning_rate,
        )
        publisher = AggregatePublisher(self.bucket, RUN, self.folder, self.signer, verify)
        standing = publisher.publish_manifest(manifest)
        if has_aggregate:
            publisher.publish_aggregate(standing, sorted(update.items()), self.shapes)


def catch_up(folder: Path, model: Replica, signer: HotkeySigner) -> CatchUp:
    """Return what brings a model to the live one."""
    buckets = LocalBuckets(folder / "store", "x")
    peer = Peer(Uid(0), signer.hotkey, signer.public_key, signer.hotkey)
    source = AggregateSource(buckets, peer, RUN, model.digest, verify)
    identity = Identity(RUN, model.digest, Uid(0), address="x", signer=signer, verify=verify)

    def collect(window: Window) -> Collected:
        manifest = source.fetch_manifest(window).manifest
        peers = {uid: Peer(uid, peer.hotkey, peer.public_key, peer.address) for uid in manifest.payloads}
        payloads = PayloadSource(model.codec, identity, buckets, LIMITS)
        found = payloads.fetch(window, peers, hashes=manifest.payloads).payloads
        assert len(found) == PEERS
        return Collected(manifest.settlement(), {uid: one.payload for uid, one in found.items()}, {}, 0)

    trail = Trail(
        run=RUN,
        digest=model.digest,
        start_window=Window(0),
        verify=verify,
        buckets=buckets,
        aggregator=lambda: peer,
        leaders=lambda: [peer],
        collect=collect,
        folder=folder / "catch-up",
    )
    return CatchUp(model, model.codec, trail, LIMITS)


def follow(folder: Path, by: str) -> dict[str, int]:
    """Catch up, and measure all but the first window or, of a checkpoint, the second time it is loaded."""
    signer, model = load_or_create_hotkey(folder / "keys", "a"), new_replica()
    one = catch_up(folder, model, signer)
    if by == "checkpoint":
        assert one.restart()
        grown = grown_by(lambda: one.restart(is_lost=True))
    else:
        one.follow(lambda: Window(1))  # what is loaded once is no window's doing
        grown = grown_by(lambda: one.follow(lambda: Window(WINDOWS)))
    last = AggregateSource(
        LocalBuckets(folder / "store", "x"),
        Peer(Uid(0), signer.hotkey, signer.public_key, signer.hotkey),
        RUN,
        model.digest,
        verify,
    ).fetch_manifest(Window(WINDOWS - 1))
    assert model.fingerprint() == last.manifest.after
    return {"grown": grown, "tensor": 4 * SIDE**2, "object": largest_object(folder, signer)}


def largest_object(folder: Path, signer: HotkeySigner) -> int:
    """Return the bytes of the largest object, payloads of one window taken together."""
    bucket = LocalBuckets(folder / "store", signer.hotkey).own()
    keys = [key for key in bucket.list(f"{RUN}/") if not key.startswith(manifest_keys(RUN).prefix)]
    sizes: dict[str, int] = {}
    for key in keys:
        whole = key.rpartition("/")[0] if "/payload/" in key else key
        sizes[whole] = sizes.get(whole, 0) + bucket.head(key).size
    return max(sizes.values())


def grown_by(operation: Callable[[], object]) -> int:
    """Return by how many bytes the resident memory grew at the most while an operation ran."""
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)  # or what was freed before would hide what is taken
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # sets the peak to what is resident now
    before = status_kib("VmRSS")
    operation()
    return (status_kib("VmHWM") - before) * 1024


def status_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def main(verb: str, folder: str, by: str) -> None:
    torch.set_num_threads(1)
    if verb == "publish":
        Live(Path(folder)).publish(by)
    else:
        print(json.dumps(follow(Path(folder), by)))  # noqa: T201 - this is the answer


if __name__ == "__main__":
    main(*sys.argv[1:])
