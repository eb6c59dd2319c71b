"""Top-k selection of DCT coefficients.

Shapes: N = chunks, K = coefficients per chunk, T = kept per chunk at most; F = places that were found, of all chunks,
chunk after chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

CHUNKS_AT_ONCE = 256
"""Chunks that are searched together: their magnitudes, 4 MiB, stay in the cache."""

GROUP = 16
"""Coefficients that share a maximum in the first stage of the search."""

_CROWD = 4
"""A chunk in which more than this many times T places pass the first stage is sorted instead."""

_LEAST = 2.0**-149  # the least magnitude above zero


@dataclass(frozen=True, slots=True)
class Kept:
    """Places of the coefficients that are kept of every chunk."""

    indices: Tensor
    """(N, T) int16; strictly ascending up to the count; the slots after it repeat the last kept index, or 0 if none."""

    counts: Tensor
    """(N,) int16; 0..T coefficients really kept."""


def keep_largest(coefficients: Tensor, topk: int) -> Kept:
    """Keep the coefficients of largest magnitude in every chunk; of equal ones those with the lower index.

    Exact zeros are never kept, so a chunk with fewer than `topk` other coefficients keeps fewer.

    Args:
        coefficients: (N, K) DCT coefficients; any float dtype; finite; K in 1..4096. Those below 2**-149, the least
            magnitude of fp32, count as zeros.
        topk: coefficients to keep per chunk; 1 <= topk <= K.

    Raises:
        ValueError: topk is outside 1..K.

    Source:
        DeMo, arXiv:2411.19870v1, Algorithm 1; the rule for ties and zeros is ours.
    """
    chunk_numel = coefficients.shape[-1]
    if not 1 <= topk <= chunk_numel:
        raise ValueError(f"topk must be in 1..{chunk_numel}, got {topk}")
    blocks = [_keep(block, topk) for block in coefficients.split(CHUNKS_AT_ONCE)] if len(coefficients) else []
    if len(blocks) == 1:
        return blocks[0]
    indices = coefficients.new_empty(0, topk, dtype=torch.int16)
    counts = coefficients.new_empty(0, dtype=torch.int16)
    return Kept(torch.cat([indices, *(b.indices for b in blocks)]), torch.cat([counts, *(b.counts for b in blocks)]))


def _keep(coefficients: Tensor, topk: int) -> Kept:
    """Do what `keep_largest` does for chunks few enough that their magnitudes stay in the cache."""
    chunk_numel = coefficients.shape[-1]
    magnitudes = coefficients.abs().contiguous()
    if magnitudes.element_size() < 4:
        magnitudes = magnitudes.float()
    indices, is_undecided = _largest(magnitudes, topk)
    rows = true_places(is_undecided)
    if len(rows):  # a stable sort, some 20 times slower
        indices[rows] = torch.sort(magnitudes[rows], dim=-1, descending=True, stable=True).indices[:, :topk]
    indices = indices.to(torch.int16).sort(-1).values
    is_used = indices < chunk_numel
    counts = is_used.sum(-1)
    last = indices.gather(-1, (counts - 1).clamp(min=0)[:, None])
    filler = torch.where(counts[:, None] > 0, last, 0)
    return Kept(torch.where(is_used, indices, filler), counts.to(torch.int16))


def true_places(mask: Tensor) -> Tensor:
    """Return where a mask of any shape, flattened, is true: int64, ascending."""
    if mask.device.type == "cpu":  # numpy does it six times faster than torch
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.flatten().nonzero()[:, 0]


def _kth_largest(magnitudes: Tensor, k: int) -> Tensor:
    """Return the k-th largest number of every row, (rows, 1)."""
    if magnitudes.device.type == "cpu":  # numpy does it four times faster than torch
        place = magnitudes.shape[-1] - k
        return torch.from_numpy(np.partition(magnitudes.numpy(), place, axis=-1)[:, place : place + 1].copy())
    return torch.topk(magnitudes, k, dim=-1, sorted=False).values.amin(-1, keepdim=True)


def _largest(magnitudes: Tensor, topk: int) -> tuple[Tensor, Tensor]:
    """Return (N, T) int64 places of the largest magnitudes, in no order, and K in unused slots.

    Also (N,) whether a chunk is undecided, because more coefficients are as large as the smallest one kept than fit
    in, or because too many passed the first stage; its places mean nothing.
    """
    num_chunks, chunk_numel = magnitudes.shape
    found = _candidates(magnitudes, topk)
    chunks = found // chunk_numel  # (F,)
    counts = torch.bincount(chunks, minlength=num_chunks)  # (N,)
    is_undecided = counts > _CROWD * topk
    most = int(counts.max()) if num_chunks else 0
    if most > _CROWD * topk:
        found, chunks, counts = _chosen(~is_undecided[chunks], found, chunks, num_chunks)
        most = int(counts.max())
    if most > topk:
        values = magnitudes.view(-1).index_select(0, found)
        bounds = _kth_largest(_in_rows(values, chunks, counts, most, fill=0.0), topk)
        found, chunks, counts = _chosen(values >= bounds[:, 0].index_select(0, chunks), found, chunks, num_chunks)
        is_undecided |= counts > topk
        most = int(counts.max())
    indices = _in_rows(found - chunks * chunk_numel, chunks, counts, max(most, topk), fill=chunk_numel)
    return indices[:, :topk], is_undecided


def _candidates(magnitudes: Tensor, topk: int) -> Tensor:
    """Return (F,) places in the flattened magnitudes: of every chunk those of the topk largest that are not zero.

    A lower bound of the smallest magnitude kept is the topk-th largest maximum of groups, which few others reach: of a
    normal distribution two or three at K = 4096 and T = 32. A group is every `K // GROUP`-th place, so that maxima are
    taken side by side.
    """
    chunk_numel = magnitudes.shape[-1]
    num_groups = chunk_numel // GROUP
    if chunk_numel % GROUP or num_groups < 2 * topk:
        return true_places(magnitudes >= _kth_largest(magnitudes, topk).clamp_(min=_LEAST))
    maxima = magnitudes.view(-1, GROUP, num_groups).amax(1)
    bounds = _kth_largest(maxima, topk).clamp_(min=_LEAST)  # (N, 1)
    groups = true_places(maxima >= bounds)
    chunks = groups // num_groups
    firsts = groups + chunks * (chunk_numel - num_groups)
    members = torch.arange(GROUP, device=magnitudes.device) * num_groups
    places = (firsts[:, None] + members).view(-1)  # (groups * GROUP,)
    values = magnitudes.view(-1).index_select(0, places).view(-1, GROUP)
    return places.index_select(0, true_places(values >= bounds.index_select(0, chunks)))


def _chosen(is_chosen: Tensor, found: Tensor, chunks: Tensor, num_chunks: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return those of the places (F,) that are chosen, their chunks, and how many each chunk has, (N,)."""
    which = true_places(is_chosen)
    left = chunks.index_select(0, which)
    return found.index_select(0, which), left, torch.bincount(left, minlength=num_chunks)


def _in_rows(values: Tensor, chunks: Tensor, counts: Tensor, width: int, *, fill: float) -> Tensor:
    """Return values (F,) of chunks as (N, width) with as many of them in each row as counts (N,) says, then `fill`."""
    rows = values.new_full((len(counts), width), fill)
    starts = torch.arange(len(counts), device=counts.device) * width - counts.cumsum(0) + counts
    slots = torch.arange(len(values), device=counts.device) + starts.index_select(0, chunks)
    rows.view(-1)[slots] = values
    return rows


def used_slots(counts: Tensor, topk: int) -> Tensor:
    """Return which of the slots hold a coefficient and no filler: (N,) counts -> (N, T) bool."""
    return torch.arange(topk, device=counts.device) < counts[:, None]
