"""What does a window cost an aggregator before its manifest is out, and after it?

    python benchmarks/aggregator.py [--layers 8] [--peers 15] [--threads 2] [--repeats 3]

A layer is a matrix of 4096 x 1024. Payloads are of noise, made in another process. Prints a Markdown table: seconds
(the least of the repeats, scaled to 10^9 parameters too), memory above parameters and payloads, and bytes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))  # run as a script, its folder is on the path, not its parent

from benchmarks.memory import extra_bytes
from templar_pl.chain import load_or_create_hotkey, verify
from templar_pl.compression import MomentumCodec, body_bytes, decode_body, encode_body
from templar_pl.compression.body import Body
from templar_pl.config import CompressionConfig, PeersConfig
from templar_pl.exchange import AggregatePublisher, LocalBuckets, StandingManifest
from templar_pl.protocol import Manifest
from templar_pl.training import Replica
from templar_pl.training.optimizer import DecoupledSGD
from templar_pl.units import Uid, Window

CPU = torch.device("cpu")
SHAPE = (4096, 1024)
GIGA = 10**9


class Layers(LightningModule):
    """So many matrices."""

    def __init__(self, layers: int) -> None:
        """Draw them."""
        super().__init__()
        self.weights = nn.ParameterList(torch.randn(SHAPE) for _ in range(layers))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer of the package."""
        return DecoupledSGD(self.parameters(), 1e-3)


def noise(shapes: dict[str, tuple[int, ...]], peers: int) -> list[bytes]:
    """Return bodies of payloads."""
    codec, bodies = MomentumCodec(shapes, CompressionConfig(), CPU), []
    for _ in range(peers):
        gradients = {name: torch.randn(shape) for name, shape in shapes.items()}
        bodies.append(bytes(encode_body(codec.send_(gradients, dict.fromkeys(shapes, 1.0)), codec.grids).data))
    return bodies


class Bench:
    """A model, its payloads and a bucket."""

    def __init__(self, layers: int, peers: int, folder: Path) -> None:
        """Make them."""
        self.replica = Replica(Layers(layers), CompressionConfig(), PeersConfig(), b"", CPU)
        self.shapes = {name: tuple(p.shape) for name, p in self.replica.parameters.items()}
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other:
            bodies = other.submit(noise, self.shapes, peers).result()
        self.payloads: list[Body] = [decode_body(body, self.replica.codec.grids) for body in bodies]
        self._owner = load_or_create_hotkey(folder / "keys", "owner")
        self.bucket = LocalBuckets(folder / "store", "owner").own()
        self.publisher = AggregatePublisher(self.bucket, "run", folder, self._owner, verify)
        self._window = 0
        self.standing: StandingManifest | None = None

    def apply(self) -> None:
        """Compute the update and apply it."""
        self.replica.apply(self.replica.codec.updates(self.payloads))

    def manifest(self) -> None:
        """Publish the manifest of the next window."""
        self._window += 1
        manifest = Manifest(
            run=self.replica.digest,
            window=Window(self._window),
            payloads={Uid(uid): bytes(32) for uid in range(len(self.payloads))},
            left_out={},
            opened_at=0.0,
            closed_at=10.0,
            before=bytes(32),
            after=bytes(32),
            steps=1,
            learning_rate=1e-3,
        )
        self.standing = self.publisher.publish_manifest(manifest)

    def aggregate(self) -> int:
        """Publish the aggregate of the last window; return its bytes."""
        assert self.standing is not None
        update = self.replica.codec.updates(self.payloads)
        size = self.publisher.publish_aggregate(self.standing, update, self.shapes).size
        self.manifest()
        return size


def least_s(operation: Callable[[], object], repeats: int) -> float:
    """Return the seconds of the fastest run."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        operation()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("layers", 8), ("peers", 15), ("threads", 2), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        report(Bench(options.layers, options.peers, Path(folder)), options.repeats)


def report(bench: Bench, repeats: int) -> None:
    """Print the table."""
    numel = sum(parameter.numel() for parameter in bench.replica.parameters.values())
    rows: dict[str, Callable[[], object]] = {
        "update, applied": bench.apply,
        "fingerprint": bench.replica.fingerprint,
        "manifest": bench.manifest,
        "aggregate, in the background": bench.aggregate,
    }
    print(f"{numel} parameters, {len(bench.payloads)} payloads, {torch.get_num_threads()} thread(s)\n")
    print("| step | s | s for 10^9 parameters | MiB above |\n| --- | --: | --: | --: |")
    for name, operation in rows.items():
        seconds, more = least_s(operation, repeats), extra_bytes(operation)
        print(f"| {name} | {seconds:.3f} | {seconds * GIGA / numel:.2f} | {more / 2**20:.1f} |")
    size = bench.aggregate()
    of_peer = body_bytes(bench.replica.codec.grids)
    print(f"\naggregate {size} bytes, {8 * size / numel:.3f} bits a parameter; a payload's body {of_peer} bytes")


if __name__ == "__main__":
    main()
