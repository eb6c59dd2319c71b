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
NEAR, LINE = 1.3, 0.0125
"""Sizes within this factor of each other have their names in one column, in lines this many nats apart."""

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
        for got in variants.values():
            losses = list(got["losses"].values())
            axes.scatter([got["payload_bytes"]] * len(losses), losses, s=5, color=color, alpha=0.6)
    for name, (place, height) in label_places(report["variants"]).items():
        axes.text(place, height, name, fontsize=7, va="center")
    axes.set(
        xscale="log", xlim=(4e3, 5e6), xlabel="bytes a peer and window", ylabel="held-out loss (nats per byte token)"
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(FOLDER / "compression.png", dpi=110)


def label_places(variants: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Return where the name of each variant goes: right of all points of about its size, one above another."""
    places: dict[str, tuple[float, float]] = {}
    for name, got in sorted(variants.items(), key=lambda item: item[1]["mean"]):
        sizes = {n: v["payload_bytes"] for n, v in variants.items()}
        alike = {n for n, size in sizes.items() if 1 / NEAR < size / sizes[name] < NEAR}
        taken = [places[other][1] + LINE for other in alike & places.keys()]
        places[name] = (1.1 * max(sizes[n] for n in alike), max([got["mean"], *taken]))
    return places


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    draw(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
