"""Top-k selection of DCT coefficients.

Shapes: N = chunks, K = coefficients per chunk, T = kept per chunk at most; F = places that were found, of all chunks,
chunk after chunk; W = the most of them in a chunk.
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


def keep_largest(coefficients: Tensor, topk: int, *, room: Tensor | None = None) -> Kept:
    """Keep the coefficients of largest magnitude in every chunk; of equal ones those with the lower index.

    Exact zeros are never kept, so a chunk with fewer than `topk` other coefficients keeps fewer.

    Args:
        coefficients: (N, K) DCT coefficients; any float dtype; finite; K in 1..4096. Those below 2**-149, the least
            magnitude of fp32, count as zeros.
        topk: coefficients to keep per chunk; 1 <= topk <= K.
        room: fp32, at least as many elements, to work in; fresh memory costs three times as much as the magnitudes.

    Raises:
        ValueError: topk is outside 1..K.

    Source:
        DeMo, arXiv:2411.19870v1, Algorithm 1; the rule for ties and zeros is ours.
    """
    chunk_numel = coefficients.shape[-1]
    if not 1 <= topk <= chunk_numel:
        raise ValueError(f"topk must be in 1..{chunk_numel}, got {topk}")
    if 0 < len(coefficients) <= CHUNKS_AT_ONCE:
        return _keep(coefficients, topk, room)
    blocks = [_keep(block, topk, room) for block in coefficients.split(CHUNKS_AT_ONCE)] if len(coefficients) else []
    indices = coefficients.new_empty(0, topk, dtype=torch.int16)
    counts = coefficients.new_empty(0, dtype=torch.int16)
    return Kept(torch.cat([indices, *(b.indices for b in blocks)]), torch.cat([counts, *(b.counts for b in blocks)]))


def _keep(coefficients: Tensor, topk: int, room: Tensor | None) -> Kept:
    """Do what `keep_largest` does for chunks few enough that their magnitudes stay in the cache."""
    num_chunks, chunk_numel = coefficients.shape
    if room is None or coefficients.element_size() != room.element_size():
        magnitudes = coefficients.abs().contiguous()
    else:
        magnitudes = torch.abs(coefficients, out=room.view(-1)[: coefficients.numel()].view_as(coefficients))
    if magnitudes.element_size() < 4:
        magnitudes = magnitudes.float()
    indices, is_undecided = _largest(magnitudes, topk)
    if indices.shape[-1] == topk:  # every chunk has as many, and no two of them compete
        return Kept(indices.to(torch.int16), indices.new_full((num_chunks,), topk, dtype=torch.int16))
    indices = indices.sort(-1).values[:, :topk]
    rows = true_places(is_undecided)
    if len(rows):  # a stable sort, some 20 times slower
        best = torch.sort(magnitudes[rows], dim=-1, descending=True, stable=True).indices[:, :topk]
        indices[rows] = best.sort(-1).values
    is_used = indices < chunk_numel
    counts = is_used.sum(-1)
    last = indices.gather(-1, (counts - 1).clamp(min=0)[:, None])
    filler = torch.where(counts[:, None] > 0, last, 0)
    return Kept(torch.where(is_used, indices, filler).to(torch.int16), counts.to(torch.int16))


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
    """Return (N, T) int64 ascending places of the largest magnitudes if every chunk has so many and no two compete.

    Else (N, more than T), in no order, with K in unused slots; and (N,) whether a chunk is undecided, because more
    coefficients are as large as the smallest one kept than fit in, or because too many passed the first stage: its
    places mean nothing.
    """
    num_chunks, chunk_numel = magnitudes.shape
    found, firsts = _candidates(magnitudes, topk), torch.arange(num_chunks + 1, device=magnitudes.device) * chunk_numel
    counts = torch.searchsorted(found, firsts).diff()  # (N,)
    is_undecided = counts > _CROWD * topk
    if is_undecided.any():
        found = found[~is_undecided.repeat_interleave(counts)]
        counts = counts.masked_fill(is_undecided, 0)
    width = max(int(counts.max()), topk + 1)
    is_filled = torch.arange(width, device=magnitudes.device) < counts[:, None]  # (N, W)
    values = magnitudes.new_zeros(num_chunks, width)
    values.masked_scatter_(is_filled, magnitudes.view(-1).index_select(0, found))
    is_kept = (values >= _kth_largest(values, topk)) & is_filled
    num_kept = is_kept.sum(-1)
    is_undecided |= num_kept > topk
    places = found.new_full((num_chunks, width), chunk_numel)
    places.masked_scatter_(is_filled, found - firsts[:-1].repeat_interleave(counts, output_size=len(found)))
    if (num_kept == topk).all():
        return places[is_kept].view(num_chunks, topk), is_undecided
    return places.masked_fill_(~is_kept, chunk_numel), is_undecided


def _candidates(magnitudes: Tensor, topk: int) -> Tensor:
    """Return (F,) places in the flattened magnitudes: of every chunk those of the topk largest that are not zero.

    A lower bound of the smallest magnitude kept is the topk-th largest maximum of groups, which few others reach: of a
    normal distribution two or three at K = 4096 and T = 32. A group is every `K // GROUP`-th place, so that maxima are
    taken side by side.
    """
    chunk_numel = magnitudes.shape[-1]
    num_groups = chunk_numel // GROUP
    if chunk_numel % GROUP or num_groups < 2 * topk:
        bounds = _kth_largest(magnitudes, topk)
    else:
        bounds = _kth_largest(magnitudes.view(-1, GROUP, num_groups).amax(1), topk)
    bounds.clamp_(min=_LEAST)  # (N, 1)
    if magnitudes.device.type == "cpu":  # numpy compares five times faster than torch
        return true_places(torch.from_numpy(magnitudes.numpy() >= bounds.numpy()))
    return true_places(magnitudes >= bounds)


def used_slots(counts: Tensor, topk: int) -> Tensor:
    """Return which of the slots hold a coefficient and no filler: (N,) counts -> (N, T) bool."""
    return torch.arange(topk, device=counts.device) < counts[:, None]
