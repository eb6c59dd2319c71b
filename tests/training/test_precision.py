"""Models without a trainer compute as a trainer of the same precision does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from templar_pl.config import CompressionConfig, PeersConfig
from templar_pl.errors import ConfigError
from templar_pl.protocol import fingerprint
from templar_pl.training import Replica
from templar_pl.training.evaluation import step_losses
from templar_pl.training.precision import precision_plugin
from templar_pl.training.refusals import PRECISIONS
from tests.training.local import ConvClassifier, local_strategy, quiet_trainer, stripes

CPU = torch.device("cpu")
REFUSED = ("bf16-true", "16-true")
CONFIG = CompressionConfig(topk=8, momentum_decay=0.9)


class Late(ConvClassifier):
    """Makes one of its layers when it is set up, and keeps the updates that it is stepped by."""

    def __init__(self) -> None:
        super().__init__(lambda params: torch.optim.AdamW(params, lr=0.01))
        self.updates: list[dict[str, Tensor]] = []

    def configure_model(self) -> None:
        if not hasattr(self, "late"):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                self.late = nn.Linear(3, 3)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = nn.functional.cross_entropy(self.late(self.net(images)), labels)
        self.losses.append(float(loss.detach()))
        return loss

    def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        self.updates.append({n: p.grad.clone() for n, p in self.named_parameters() if p.grad is not None})


class Validated(Late):
    """Validates by the training step."""

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self.training_step(batch, batch_idx)


def replica(module: LightningModule, precision: str) -> Replica:
    return Replica(module, CONFIG, PeersConfig(), b"s", CPU, precision=precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_replica_holds_the_parameters_of_a_fit_of_the_same_precision(tmp_path: Path, precision: Any) -> None:
    strategy, trained = local_strategy(tmp_path, compression=CONFIG, settings_digest=b"s"), Late()
    quiet_trainer(strategy, 3, precision=precision).fit(trained, stripes())
    made = replica(Late(), precision)

    assert strategy.session is not None
    assert made.digest == strategy.session.run.digest
    dtypes = {name: parameter.dtype for name, parameter in strategy.session.parameters.items()}
    assert {name: parameter.dtype for name, parameter in made.parameters.items()} == dtypes
    assert "late.weight" in dtypes
    trained.on_before_zero_grad(strategy.optimizers[0])
    applied = [update for update in trained.updates if update]
    assert len(applied) == 3
    for update in applied:
        made.apply(update.items())
    assert made.fingerprint() == fingerprint(strategy.session.parameters)


def test_64_bit_parameters_are_another_run() -> None:
    assert replica(Late(), "64-true").digest != replica(Late(), "32-true").digest
    assert replica(Late(), "bf16-mixed").digest == replica(Late(), "32-true").digest


def losses_of(precision: str) -> list[float | None]:
    """Return what a validator computes."""
    made = replica(Late(), precision)
    return step_losses(made.module, list(stripes()), CPU, 0, made.precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_loss_is_that_of_a_trainers_validation_step(precision: Any) -> None:
    module = Validated()
    trainer = Trainer(
        accelerator="cpu",
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
    )
    trainer.validate(module, stripes(), verbose=False)

    assert losses_of(precision) == module.losses
    assert type(trainer.precision_plugin) is type(precision_plugin(precision, CPU))


def test_losses_of_mixed_precision_are_others() -> None:
    assert losses_of("bf16-mixed") != losses_of("32-true")


@pytest.mark.parametrize("precision", REFUSED)
def test_what_a_fit_refuses_is_refused_with_the_same_words(tmp_path: Path, precision: Any) -> None:
    with pytest.raises(ConfigError, match="precision must be one of 32-true, 64-true, bf16-mixed, got ") as by_fit:
        quiet_trainer(local_strategy(tmp_path), 1, precision=precision).fit(Late(), stripes())

    with pytest.raises(ConfigError) as by_role:
        replica(Late(), precision)

    assert str(by_role.value) == str(by_fit.value)
