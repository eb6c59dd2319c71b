"""What `predict` shows."""

from __future__ import annotations

from typing import Any, TextIO

from lightning.pytorch import Callback, LightningModule, Trainer


class PrintPredictions(Callback):
    """Writes every continued prompt, each followed by an empty line."""

    def __init__(self, out: TextIO) -> None:
        """Store where to write."""
        self._out = out

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the texts of one batch."""
        for text in outputs:
            self._out.write(f"{text}\n\n")
        self._out.flush()
