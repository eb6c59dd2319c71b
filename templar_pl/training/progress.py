"""A progress bar of windows instead of batches."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from templar_pl.training.catch_up_status import CatchUpBar, CatchUpStatus
from templar_pl.training.report import format_bytes
from templar_pl.training.window_log import last_report


class WindowProgressBar(ProgressBar):
    """One bar: windows applied, time left in the window, loss, peers, bytes up and down.

    Draws on a terminal only; elsewhere the log has one line a window.
    """

    def __init__(self, console: Console | None = None) -> None:
        """Store where to draw.

        Args:
            console: shared with the log, so that lines pass above the bar; standard error if None.
        """
        super().__init__()
        self._console = console or Console(stderr=True)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._enabled = True
        self._way = CatchUpBar(self._console)

    def disable(self) -> None:
        """Draw no more."""
        self._enabled = False

    def enable(self) -> None:
        """Draw again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar."""
        self._way.close()
        if not (self._enabled and self._console.is_terminal):
            return
        columns = (
            TextColumn("window"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=self._console)
        total = trainer.max_epochs if trainer.max_epochs not in (None, -1) else None
        self._task = self._progress.add_task("", total=total, completed=trainer.current_epoch)
        self._progress.start()

    def show_catching_up(self, status: CatchUpStatus | None) -> None:
        """Show how far this node is from the others: in the bar, or in one of its own as long as there is none."""
        if not self._enabled:
            return
        if self._progress is None or self._task is None:
            self._way.show(status)
        elif status is not None:
            self._progress.update(self._task, description=f"catching up: {status.words()}")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show where in the window training is."""
        self._show(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the applied window."""
        self._show(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the bar away."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Take the bar away, so that the error is readable."""
        self._stop()

    def _show(self, trainer: Trainer) -> None:
        if self._progress is not None and self._task is not None:
            session = getattr(trainer.strategy, "session", None)
            applied = session.run.applied if session is not None else trainer.current_epoch
            self._progress.update(self._task, completed=applied, description=describe_progress(trainer))

    def _stop(self) -> None:
        self._way.close()
        if self._progress is not None:
            self._progress.stop()
            self._progress = self._task = None


def describe_progress(trainer: Trainer) -> str:
    """Return the text beside the bar: time left in the window, loss, peers, bytes."""
    session = getattr(trainer.strategy, "session", None)
    if session is None:
        return ""
    left = session.run.seconds_left()
    parts = [] if math.isinf(left) else [f"{max(0.0, left):.0f} s left"]
    if session.tally.batches:
        parts.append(f"batch {session.tally.batches}")
    report = last_report(trainer)
    if report is not None:
        parts.append(f"loss {report.tally.loss:.3f}")
        parts.append(f"peers {len(report.peers)}/{report.participants}")
        parts.append(f"up {format_bytes(report.bytes_up)} down {format_bytes(report.bytes_down)}")
    return " · ".join(parts)
