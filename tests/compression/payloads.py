"""Payloads for tests: arbitrary ones, hostile ones, and the two forms side by side."""

from __future__ import annotations

import numpy as np
import torch

from templar_pl.compression import ChunkGrid, SparseChunks
from tests.compression.reference import STEPS, SlowPayload


def to_sparse(slow: SlowPayload, topk: int) -> SparseChunks:
    """Write a payload in the package's form."""
    num_chunks = len(slow.sent)
    indices, negative = np.zeros((num_chunks, topk), np.int16), np.zeros((num_chunks, topk), bool)
    below = None if slow.below is None else np.zeros((num_chunks, topk), np.uint8)
    for chunk, sent in enumerate(slow.sent):
        places = sorted(sent)
        if places:
            indices[chunk] = places[-1]
        indices[chunk, : len(places)] = places
        negative[chunk, : len(places)] = [sent[place] < 0 for place in places]
        if slow.below is not None and below is not None:
            below[chunk, : len(places)] = [slow.below[chunk][place] for place in places]
    return SparseChunks(
        indices=torch.from_numpy(indices),
        negative=torch.from_numpy(negative),
        counts=torch.tensor([len(sent) for sent in slow.sent], dtype=torch.int16),
        codes=torch.tensor(slow.codes, dtype=torch.uint8),
        base=slow.base,
        below=None if below is None else torch.from_numpy(below),
    )


def to_slow(sparse: SparseChunks) -> SlowPayload:
    """Write a payload in the reference's form."""
    sent = [
        {int(i): -1 if n else 1 for i, n in zip(indices[:count], negative[:count], strict=True)}
        for indices, negative, count in zip(
            sparse.indices.tolist(), sparse.negative.tolist(), sparse.counts.tolist(), strict=True
        )
    ]
    if sparse.below is None:
        return SlowPayload(sent, sparse.codes.tolist(), sparse.base)
    below = [dict(zip(places, row, strict=False)) for places, row in zip(sent, sparse.below.tolist(), strict=True)]
    return SlowPayload(sent, sparse.codes.tolist(), sparse.base, below)


def arbitrary_payload(rng: np.random.Generator, grid: ChunkGrid, *, spread: int = 254) -> SlowPayload:
    """Draw a payload: any counts, places, signs and levels, codes within `spread` of the loudest, any base."""
    sent: list[dict[int, int]] = []
    for _ in range(grid.num_chunks):
        places = rng.choice(grid.chunk_numel, size=rng.integers(0, grid.topk + 1), replace=False)
        sent.append({int(place): int(rng.choice([-1, 1])) for place in places})
    codes = [int(rng.integers(255 - spread, 256)) if chunk else 0 for chunk in sent]
    full = [n for n, chunk in enumerate(sent) if chunk]
    if full:
        codes[full[0]] = 255
    base = int(rng.integers(-1400, 700)) if full else 0
    return SlowPayload(sent, codes, base, arbitrary_levels(rng, sent, grid.value_bits))


def arbitrary_levels(
    rng: np.random.Generator, sent: list[dict[int, int]], value_bits: int
) -> list[dict[int, int]] | None:
    """Draw levels, the upper one for some value of every chunk."""
    if value_bits == 1:
        return None
    below = [dict.fromkeys(chunk, 0) for chunk in sent]
    for chunk in below:
        upper = int(rng.integers(max(1, len(chunk))))
        for number, place in enumerate(chunk):
            if number != upper:
                chunk[place] = STEPS[value_bits] * int(rng.integers(2 ** (value_bits - 1)))
    return below


def hostile_payload(rng: np.random.Generator, grid: ChunkGrid, *, loud: int) -> SlowPayload:
    """All peers send the same places with the largest or the least scale, so that sums are extreme or cancel."""
    sent = [dict.fromkeys(range(grid.topk), int(rng.choice([-1, 1]))) for _ in range(grid.num_chunks)]
    codes = [255, *[255 if loud else 1] * (grid.num_chunks - 1)] if sent else []
    lowest = 0 if grid.value_bits == 1 or loud else STEPS[grid.value_bits] * (2 ** (grid.value_bits - 1) - 1)
    below = [{place: lowest * (place > 0) for place in chunk} for chunk in sent]
    return SlowPayload(sent, codes, 0, None if grid.value_bits == 1 else below)
