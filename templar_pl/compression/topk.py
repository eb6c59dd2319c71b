"""Top-k selection of DCT coefficients.

Shapes: N = chunks, K = coefficients per chunk, T = kept per chunk at most; F = places that were found, of all chunks,
chunk after chunk; W = the most of them in a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
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
    is_simple = coefficients.device.type != "cpu" or coefficients.element_size() < 4  # numpy has no bfloat16
    keep = _keep_by_torch if is_simple else _keep_by_numpy
    blocks = [keep(_magnitudes(block, room), topk) for block in coefficients.split(CHUNKS_AT_ONCE)]
    if len(blocks) == 1:
        return blocks[0]
    return Kept(torch.cat([block.indices for block in blocks]), torch.cat([block.counts for block in blocks]))


def _magnitudes(coefficients: Tensor, room: Tensor | None) -> Tensor:
    """Return magnitudes of at least 32 bits, contiguous, in the room if they fit in."""
    if room is None or coefficients.element_size() != room.element_size():
        magnitudes = coefficients.abs().contiguous()
        return magnitudes.float() if magnitudes.element_size() < 4 else magnitudes
    return torch.abs(coefficients, out=room.view(-1)[: coefficients.numel()].view_as(coefficients))


def _keep_by_torch(magnitudes: Tensor, topk: int) -> Kept:
    """Keep the largest of (N, K) magnitudes, on any device; a stable sort keeps the lower index of equal ones."""
    largest, places = (found[:, :topk] for found in torch.sort(magnitudes, dim=-1, descending=True, stable=True))
    is_used = largest >= _LEAST
    counts = is_used.sum(-1)
    places = places.masked_fill(~is_used, magnitudes.shape[-1]).sort(-1).values
    last = places.gather(-1, (counts - 1).clamp(min=0)[:, None]).masked_fill(counts[:, None] == 0, 0)
    return Kept(torch.minimum(places, last).to(torch.int16), counts.to(torch.int16))


def _keep_by_numpy(magnitudes: Tensor, topk: int) -> Kept:
    """Keep the largest of (N, K) magnitudes of fp32 or fp64, on a CPU, many times faster than by a sort.

    Chunks are sorted in which too many places pass the first stage of the search, or more are as large as the smallest
    one kept than fit in.
    """
    values, (num_chunks, chunk_numel) = magnitudes.numpy(), magnitudes.shape
    found, counts = _candidates(values, topk)  # (F,), (N,)
    is_crowded = counts > _CROWD * topk
    if is_crowded.any():
        found, counts = found[~np.repeat(is_crowded, counts)], np.where(is_crowded, 0, counts)
    candidates = np.take(values, found)
    is_kept = candidates >= np.repeat(_least_kept(candidates, counts, topk), counts)
    kept = found[is_kept] % chunk_numel
    if len(kept) == num_chunks * topk == np.minimum(counts, topk).sum():  # as nearly always
        full = np.full(num_chunks, topk, dtype=np.int16)
        return Kept(torch.from_numpy(kept.reshape(-1, topk).astype(np.int16)), torch.from_numpy(full))
    return _with_fillers(kept, np.repeat(np.arange(num_chunks), counts)[is_kept], is_crowded, magnitudes, topk)


def _with_fillers(
    kept: NDArray[np.int64], owners: NDArray[np.int64], is_crowded: NDArray[np.bool_], magnitudes: Tensor, topk: int
) -> Kept:
    """Return (F,) places that are kept, chunk after chunk, and those of chunks that must be sorted.

    Args:
        kept: ascending in each chunk.
        owners: (F,) ascending number of the chunk that each is in.
        is_crowded: (N,) whether a chunk must be sorted; those of which more than `topk` places are kept are, too.
        magnitudes: (N, K).
        topk: T.
    """
    counts = np.bincount(owners, minlength=len(magnitudes))  # (N,)
    is_sorted = is_crowded | (counts > topk)
    kept, counts = kept[~is_sorted[owners]], np.where(is_sorted, 0, counts)
    indices = np.zeros((len(magnitudes), topk), dtype=np.int16)
    is_used = np.arange(topk) < counts[:, None]
    indices[is_used] = kept
    last = np.take_along_axis(indices, np.maximum(counts - 1, 0)[:, None], axis=1)
    indices = torch.from_numpy(np.where(is_used, indices, last))
    numbers, rows = torch.from_numpy(counts.astype(np.int16)), torch.from_numpy(np.flatnonzero(is_sorted))
    if len(rows):
        best = _keep_by_torch(magnitudes[rows], topk)
        indices[rows], numbers[rows] = best.indices, best.counts
    return Kept(indices, numbers)


def _candidates(magnitudes: NDArray[np.floating], topk: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (F,) places in the flattened magnitudes, and (N,) how many there are of each chunk.

    Of every chunk these are the topk largest that are not zero, those that are as large, and a few more. A lower bound
    of the smallest magnitude kept is the topk-th largest maximum of groups, which few others reach: of a normal
    distribution two or three at K = 4096 and T = 32. A group is every `K // GROUP`-th place, so that maxima are taken
    side by side.
    """
    num_chunks, chunk_numel = magnitudes.shape
    num_groups = chunk_numel // GROUP
    if chunk_numel % GROUP or num_groups < 2 * topk:
        maxima, num_groups = magnitudes.copy(), chunk_numel
    else:  # torch takes half as long
        maxima = torch.from_numpy(magnitudes).view(-1, GROUP, num_groups).amax(1).numpy()
    maxima.partition(num_groups - topk, axis=1)
    bounds = np.maximum(maxima[:, num_groups - topk], _LEAST)
    found = np.flatnonzero(magnitudes >= bounds[:, None])
    return found, np.diff(np.searchsorted(found, np.arange(num_chunks + 1) * chunk_numel))


def _least_kept(
    candidates: NDArray[np.floating], counts: NDArray[np.int64], topk: int
) -> NDArray[np.floating]:
    """Return (N,) the topk-th largest candidate of every chunk, (F,) in all; 0 if it has fewer."""
    width = max(int(counts.max(initial=0)), topk)
    table = np.zeros((len(counts), width), dtype=candidates.dtype)
    table[np.arange(width) < counts[:, None]] = candidates
    table.partition(width - topk, axis=1)
    return table[:, width - topk]


def true_places(mask: Tensor) -> Tensor:
    """Return where a mask of any shape, flattened, is true: int64, ascending."""
    if mask.device.type == "cpu":  # numpy does it six times faster than torch
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.flatten().nonzero()[:, 0]


def used_slots(counts: Tensor, topk: int) -> Tensor:
    """Return which of the slots hold a coefficient and no filler: (N,) counts -> (N, T) bool."""
    return torch.arange(topk, device=counts.device) < counts[:, None]
