"""Twenty windows of two miners under the strategy, against the same rule written slowly and independently.

The miners are two processes with Lightning, chain, store and payloads. The reference has none of these: it takes the
gradients of both at the same parameters and applies the rule of DeMo parameter by parameter, with dense DCT matrices
in float64 and the update in Python's integers.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from templar_pl import LocalNetwork, TemplarStrategy
from templar_pl.chain import LocalChainConfig
from templar_pl.config import CompressionConfig
from tests.compression import reference

WINDOWS, LR = 20, 2.0**-8
CONFIG = CompressionConfig(chunk_size=16, topk=6, momentum_decay=0.9)


class Perceptron(LightningModule):
    """Three layers, with prime sides and vectors, in float64."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.net = nn.Sequential(
                nn.Linear(13, 37), nn.Tanh(), nn.Linear(37, 19), nn.Tanh(), nn.Linear(19, 5)
            ).double()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=LR)


def batches_of(miner: int) -> DataLoader[Any]:
    """Return two batches that only this miner has; every window passes over both."""
    generator = torch.Generator().manual_seed(100 + miner)
    inputs = torch.randn(32, 13, generator=generator, dtype=torch.float64)
    targets = torch.randn(32, 5, generator=generator, dtype=torch.float64)
    return DataLoader(TensorDataset(inputs, targets), batch_size=16)


def mine(folder: Path, miner: int) -> None:
    """Train one miner and save its parameters; runs in a process of its own."""
    torch.set_num_threads(1)
    network = LocalNetwork(str(folder), hotkey=f"miner{miner}", chain=LocalChainConfig(min_miners=2))
    module = Perceptron()
    Trainer(
        strategy=TemplarStrategy(network, compression=CONFIG),
        accelerator="cpu",
        devices=1,
        precision="64-true",
        max_epochs=WINDOWS,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, batches_of(miner))
    torch.save(module.state_dict(), folder / f"{miner}.pt")


def mean_gradient(module: Perceptron, miner: int) -> dict[str, np.ndarray]:
    """Return the gradient of a miner, the mean over its batches."""
    module.zero_grad()
    batches = list(batches_of(miner))
    for batch in batches:
        module.training_step(batch, 0).backward()
    return {n: p.grad.div(len(batches)).numpy() for n, p in module.named_parameters() if p.grad is not None}


class SlowMiner:
    """The momentum of one miner in coefficient space, float64, and what it sends of it."""

    def __init__(self) -> None:
        self.momentum: dict[str, list[np.ndarray]] = {}

    def send(self, gradients: Mapping[str, np.ndarray]) -> dict[str, reference.SlowPayload]:
        """Fold gradients in, take the largest out."""
        payloads = {}
        for name, gradient in gradients.items():
            spectra = [
                reference.dct(chunk, is_vector=gradient.ndim < 2)
                for chunk in reference.cut(gradient, CONFIG.chunk_size)
            ]
            old = self.momentum.get(name, [np.zeros_like(s) for s in spectra])
            momentum = [CONFIG.momentum_decay * m + LR * s for m, s in zip(old, spectra, strict=True)]
            payloads[name], self.momentum[name] = reference.compress(momentum, CONFIG.topk)
        return payloads


def train_slowly() -> dict[str, Tensor]:
    """Return the parameters after all windows, by the reference."""
    module, miners = Perceptron(), [SlowMiner(), SlowMiner()]
    for _ in range(WINDOWS):
        sent = [miner.send(mean_gradient(module, number)) for number, miner in enumerate(miners)]
        for name, parameter in module.named_parameters():
            shape = tuple(parameter.shape)
            integers = reference.update_integers(
                [payloads[name] for payloads in sent], shape, CONFIG.chunk_size, CONFIG.combine, CONFIG.equalise
            )
            update = np.sign(reference.paste(integers, shape, CONFIG.chunk_size)).reshape(shape)
            parameter.data -= LR * torch.from_numpy(update)
    return module.state_dict()


def test_twenty_windows_of_two_miners_give_the_parameters_of_the_slow_reference(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=mine, args=(tmp_path, miner)) for miner in (0, 1)]
    for process in processes:
        process.start()
    expected = train_slowly()
    for process in processes:
        process.join(240)
        assert process.exitcode == 0

    start = Perceptron().state_dict()
    for miner in (0, 1):
        got = torch.load(tmp_path / f"{miner}.pt", weights_only=True)
        for name, parameter in expected.items():
            assert torch.equal(got[name], parameter), name
            assert not torch.equal(got[name], start[name])
