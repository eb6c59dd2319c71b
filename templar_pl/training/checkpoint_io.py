"""Checkpoints that are whole or absent, and resume at the start of a window."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

PART_SUFFIX = ".part"
"""End of the name of a checkpoint that is being written; its name begins with a dot."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there when it is complete on the disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to `path`; a reader sees the old file or the whole new one.

        Raises:
            OSError: the disk is full or not writable; an earlier file at `path` is untouched.
        """
        del storage_options  # a local file has none; Lightning passes None
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=PART_SUFFIX)
        try:
            with os.fdopen(handle, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(target)
            _sync_folder(target.parent)
        finally:
            Path(temporary).unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def restart_at_window(checkpoint: dict[str, Any]) -> None:
    """Make a checkpoint resume at the start of the window after the last applied one, wherever it was saved.

    Parameters and momentum change between windows only, so a checkpoint from the middle of a window holds the state at
    its start; Lightning's own counters would have it resume in the middle.

    Args:
        checkpoint: as Lightning is about to write it; changed in place. One without a place in a run is left alone.
    """
    states = [state["templar"] for state in checkpoint.get("optimizer_states", ()) if "templar" in state]
    if not states or "loops" not in checkpoint:
        return
    applied = int(states[0]["applied"])
    fit_loop = checkpoint["loops"]["fit_loop"]
    optimizer_progress = "epoch_loop.automatic_optimization.optim_progress"
    checkpoint["loops"]["fit_loop"] = {
        "state_dict": fit_loop["state_dict"],
        "epoch_progress": {
            part: dict.fromkeys(("ready", "started", "processed", "completed"), applied)
            for part in ("current", "total")
        },
        "epoch_loop.state_dict": {**fit_loop["epoch_loop.state_dict"], "_batches_that_stepped": applied},
        optimizer_progress: fit_loop[optimizer_progress],
    }
    checkpoint["epoch"] = checkpoint["global_step"] = applied
