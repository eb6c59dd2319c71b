"""The report of a window carries every metric under its public name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from templar_pl import WindowLog
from templar_pl.training.report import Tally, format_bytes, measure_norms
from tests.training.local import ConvClassifier, local_strategy, quiet_trainer, stripes

PUBLIC_METRICS = {
    *(
        f"miner/{name}"
        for name in [
            "loss",
            "tokens_per_sec",
            "batch_duration",
            "total_tokens",
            "batch_tokens",
            "global_step",
            "gpu_memory_allocated",
            "gpu_memory_cached",
            "gather_peers",
            "effective_batch_size",
            "learning_rate",
            "mean_grad_norm",
            "max_grad_norm",
            "min_grad_norm",
            "grad_norm_std",
            "mean_weight_norm",
            "mean_momentum_norm",
            "gather/success_rate",
        ]
    ),
    *(
        f"miner/timing/{name}"
        for name in [
            "window_total",
            "peer_update",
            "data_loading",
            "training",
            "compression",
            "gather",
            "put",
            "model_update",
        ]
    ),
}


class CountingClassifier(ConvClassifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return {"loss": super().training_step(batch, batch_idx), "tokens": len(batch[0])}


def read_metrics(folder: Path) -> list[dict[str, float]]:
    lines = next(folder.rglob("metrics.csv")).read_text().splitlines()
    names = lines[0].split(",")
    rows = [dict(zip(names, line.split(","), strict=True)) for line in lines[1:]]
    return [{name: float(value) for name, value in row.items() if value} for row in rows]


def test_every_public_metric_is_logged_once_a_window(tmp_path: Path) -> None:
    trainer = quiet_trainer(
        local_strategy(tmp_path / "runs"), 3, WindowLog(), logger=CSVLogger(tmp_path), log_every_n_steps=1
    )

    trainer.fit(CountingClassifier(), stripes(96, 16))

    windows = [row for row in read_metrics(tmp_path) if "miner/loss" in row]
    assert len(windows) == 3
    for applied, row in enumerate(windows, 1):
        assert row.keys() >= PUBLIC_METRICS
        assert row["step"] == row["miner/global_step"] == applied
        assert row["miner/batch_tokens"] == 96
        assert row["miner/total_tokens"] == 96 * applied
        assert row["miner/gather/success_rate"] == 1
        phases = [v for name, v in row.items() if name.startswith("miner/timing/") and "window_total" not in name]
        assert sum(phases) == pytest.approx(row["miner/timing/window_total"])
        assert row["miner/min_grad_norm"] <= row["miner/mean_grad_norm"] <= row["miner/max_grad_norm"]


def test_norms_are_those_of_each_tensor() -> None:
    norms = measure_norms([torch.tensor([3.0, 4.0]), torch.tensor([[1.0]])], [torch.zeros(2)], [])

    assert (norms.mean_grad, norms.max_grad, norms.min_grad, norms.grad_std) == (3.0, 5.0, 1.0, 2.0)
    assert norms.mean_weight == norms.mean_momentum == 0


def test_a_tally_averages_over_batches() -> None:
    tally = Tally()
    for loss, tokens in ((1.0, 10), (3.0, torch.tensor(5))):
        tally.add(torch.tensor(loss), tokens)

    assert (tally.batches, tally.loss, tally.tokens) == (2, 2.0, 15)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (6246, "6.1 KiB"), (3 * 2**20, "3.0 MiB"), (5 * 2**30, "5.0 GiB")],
)
def test_bytes_are_written_for_people(count: int, text: str) -> None:
    assert format_bytes(count) == text
