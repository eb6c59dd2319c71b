"""Draws docs/compression.png from the figures of the training comparison.

    python docs/compression_picture.py OUT.JSON     # of benchmarks/training_comparison.py --json OUT.JSON

Held-out loss over the bytes a peer sends in a window, both with all seeds: left and low is good.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

FOLDER = Path(__file__).parent
MARKERS = {"dct": "o", "dct, fp32": "s", "no transform": "^", "sign": "D", "adamw": "*"}
LABELS = {
    "dct": "DCT, rounded values",
    "dct, fp32": "DCT, fp32 values",
    "no transform": "no transform",
    "sign": "sign of the dense mean",
    "adamw": "AdamW, dense mean",
}


def draw(report: dict[str, Any]) -> None:
    """Draw one point with its standard error for each variant, and its seeds as small dots."""
    figure, axes = plt.subplots(figsize=(8, 4.6), layout="constrained")
    families = list(report["families"])
    for family in families:
        variants = {n: got for n, got in report["variants"].items() if got["family"] == family}
        color = f"C{families.index(family)}"
        sizes = [got["payload_bytes"] for got in variants.values()]
        means = [got["mean"] for got in variants.values()]
        errors = [got["standard_error"] or 0.0 for got in variants.values()]
        style: dict[str, Any] = {"fmt": MARKERS[family], "color": color, "label": LABELS[family], "markersize": 7}
        axes.errorbar(sizes, means, errors, capsize=3, **style)
        for name, got in variants.items():
            losses = list(got["losses"].values())
            axes.scatter([got["payload_bytes"]] * len(losses), losses, s=5, color=color, alpha=0.6)
            offset = (7, -3)
            axes.annotate(name, (got["payload_bytes"], got["mean"]), offset, textcoords="offset points", fontsize=7)
    axes.set(xscale="log", xlabel="bytes a peer and window", ylabel="held-out loss (nats per byte token)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(FOLDER / "compression.png", dpi=110)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    draw(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
