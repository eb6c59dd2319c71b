"""Top-k selection of DCT coefficients.

Shapes: N = chunks of one parameter, K = coefficients per chunk, T = kept per chunk at most.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Kept:
    """Places of the coefficients that are kept of every chunk."""

    indices: Tensor
    """(N, T) int16; strictly ascending up to the count; the slots after it repeat the last kept index, or 0 if none."""

    counts: Tensor
    """(N,) int16; 0..T coefficients really kept."""


def used_slots(counts: Tensor, topk: int) -> Tensor:
    """Return which of the slots hold a coefficient and no filler: (N,) counts -> (N, T) bool."""
    return torch.arange(topk, device=counts.device) < counts[:, None]


def keep_largest(coefficients: Tensor, topk: int) -> Kept:
    """Keep the coefficients of largest magnitude in every chunk; of equal ones those with the lower index.

    Exact zeros are never kept, so a chunk with fewer than `topk` other coefficients keeps fewer.

    Args:
        coefficients: (N, K) DCT coefficients; any float dtype; finite; K in 1..4096.
        topk: coefficients to keep per chunk; 1 <= topk <= K.

    Raises:
        ValueError: topk is outside 1..K.

    Source:
        DeMo, arXiv:2411.19870v1, Algorithm 1; the rule for ties and zeros is ours.
    """
    chunk_numel = coefficients.shape[-1]
    if not 1 <= topk <= chunk_numel:
        raise ValueError(f"topk must be in 1..{chunk_numel}, got {topk}")
    magnitudes = coefficients.abs()
    indices = _largest(magnitudes, topk)  # (N, T), in no order
    is_zero = magnitudes.gather(-1, indices) == 0
    indices = indices.masked_fill(is_zero, chunk_numel).sort(-1).values  # zeros come last
    counts = topk - is_zero.sum(-1)
    last = indices.gather(-1, (counts - 1).clamp(min=0)[:, None])
    filler = torch.where(counts[:, None] > 0, last, 0)
    indices = torch.where(used_slots(counts, topk), indices, filler)
    return Kept(indices.to(torch.int16), counts.to(torch.int16))


def _largest(magnitudes: Tensor, topk: int) -> Tensor:
    """Return (N, T) int64 places of the largest magnitudes, in no order; ties above zero go to the lower index."""
    values, indices = torch.topk(magnitudes, topk, dim=-1, sorted=False)
    smallest = values.amin(-1, keepdim=True)  # (N, 1)
    # torch.topk has no rule for ties. They matter only where more coefficients are as large as the smallest one kept
    # than fit in; there a stable sort (some 20 times slower) decides.
    is_tied = ((magnitudes >= smallest).sum(-1) > topk) & (smallest[:, 0] > 0)
    rows = is_tied.nonzero()[:, 0]
    if len(rows):
        indices[rows] = torch.sort(magnitudes[rows], dim=-1, descending=True, stable=True).indices[:, :topk]
    return indices
