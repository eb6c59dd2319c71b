"""Payloads for tests: arbitrary ones, hostile ones, and the two forms side by side."""

from __future__ import annotations

import numpy as np
import torch

from templar_pl.compression import ChunkGrid, SparseChunks
from tests.compression.reference import SlowPayload


def to_sparse(slow: SlowPayload, topk: int) -> SparseChunks:
    """Write a payload in the package's form."""
    num_chunks = len(slow.sent)
    indices, negative = np.zeros((num_chunks, topk), np.int16), np.zeros((num_chunks, topk), bool)
    for chunk, sent in enumerate(slow.sent):
        places = sorted(sent)
        if places:
            indices[chunk] = places[-1]
        indices[chunk, : len(places)] = places
        negative[chunk, : len(places)] = [sent[place] < 0 for place in places]
    return SparseChunks(
        indices=torch.from_numpy(indices),
        negative=torch.from_numpy(negative),
        counts=torch.tensor([len(sent) for sent in slow.sent], dtype=torch.int16),
        codes=torch.tensor(slow.codes, dtype=torch.uint8),
        base=slow.base,
    )


def to_slow(sparse: SparseChunks) -> SlowPayload:
    """Write a payload in the reference's form."""
    sent = [
        {int(i): -1 if n else 1 for i, n in zip(indices[:count], negative[:count], strict=True)}
        for indices, negative, count in zip(
            sparse.indices.tolist(), sparse.negative.tolist(), sparse.counts.tolist(), strict=True
        )
    ]
    return SlowPayload(sent, sparse.codes.tolist(), sparse.base)


def arbitrary_payload(rng: np.random.Generator, grid: ChunkGrid, *, spread: int = 254) -> SlowPayload:
    """Draw a payload: any counts, places and signs, codes within `spread` of the loudest, any base."""
    sent: list[dict[int, int]] = []
    for _ in range(grid.num_chunks):
        places = rng.choice(grid.chunk_numel, size=rng.integers(0, grid.topk + 1), replace=False)
        sent.append({int(place): int(rng.choice([-1, 1])) for place in places})
    codes = [int(rng.integers(255 - spread, 256)) if chunk else 0 for chunk in sent]
    full = [n for n, chunk in enumerate(sent) if chunk]
    if full:
        codes[full[0]] = 255
    return SlowPayload(sent, codes, int(rng.integers(-1400, 700)) if full else 0)


def hostile_payload(rng: np.random.Generator, grid: ChunkGrid, *, loud: int) -> SlowPayload:
    """All peers send the same places with the largest or the least scale, so that sums are extreme or cancel."""
    sent = [dict.fromkeys(range(grid.topk), int(rng.choice([-1, 1]))) for _ in range(grid.num_chunks)]
    return SlowPayload(sent, [255, *[255 if loud else 1] * (grid.num_chunks - 1)] if sent else [], 0)
