"""What a user sees of a run: metrics once a window, a line in the log, and what to do at the end."""

from __future__ import annotations

import logging
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from templar_pl.training.checkpoints import WindowCheckpoint
from templar_pl.training.report import WindowReport

log = logging.getLogger(__name__)


class WindowLog(Callback):
    """Logs every applied window: its metrics to the trainer's loggers, one line to the log."""

    def __init__(self) -> None:
        """Start with nothing logged."""
        self._validation: list[tuple[int, float]] = []
        self._logged: WindowReport | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the window, if this batch was its last one."""
        report = last_report(trainer)
        if report is None or report is self._logged:
            return
        self._logged = report
        for logger in trainer.loggers:
            logger.log_metrics(report.metrics(), step=report.applied)
        log.info("%s", report.describe())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the validation metrics against the number of windows applied."""
        values = {name: float(v) for name, v in trainer.callback_metrics.items() if name.startswith("val/")}
        if not values:
            return
        report = last_report(trainer)
        applied = report.applied if report else trainer.current_epoch
        if trainer.sanity_checking:
            for logger in trainer.loggers:
                logger.log_metrics(values, step=applied)
        if "val/loss" in values:
            self._validation.append((applied, values["val/loss"]))
        text = ", ".join(f"{name.removeprefix('val/').replace('_', ' ')} {v:.4f}" for name, v in values.items())
        log.info("validation after %d windows: %s", applied, text)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say what an interruption means."""
        if isinstance(exception, KeyboardInterrupt):
            log.warning("interrupted; the same command goes on where it stopped")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what came out."""
        if len(self._validation) > 1:
            (first, before), (last, after) = self._validation[0], self._validation[-1]
            log.info("validation loss: %.4f after %d windows, %.4f after %d", before, first, after, last)


def last_report(trainer: Trainer) -> WindowReport | None:
    """Return the report of the window applied last in this process, None before the first or without exchange."""
    session = getattr(trainer.strategy, "session", None)
    return session.report if session is not None else None


def newest_checkpoint(trainer: Trainer) -> str:
    """Return the path of the checkpoint saved last by this process, or an empty string."""
    callback = trainer.checkpoint_callback
    return callback.last_model_path if isinstance(callback, WindowCheckpoint) else ""
