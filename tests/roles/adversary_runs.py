"""A short real run of honest miners and adversaries, each in a process, on data that is assigned by window."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from templar_pl import LocalNetwork, TemplarStrategy
from templar_pl.chain import LocalChainConfig
from templar_pl.config import CompressionConfig
from templar_pl.roles.adversaries import STRATEGIES
from templar_pl.units import Uid, Window
from tests.training.local import ConvClassifier, quiet_trainer

HONEST = ("alice", "bob", "carol")
NAMES = (*HONEST, *STRATEGIES)
WINDOWS = 6
CHAIN = LocalChainConfig(pace="lockstep", min_miners=len(NAMES), lease_s=300)
COMPRESSION = CompressionConfig(chunk_size=16, topk=4, momentum_decay=0.9)


def digest_of(uid: int, window: int) -> bytes:
    """Return what stands for the data of a window."""
    return hashlib.sha256(f"{uid}/{window}".encode()).digest()


class WindowStripes(IterableDataset[tuple[Tensor, Tensor]]):
    """Noisy stripes of three kinds, other ones for every uid and window."""

    def __init__(self) -> None:
        super().__init__()
        self.began: list[tuple[int, int]] = []

    def begin_window(self, uid: Uid, window: Window) -> bytes:
        self.began.append((uid, window))
        return digest_of(uid, window)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        uid, window = self.began[-1]
        generator = torch.Generator().manual_seed(1000 * uid + window)
        for number in range(64):
            image = torch.randn(1, 8, 8, generator=generator)
            image[0, number % 3 :: 3] += 1.5
            yield image, torch.tensor(number % 3)


class Remembering(ConvClassifier):
    """Keeps a sum of what it trained on in each window, which tells data apart."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def on_train_epoch_start(self) -> None:
        self.seen.append(0.0)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.seen[-1] += float(batch[0].double().sum())
        return super().training_step(batch, batch_idx)


def train(folder: Path, name: str) -> None:
    """Train one node to the end and leave its parameters, and what it saw."""
    torch.set_num_threads(1)
    strategy_class: type[TemplarStrategy] = STRATEGIES.get(name, TemplarStrategy)
    network = LocalNetwork(str(folder), hotkey=name, chain=CHAIN)
    strategy: Any = strategy_class(network, compression=COMPRESSION)
    module = Remembering()
    quiet_trainer(strategy, WINDOWS, logger=False).fit(module, DataLoader(WindowStripes(), batch_size=16))
    parameters = {key: value.detach() for key, value in module.named_parameters()}
    torch.save({"parameters": parameters, "seen": module.seen, "digest": strategy.session.run.digest}, folder / name)
