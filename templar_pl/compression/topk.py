"""Top-k selection of DCT coefficients.

Shapes: N = chunks, K = coefficients per chunk, T = kept per chunk at most; F = places that were found, of all chunks,
chunk after chunk; W = the most of them in a chunk.
"""

from __future__ import annotations

from collections.abc import Iterable
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


def keep_largest(
    coefficients: Tensor, topk: int, *, portions: Iterable[slice] | None = None, room: Tensor | None = None
) -> Kept:
    """Keep the coefficients of largest magnitude in every chunk; of equal ones those with the lower index.

    Exact zeros are never kept, so a chunk with fewer than `topk` other coefficients keeps fewer.

    Args:
        coefficients: (N, K) DCT coefficients; any float dtype; finite; K in 1..4096. Those below 2**-149, the least
            magnitude of fp32, count as zeros.
        topk: coefficients to keep per chunk; 1 <= topk <= K.
        portions: of the chunks, one behind the other, all of them; each is searched as soon as it is there, so that it
            may be written just before.
        room: fp32, at least as many elements as a portion has, to work in; fresh memory costs three times as much as
            the magnitudes.

    Raises:
        ValueError: topk is outside 1..K.

    Source:
        DeMo, arXiv:2411.19870v1, Algorithm 1; the rule for ties and zeros is ours.
    """
    num_chunks, chunk_numel = coefficients.shape
    if not 1 <= topk <= chunk_numel:
        raise ValueError(f"topk must be in 1..{chunk_numel}, got {topk}")
    if portions is None:
        portions = (slice(first, first + CHUNKS_AT_ONCE) for first in range(0, num_chunks, CHUNKS_AT_ONCE))
    is_simple = coefficients.device.type != "cpu" or coefficients.element_size() < 4  # numpy has no bfloat16
    return (_keep_by_torch if is_simple else _keep_by_numpy)(coefficients, topk, portions, room)


def _magnitudes(coefficients: Tensor, room: Tensor | None) -> Tensor:
    """Return magnitudes, contiguous, in the room if they fit in."""
    if room is None or coefficients.dtype != room.dtype:
        return coefficients.abs().contiguous()
    return torch.abs(coefficients, out=room.view(-1)[: coefficients.numel()].view_as(coefficients))


def _keep_by_torch(coefficients: Tensor, topk: int, portions: Iterable[slice], room: Tensor | None) -> Kept:
    """Do it on any device."""
    kept = [_sort(_magnitudes(coefficients[portion], room), topk) for portion in portions]
    if not kept:
        kept = [_sort(coefficients, topk)]
    return Kept(torch.cat([part.indices for part in kept]), torch.cat([part.counts for part in kept]))


def _sort(magnitudes: Tensor, topk: int) -> Kept:
    """Keep the largest of (N, K) magnitudes; a stable sort keeps the lower index of equal ones."""
    largest, places = (found[:, :topk] for found in torch.sort(magnitudes, dim=-1, descending=True, stable=True))
    is_used = largest.to(torch.promote_types(largest.dtype, torch.float32)) >= _LEAST
    counts = is_used.sum(-1)
    places = places.masked_fill(~is_used, magnitudes.shape[-1]).sort(-1).values
    last = places.gather(-1, (counts - 1).clamp(min=0)[:, None]).masked_fill(counts[:, None] == 0, 0)
    return Kept(torch.minimum(places, last).to(torch.int16), counts.to(torch.int16))


