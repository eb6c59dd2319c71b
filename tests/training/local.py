"""A small module that is no Llama, and trainers for it, in one process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from templar_pl import LocalNetwork, TemplarStrategy
from templar_pl.config import CompressionConfig


class ConvClassifier(LightningModule):
    """A convolutional classifier with optimizer settings of its own; knows nothing of windows."""

    def __init__(self, optimizer: Callable[[Any], torch.optim.Optimizer] | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.net = nn.Sequential(
                nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3)
            )
        self._optimizer = optimizer or (lambda params: torch.optim.SGD(params, lr=0.005))
        self.losses: list[float] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = nn.functional.cross_entropy(self.net(images), labels)
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self._optimizer(self.parameters())


def stripes(num: int = 96, batch_size: int = 16, *, shuffle: bool = False) -> DataLoader[Any]:
    """Return images of three kinds of noisy stripes: something that can be learned."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(num) % 3
    images = torch.randn(num, 1, 8, 8, generator=generator)
    for i, label in enumerate(labels.tolist()):
        images[i, 0, label::3] += 1.5
    return DataLoader(TensorDataset(images, labels), batch_size=batch_size, shuffle=shuffle)


def local_strategy(folder: Path, **settings: Any) -> TemplarStrategy:
    """Return a strategy on a network of its own."""
    settings.setdefault("compression", CompressionConfig(topk=8, momentum_decay=0.9))
    return TemplarStrategy(LocalNetwork(root=str(folder)), **settings)


def quiet_trainer(strategy: TemplarStrategy | str, windows: int, *callbacks: Callback, **settings: Any) -> Trainer:
    """Return a trainer that writes nothing."""
    settings.setdefault("accelerator", "cpu")
    return Trainer(
        strategy=strategy,
        devices=settings.pop("devices", 1),
        max_epochs=windows,
        logger=settings.pop("logger", False),
        enable_progress_bar=settings.pop("progress_bar", False),
        enable_model_summary=False,
        enable_checkpointing=settings.pop("enable_checkpointing", False),
        callbacks=list(callbacks),
        **settings,
    )
