"""Modules whose training steps do what steps of strangers do, and data of theirs that knows windows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from templar_pl.units import Uid, Window


class Regression(LightningModule):
    """A loss of its own, and a step that logs, counts, draws random numbers and changes buffers."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layer = nn.Linear(4, 1)
        self.norm, self.dropout = nn.BatchNorm1d(4), nn.Dropout(0.5)
        self.register_buffer("average", torch.zeros(()))
        self.average: Tensor
        self.calls = 0

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        inputs, targets = batch
        self.calls += 1
        noise = 1e-3 * torch.rand(())
        error = (self.layer(self.dropout(self.norm(inputs))).squeeze(-1) - targets).abs().mean()
        self.average = 0.9 * self.average + 0.1 * error.detach()  # another tensor in the buffer's place
        self.log("train/error", error)
        return {"loss": error + noise, "error": error}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Sums(IterableDataset[tuple[Tensor, Tensor]]):
    """Numbers and their sums, other ones for each uid and window; with noise, rows teach nothing about other rows."""

    def __init__(self, rows: int = 40, width: int = 4, noise: float = 0.0) -> None:
        super().__init__()
        self._rows, self._width, self._noise = rows, width, noise
        self.begun: list[tuple[int, int]] = []

    def begin_window(self, uid: Uid, window: Window) -> bytes:
        self.begun.append((uid, window))
        return uid.to_bytes(8, "little") + window.to_bytes(24, "little")

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        uid, window = self.begun[-1]
        generator = torch.Generator().manual_seed(uid * 1000 + window)
        inputs = torch.randn(self._rows, self._width, generator=generator)
        targets = inputs.sum(-1) + self._noise * torch.randn(self._rows, generator=generator)
        yield from zip(inputs, targets, strict=True)


def sums_loader(rows: int = 40, batch_size: int = 4) -> DataLoader[Any]:
    return DataLoader(Sums(rows), batch_size=batch_size)
