"""What does the exchange of a window cost beside training it?

    python benchmarks/window_overhead.py [--windows 12] [--rounds 3] [--hidden-size 128]

Trains the toy Llama on the same pages with a plain Trainer (one optimizer step for the batches of a window) and under
TemplarStrategy with one miner on a local chain, in turns, and prints medians of seconds a window with their ratio.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table

from templar_pl import LlamaModule, LocalNetwork, TemplarDataModule, TemplarStrategy
from templar_pl.command_line import hparams_files
from templar_pl.config import LlamaConfig
from templar_pl.data import PageSetConfig
from templar_pl.hparams import HParams, load_hparams

SKIPPED = 3  # windows until caches are warm


class WindowTimes(Callback):
    """Takes the time from the end of one window to the end of the next."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.seconds: list[float] = []
        self._last = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note one window."""
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self._last = now


def train(hparams: HParams, folder: Path, windows: int, *, exchanges: bool) -> list[float]:
    """Return the seconds of each warm window."""
    module = LlamaModule(hparams.llama, hparams.schedule, tokenizer_name=hparams.pages.tokenizer_name)
    pages = PageSetConfig(cache=str(folder / "pages"), rows_per_page=2)
    times = WindowTimes()
    strategy: Any = "auto"
    if exchanges:
        root = tempfile.mkdtemp(dir=folder)
        strategy = TemplarStrategy(
            LocalNetwork(root), compression=hparams.compression, window=hparams.window, peers=hparams.peers
        )
    Trainer(
        strategy=strategy,
        accelerator="cpu",
        devices=1,
        max_epochs=windows,
        accumulate_grad_batches=1 if exchanges else 2**20,
        limit_train_batches=8,
        limit_val_batches=0,
        callbacks=[times],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, TemplarDataModule(hparams.pages, pages))
    return times.seconds[SKIPPED:]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=12, help="windows of one training, the first three not counted")
    parser.add_argument("--rounds", type=int, default=3, help="trainings of each kind")
    parser.add_argument("--hidden-size", type=int, default=128, help="width of the model, a multiple of 8")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    toy = load_hparams(*hparams_files(None, local=True))
    shape = {**vars(toy.llama), "hidden_size": options.hidden_size}
    hparams = HParams(**{**vars(toy), "llama": LlamaConfig(**shape)})
    seconds: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            for exchanges in (False, True):
                seconds[exchanges] += train(hparams, Path(folder), options.windows, exchanges=exchanges)
    plain, templar = median(seconds[False]), median(seconds[True])
    table = Table("", "ms a window", "ratio", title=f"{torch.get_num_threads()} threads, 8 batches a window")
    table.add_row("plain Trainer", f"{1000 * plain:.1f}", "1.00")
    table.add_row("TemplarStrategy, one miner", f"{1000 * templar:.1f}", f"{templar / plain:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
