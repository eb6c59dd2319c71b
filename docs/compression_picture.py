"""Draws docs/compression.png from the figures of the training comparison.

    python docs/compression_picture.py OUT.JSON     # of benchmarks/training_comparison.py --json OUT.JSON

Held-out loss over the bytes a peer sends in a window, with its standard error: left and low is good.
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
GROUPS: dict[str, tuple[str, str, dict[str, tuple[int, int]]]] = {
    "DCT": (
        "o",
        "#0072B2",
        {"default": (-2, -20), "2-bit": (-6, 14), "3-bit": (8, -3), "8-bit": (8, -3), "fp32": (8, -3)},
    ),
    "DCT, twice as many coefficients": ("s", "#D55E00", {"k = 64": (8, -3)}),
    "no transform": (
        "^",
        "#009E73",
        {"no transform": (8, -3), "no transform, 8-bit": (8, -3), "no transform, fp32": (8, -3)},
    ),
    "published scheme": ("D", "#CC79A7", {"published scheme": (8, -3)}),
    "no compression": ("*", "#000000", {"sign": (-30, 8), "adamw": (-42, -14)}),
}
"""Label of a group -> marker, colour (Okabe and Ito's, safe for the colour-blind), where its variants' names go."""


def draw(variants: dict[str, Any]) -> None:
    """Draw one point for each variant of the groups."""
    figure, axes = plt.subplots(figsize=(8, 4.4), layout="constrained")
    for label, (marker, color, places) in GROUPS.items():
        shown = {name: variants[name] for name in places}
        sizes = [got["payload_bytes"] for got in shown.values()]
        means = [got["mean"] for got in shown.values()]
        errors = [got["standard_error"] or 0.0 for got in shown.values()]
        axes.errorbar(sizes, means, errors, fmt=marker, color=color, label=label, markersize=7, capsize=3)
        for (name, got), place in zip(shown.items(), places.values(), strict=True):
            text = "1-bit" if name == "no transform" else name.removeprefix("no transform, ")
            point = (got["payload_bytes"], got["mean"])
            axes.annotate(text, point, xytext=place, textcoords="offset points", fontsize=8)
    axes.set(xscale="log", xlabel="bytes a peer and window", ylabel="held-out loss (nats per byte token)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(FOLDER / "compression.png", dpi=110)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    draw(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["variants"])
