"""Checkpoints at window boundaries: every so many windows, at the end, and when training is interrupted."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from templar_pl.training.checkpoint_io import PART_SUFFIX
from templar_pl.training.session import Session

KEPT_CHECKPOINTS = 3
"""Newest checkpoints that stay on the disk, if nothing else is asked for."""

log = logging.getLogger(__name__)


class WindowCheckpoint(ModelCheckpoint):
    """Saves `window-{applied:09d}.ckpt`, where `applied` counts the windows applied since the start of the run.

    `ckpt_path="last"` finds the newest of them. A checkpoint is written beside its place and moved there when it is
    complete, so a killed node never leaves a broken one.
    """

    CHECKPOINT_NAME_LAST = "window"

    def __init__(self, dirpath: str | None = None, every_n_windows: int = 100, keep: int = KEPT_CHECKPOINTS) -> None:
        """Store the settings.

        Args:
            dirpath: folder of the checkpoints; beside the trainer's logs if None.
            every_n_windows: save when the number of applied windows is a multiple of this; 1 and up.
            keep: newest checkpoints to keep; 1 and up.

        Raises:
            ValueError: a number is out of range.
        """
        if every_n_windows < 1 or keep < 1:
            raise ValueError(f"every_n_windows and keep must be at least 1, got {every_n_windows} and {keep}")
        super().__init__(dirpath=dirpath, save_top_k=0)
        self.every_n_windows, self.keep = every_n_windows, keep
        self._saved = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the folder, and sweep what a killed process left half-written in it."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and trainer.is_global_zero and self.dirpath is not None:
            for leftover in Path(self.dirpath).glob(f".window-*{PART_SUFFIX}"):
                leftover.unlink(missing_ok=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save when it is time."""
        session = _session(trainer)
        if session is not None and session.run.applied % self.every_n_windows == 0:
            self._save(trainer, session)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end of the run."""
        session = _session(trainer)
        if session is not None:
            self._save(trainer, session)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end of a run that was over after catching up, without a window of its own."""
        self.on_train_end(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save what is applied, if parameters and momentum belong together at this moment."""
        session = _session(trainer)
        if session is not None and session.run.at_boundary and session.run.applied > 0:
            self._save(trainer, session)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Do nothing: inside of a window there is nothing to save."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do nothing: validation changes nothing that is saved."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the folder says which checkpoints there are."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore nothing."""

    def _save(self, trainer: Trainer, session: Session) -> None:
        applied = session.run.applied
        if applied == self._saved or self.dirpath is None or session.run.lost:
            return  # what is lost is replaced before the next window
        path = Path(self.dirpath) / f"window-{applied:09d}{self.FILE_EXTENSION}"
        trainer.save_checkpoint(path)
        self._saved, self.last_model_path = applied, str(path)
        log.debug("checkpoint after %d windows: %s", applied, path)
        if trainer.is_global_zero:
            # By age, not by number: an earlier run in this folder may have got further.
            others = [p for p in path.parent.glob(f"window-*{self.FILE_EXTENSION}") if p != path]
            others.sort(key=lambda p: p.stat().st_mtime_ns)
            for old in others[: len(others) + 1 - self.keep]:
                trainer.strategy.remove_checkpoint(old)


def _session(trainer: Trainer) -> Session | None:
    """Return the session of an exchanging strategy, None under any other."""
    return getattr(trainer.strategy, "session", None)
