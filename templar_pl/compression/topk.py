"""Top-k selection of DCT coefficients.

Shapes: N = chunks of one parameter, K = coefficients per chunk, T = kept per chunk at most.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CHUNKS_AT_ONCE = 128
"""Chunks that are searched together: their magnitudes, 2 MiB, stay in the cache."""

GROUP = 16
"""Coefficients that share a maximum in the first stage of the search."""


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
    indices, is_zero = _largest_in_blocks(coefficients, topk)  # (N, T), in no order
    indices = indices.masked_fill(is_zero, chunk_numel).sort(-1).values  # zeros come last
    counts = topk - is_zero.sum(-1)
    last = indices.gather(-1, (counts - 1).clamp(min=0)[:, None])
    filler = torch.where(counts[:, None] > 0, last, 0)
    indices = torch.where(used_slots(counts, topk), indices, filler)
    return Kept(indices.to(torch.int16), counts.to(torch.int16))


def _largest_in_blocks(coefficients: Tensor, topk: int) -> tuple[Tensor, Tensor]:
    """Return (N, T) int64 places of the largest magnitudes, in no order, and whether they are zero."""
    indices, is_zero = [], []
    for block in coefficients.split(CHUNKS_AT_ONCE) if len(coefficients) else [coefficients]:
        magnitudes = block.abs()
        indices.append(_largest(magnitudes, topk))
        is_zero.append(magnitudes.gather(-1, indices[-1]) == 0)
    return torch.cat(indices), torch.cat(is_zero)


def _candidates(magnitudes: Tensor, topk: int) -> tuple[Tensor, Tensor]:
    """Return places (N, M), int64, that hold the topk largest magnitudes, and whether a tie may hide others.

    The largest magnitudes lie in those groups whose maxima are largest: at most topk groups have a maximum as large as
    the smallest one kept, but for ties. A group is every `K // GROUP`-th place, so that maxima are taken side by side.
    """
    num_groups = magnitudes.shape[-1] // GROUP
    maxima = magnitudes.view(len(magnitudes), GROUP, num_groups).amax(1)  # (N, groups)
    best, groups = torch.topk(maxima, topk, dim=-1, sorted=False)
    members = torch.arange(GROUP, device=magnitudes.device) * num_groups
    may_hide = (maxima >= best.amin(-1, keepdim=True)).sum(-1) > topk
    return (groups[:, None, :] + members[:, None]).flatten(1), may_hide


def _largest(magnitudes: Tensor, topk: int) -> Tensor:
    """Return (N, T) int64 places of the largest magnitudes, in no order; ties above zero go to the lower index."""
    chunk_numel = magnitudes.shape[-1]
    if chunk_numel % GROUP == 0 and chunk_numel >= 2 * GROUP * topk:
        places, may_hide = _candidates(magnitudes, topk)
        among = magnitudes.gather(-1, places)  # (N, M)
    else:
        places, may_hide, among = None, None, magnitudes
    values, chosen = torch.topk(among, topk, dim=-1, sorted=False)
    indices = chosen if places is None else places.gather(-1, chosen)
    smallest = values.amin(-1, keepdim=True)  # (N, 1)
    # torch.topk has no rule for ties. They matter only where more coefficients are as large as the smallest one kept
    # than fit in; there a stable sort (some 20 times slower) decides.
    is_tied = (among >= smallest).sum(-1) > topk
    if may_hide is not None:
        is_tied |= may_hide
    is_tied &= smallest[:, 0] > 0
    rows = is_tied.nonzero()[:, 0]
    if len(rows):
        indices[rows] = torch.sort(magnitudes[rows], dim=-1, descending=True, stable=True).indices[:, :topk]
    return indices