def _keep_by_numpy(coefficients: Tensor, topk: int, portions: Iterable[slice], room: Tensor | None) -> Kept:
    """Do it on a CPU for fp32 or fp64, many times faster than by a sort.

    Chunks are sorted in which too many places pass the first stage of the search, or more are as large as the smallest
    one kept than fit in. The second stage is for all portions at once, since numpy takes longer to begin than to do it.
    """
    num_chunks = len(coefficients)
    passed = [_Candidates.of(_magnitudes(coefficients[portion], room).numpy(), topk) for portion in portions]
    none = [np.empty(0, dtype=np.int16)]
    places = np.concatenate(none + [part.places for part in passed])  # (F,)
    counts = np.concatenate([np.empty(0, dtype=np.int64)] + [part.counts for part in passed])  # (N,)
    magnitudes = np.concatenate([np.empty(0, dtype=np.float32)] + [part.magnitudes for part in passed])
    is_kept = magnitudes >= np.repeat(_least_kept(magnitudes, counts, topk), counts)
    kept = places[is_kept]
    if len(kept) == num_chunks * topk and (counts >= topk).all():  # as nearly always
        full = np.full(num_chunks, topk, dtype=np.int16)
        return Kept(torch.from_numpy(kept.reshape(-1, topk)), torch.from_numpy(full))
    owners = np.repeat(np.arange(num_chunks), counts)[is_kept]
    is_crowded = np.concatenate([part.is_crowded for part in passed]) if passed else np.empty(0, dtype=np.bool_)
    return _with_fillers(kept, owners, is_crowded, coefficients, topk)


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Places of some chunks, among them the T largest that are not zero, and those that are as large.

    A lower bound of the smallest magnitude kept is the T-th largest maximum of groups, which few others reach: of a
    normal distribution two or three at K = 4096 and T = 32. A group is every `K // GROUP`-th place, so that maxima are
    taken side by side.
    """

    places: NDArray[np.int16]
    """(F,) inside the chunk."""

    counts: NDArray[np.int64]
    """(N,) how many there are."""

    is_crowded: NDArray[np.bool_]
    """(N,) whether there are so many that they were left out."""

    magnitudes: NDArray[np.floating]
    """(F,)."""

    @classmethod
    def of(cls, magnitudes: NDArray[np.floating], topk: int) -> _Candidates:
        """Find them in (N, K) magnitudes."""
        num_chunks, chunk_numel = magnitudes.shape
        num_groups = chunk_numel // GROUP
        if chunk_numel % GROUP or num_groups < 2 * topk:
            maxima, num_groups = magnitudes.copy(), chunk_numel
        else:  # torch takes half as long
            maxima = torch.from_numpy(magnitudes).view(-1, GROUP, num_groups).amax(1).numpy()
        maxima.partition(num_groups - topk, axis=1)
        bounds = np.maximum(maxima[:, num_groups - topk], _LEAST)
        found = np.flatnonzero(magnitudes >= bounds[:, None])
        counts = np.diff(np.searchsorted(found, np.arange(num_chunks + 1) * chunk_numel))
        is_crowded = counts > _CROWD * topk
        if is_crowded.any():
            found, counts = found[~np.repeat(is_crowded, counts)], np.where(is_crowded, 0, counts)
        return cls((found % chunk_numel).astype(np.int16), counts, is_crowded, np.take(magnitudes, found))


def _with_fillers(
    kept: NDArray[np.int16], owners: NDArray[np.int64], is_crowded: NDArray[np.bool_], coefficients: Tensor, topk: int
) -> Kept:
    """Return places that are kept, (F,) chunk after chunk, and those of chunks that must be sorted.

    Args:
        kept: ascending in each chunk.
        owners: (F,) ascending number of the chunk that each is in.
        is_crowded: (N,) whether a chunk must be sorted; those of which more than `topk` places are kept are, too.
        coefficients: (N, K).
        topk: T.
    """
    counts = np.bincount(owners, minlength=len(coefficients))  # (N,)
    is_sorted = is_crowded | (counts > topk)
    kept, counts = kept[~is_sorted[owners]], np.where(is_sorted, 0, counts)
    indices = np.zeros((len(coefficients), topk), dtype=np.int16)
    is_used = np.arange(topk) < counts[:, None]
    indices[is_used] = kept
    last = np.take_along_axis(indices, np.maximum(counts - 1, 0)[:, None], axis=1)
    indices = torch.from_numpy(np.where(is_used, indices, last))
    numbers, rows = torch.from_numpy(counts.astype(np.int16)), torch.from_numpy(np.flatnonzero(is_sorted))
    if len(rows):
        best = _sort(coefficients[rows].abs(), topk)
        indices[rows], numbers[rows] = best.indices, best.counts
    return Kept(indices, numbers)


def _least_kept(candidates: NDArray[np.floating], counts: NDArray[np.int64], topk: int) -> NDArray[np.floating]:
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
