"""How many bytes does a chunk of 64 x 64 coefficients take on the wire, with each option and with other formats?

    python benchmarks/wire_bytes.py [--topk 32]

Prints a Markdown table. The package's own formats are measured: the bytes that a payload grows by, chunk for chunk. The
others are arithmetic: so many bits an index, so many a value. The bound is that of a set of places with a sign each,
all sets and signs being equally likely: log2 C(4096, k) + k bits; a magnitude comes on top.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))  # run as a script, its folder is on the path, not its parent

from templar_pl.compression import MomentumCodec
from templar_pl.config import CompressionConfig
from templar_pl.protocol.payload import payload_bytes

SIDE, CHUNKS = 64, 64
DENSE_BYTES = 4 * SIDE**2
OTHERS = {"int64 index + fp32 value": (64, 32), "int16 index + fp32 value": (16, 32), "12-bit index + uint8": (12, 8)}
"""Format -> bits an index, bits a value."""


def measured_bytes(config: CompressionConfig) -> float:
    """Return by how many bytes a chunk makes a payload longer."""
    lengths = []
    for chunks in (CHUNKS, 2 * CHUNKS):
        shapes = {"weight": (SIDE * chunks, SIDE)}
        lengths.append(payload_bytes(MomentumCodec(shapes, config, torch.device("cpu")).grids))
    return (lengths[1] - lengths[0]) / CHUNKS


def bound_bytes(topk: int) -> float:
    """Return the least mean bytes of a set of places with a sign each."""
    return (math.log2(math.comb(SIDE**2, topk)) + topk) / 8


def table(topk: int = 32) -> str:
    """Return the Markdown table."""
    rows = [(name, topk * sum(bits) / 8) for name, bits in OTHERS.items()]
    base = CompressionConfig(topk=topk)
    for bits in (8, 3, 2, 1):
        for coding, words in (("elias_fano", "Elias-Fano"), ("compact", "compact")):
            name = f"{words}, {bits}-bit values" if bits > 1 else f"{words}, signs"
            rows.append((name, measured_bytes(replace(base, value_bits=bits, index_coding=coding))))
    rows.append(("bound for places and signs", bound_bytes(topk)))
    lines = ["| format | bytes a chunk | times smaller than fp32 |", "| --- | --: | --: |"]
    return "\n".join([*lines, *(f"| {name} | {size:.1f} | {DENSE_BYTES / size:.0f} |" for name, size in rows)])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topk", type=int, default=32, help="coefficients a chunk")
    print(table(parser.parse_args().topk))


if __name__ == "__main__":
    main()
