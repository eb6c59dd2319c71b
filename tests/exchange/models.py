"""Models with optimizer and schedule, nodes that publish their checkpoints, and nodes that fetch them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR, OneCycleLR, SequentialLR

from templar_pl.config import ScheduleConfig
from templar_pl.exchange.checkpoint_publisher import Author, CheckpointBucket, CheckpointPublisher, Moment
from templar_pl.exchange.local_store import LocalBuckets
from templar_pl.exchange.network_checkpoints import Source, Wanted
from templar_pl.protocol.model_state import ModelState
from templar_pl.training.optimizer import DecoupledSGD, WindowSchedule
from templar_pl.units import Window
from tests.protocol.samples import HashSigner, verify_hash

RUN, DIGEST, START = "my-run", b"d" * 32, Window(10)
SIGNER = HashSigner()


@dataclass
class Node:
    """A small model that trains the same way on every node."""

    model: nn.Module
    state: ModelState

    def train(self, windows: int, seed: int = 0) -> Node:
        torch.manual_seed(seed)
        assert self.state.optimizer is not None
        for _ in range(windows):
            self.state.optimizer.zero_grad()
            losses = [p.square().mean() * torch.randn(()) for p in self.model.parameters()]
            torch.stack(losses).sum().backward()
            self.state.optimizer.step()
            for schedule in self.state.schedules:
                schedule.step()
        return self

    def numbers(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.model.parameters()]


def own_rule(seed: int) -> Node:
    model = small(seed)
    optimizer = DecoupledSGD(model.parameters(), 0.125)
    return Node(
        model, ModelState(dict(model.named_parameters()), optimizer, [WindowSchedule(optimizer, ScheduleConfig())])
    )


def adamw(seed: int) -> Node:
    model = small(seed)
    optimizer = torch.optim.AdamW(
        [{"params": model[0].parameters()}, {"params": model[1].parameters(), "lr": 0.5}], lr=1e-2, amsgrad=True
    )
    parts = [LinearLR(optimizer, total_iters=3), CosineAnnealingLR(optimizer, 9)]
    return Node(model, ModelState(dict(model.named_parameters()), optimizer, [SequentialLR(optimizer, parts, [3])]))


def sgd(seed: int) -> Node:
    model = small(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.1), momentum=0.9)
    schedules = [MultiStepLR(optimizer, [2, 4])]
    return Node(model, ModelState(dict(model.named_parameters()), optimizer, schedules))


def adafactor(seed: int) -> Node:
    model = small(seed)
    optimizer = torch.optim.Adafactor(model.parameters(), lr=0.1)
    return Node(model, ModelState(dict(model.named_parameters()), optimizer))


def one_cycle(seed: int) -> Node:
    model = small(seed)
    optimizer = torch.optim.NAdam(model.parameters(), lr=0.1)
    schedule = OneCycleLR(optimizer, 0.1, total_steps=40)
    return Node(model, ModelState(dict(model.named_parameters()), optimizer, [schedule]))


NODES: dict[str, Callable[[int], Node]] = {
    "the package's own rule": own_rule,
    "AdamW": adamw,
    "SGD with momentum": sgd,
    "Adafactor": adafactor,
    "NAdam": one_cycle,
}


def small(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3, bias=False))


def author(signer: HashSigner = SIGNER, run: str = RUN, digest: bytes = DIGEST) -> Author:
    return Author(run, digest, "0.1.0", signer, verify_hash)


def publisher(
    bucket: CheckpointBucket, folder: Path, *, keep: int = 2, by: Author | None = None
) -> CheckpointPublisher:
    return CheckpointPublisher(bucket, by or author(), folder / "snapshots", keep=keep)


def publish(folder: Path, node: Node, applied: int, *, by: Author | None = None, keep: int = 9) -> None:
    """Publish a checkpoint of `node` in the local bucket "peer"."""
    one = publisher(LocalBuckets(folder / "store", "peer").own(), folder, keep=keep, by=by)
    assert one.offer(Moment(Window(START + applied), applied), node.state)
    assert one.wait(60) is not None


def source(folder: Path) -> Source:
    return Source("peer 7", SIGNER.public_key, LocalBuckets(folder / "store", "me").of("peer"))


def wanted(node: Node) -> Wanted:
    return Wanted(RUN, DIGEST, START, node.state, verify_hash)


def key(applied: int, name: str) -> str:
    return f"{RUN}/checkpoint/{START + applied:09d}/{name}"


def stored(folder: Path, applied: int, name: str) -> Path:
    return folder / "store" / "peer" / key(applied, name)
