"""Settings of a trainer under which nodes could not agree, refused before the first window."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch.optim import LBFGS, Optimizer

from templar_pl.errors import ConfigError

PRECISIONS = ("32-true", "64-true", "bf16-mixed")


def refuse_unsuitable(trainer: Trainer) -> None:
    """Check what the user gave the trainer; optimizers must be set up already.

    Raises:
        ConfigError: with what is wrong, what is allowed and how to mend it.
    """
    refuse_settings(trainer)
    refuse_optimizers(trainer.lightning_module, trainer.optimizers)
    for config in trainer.lr_scheduler_configs:
        refuse_schedule(needs_metric=config.reduce_on_plateau, frequency=config.frequency)


def refuse_settings(trainer: Trainer) -> None:
    """Check what can be checked before there is a module. Raises `ConfigError` as `refuse_unsuitable` does."""
    _refuse_reloading(trainer)
    refuse_precision(str(trainer.precision))
    _refuse_accumulation(trainer)


def refuse_several_devices(devices: int) -> None:
    """Check how many devices one node has. Raises `ConfigError` unless it is one."""
    if devices != 1:
        raise ConfigError(f"devices must be 1, got {devices}: start a node with a hotkey of its own for each device")


def _refuse_reloading(trainer: Trainer) -> None:
    if trainer.reload_dataloaders_every_n_epochs:  # type: ignore[attr-defined]  # set by Trainer
        raise ConfigError(
            "reload_dataloaders_every_n_epochs must be 0: the training loader lives as long as the run; a dataset with "
            "`begin_window` gives other data in each window"
        )


def refuse_precision(precision: str) -> None:
    """Check a precision, as a trainer names it. Raises `ConfigError` as `refuse_unsuitable` does."""
    if precision not in PRECISIONS:
        raise ConfigError(
            f"precision must be one of {', '.join(PRECISIONS)}, got {precision}: with 16-bit parameters or a "
            "loss scaler a node can lose what all others apply; use Trainer(precision='bf16-mixed')"
        )


def _refuse_accumulation(trainer: Trainer) -> None:
    if any(isinstance(callback, GradientAccumulationScheduler) for callback in trainer.callbacks):  # type: ignore[attr-defined]  # set by Trainer
        raise ConfigError("GradientAccumulationScheduler cannot be used: a window accumulates all of its batches")
    if trainer.accumulate_grad_batches != 1:
        raise ConfigError(
            f"accumulate_grad_batches must be 1, got {trainer.accumulate_grad_batches}: a window accumulates all of "
            "its batches; bound them with Trainer(limit_train_batches=...)"
        )


def refuse_optimizers(module: LightningModule, optimizers: Sequence[Optimizer]) -> None:
    """Check what `configure_optimizers` of a module returned. Raises `ConfigError` as `refuse_unsuitable` does."""
    if not module.automatic_optimization:
        raise ConfigError("automatic_optimization must be True: a window is one optimizer step, taken by the trainer")
    if len(optimizers) != 1:
        raise ConfigError(f"configure_optimizers must return one optimizer, got {len(optimizers)}")
    if isinstance(optimizers[0], LBFGS):
        raise ConfigError("LBFGS cannot be used: it evaluates the loss several times a step; use SGD or AdamW")


def refuse_schedule(*, needs_metric: bool, frequency: object) -> None:
    """Check a learning rate scheduler. Raises `ConfigError` as `refuse_unsuitable` does."""
    if needs_metric:
        raise ConfigError(
            "ReduceLROnPlateau cannot be used: the learning rate must follow from the number of windows, so that "
            "all nodes have the same one; use a scheduler without a metric"
        )
    if frequency != 1:
        raise ConfigError(f"the frequency of a learning rate scheduler must be 1 (window), got {frequency}")
