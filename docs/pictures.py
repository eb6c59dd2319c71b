"""Draws the README's pictures from the metrics of a run.

    python docs/pictures.py runs/net268/local-*/nodes/miner/logs/version_0/metrics.csv

Writes docs/loss.png (training and validation loss over windows) and docs/window.png (where the time of a window goes).
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

FOLDER = Path(__file__).parent
PHASES = ("peer_update", "data_loading", "training", "compression", "put", "gather", "model_update")
Row = dict[str, float]


def read(path: Path) -> list[Row]:
    """Return the rows of a metrics file, without empty fields."""
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def draw_loss(rows: list[Row]) -> None:
    """Draw the loss over windows."""
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    lines: list[tuple[str, str, dict[str, Any]]] = [
        ("miner/loss", "training pages", {"linewidth": 0.8, "alpha": 0.6}),
        ("val/loss", "held-out pages", {"linewidth": 2, "marker": "o", "markersize": 4}),
    ]
    for name, label, style in lines:
        # Lightning counts the step of a validation from 0; before training there is none to count.
        late = 1 if name == "val/loss" else 0
        points = [(row["step"] + (late if row["step"] else 0), row[name]) for row in rows if name in row]
        axes.plot([step for step, _ in points], [loss for _, loss in points], label=label, **style)
    axes.set(xlabel="windows applied", ylabel="loss (nats per byte token)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(FOLDER / "loss.png", dpi=110)


def draw_window(rows: list[Row]) -> None:
    """Draw one window's timeline: the median of each phase over the windows, in their order."""
    windows = [row for row in rows if "miner/timing/window_total" in row][5:]
    figure, axes = plt.subplots(figsize=(8, 2.1), layout="constrained")
    start = 0.0
    for number, phase in enumerate(PHASES):
        length = 1000 * median(row[f"miner/timing/{phase}"] for row in windows)
        axes.barh(0, length, left=start, color=f"C{number}", label=f"{phase.replace('_', ' ')} {length:.1f} ms")
        start += length
    axes.set(xlabel="milliseconds since the window opened", yticks=[], xlim=(0, start))
    figure.legend(ncols=4, loc="outside upper center", fontsize=9, frameon=False)
    figure.savefig(FOLDER / "window.png", dpi=110)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    metrics = read(Path(sys.argv[1]))
    draw_loss(metrics)
    draw_window(metrics)
