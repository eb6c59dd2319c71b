"""Top-k selection of DCT coefficients.

Shapes: N = chunks, n = chunks of a portion, K = coefficients per chunk, T = kept per chunk at most; F = places that
were found, chunk after chunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from templar_pl.compression.loops import row_by_row

CHUNKS_AT_ONCE = 256
"""Chunks that are searched together: their magnitudes, 4 MiB, stay in the cache."""

GROUP = 16
"""Coefficients that share a maximum in the first stage of the search."""

_CROWD = 4
"""A chunk in which more than this many times T places pass the first stage is sorted instead."""

_SORTED_AT_MOST = 512
"""Numbers that numpy sorts in half the time of a partition; of more it takes longer."""

_LEAST = 2.0**-149  # the least magnitude above zero


@dataclass(frozen=True, slots=True)
class Kept:
    """Places of the coefficients that are kept of every chunk."""

    indices: Tensor
    """(N, T) int16; strictly ascending up to the count; the slots after it repeat the last kept index, or 0 if none."""

    counts: Tensor
    """(N,) int16; 0..T coefficients really kept."""

    values: Tensor
    """(N, T); the coefficients at these places."""


def keep_largest(
    coefficients: Tensor, topk: int, *, portions: Iterable[slice] | None = None, room: Tensor | None = None
) -> Kept:
    """Keep the coefficients of largest magnitude in every chunk; of equal ones those with the lower index.

    Exact zeros are never kept, so a chunk with fewer than `topk` other coefficients keeps fewer.

    Args:
        coefficients: (N, K) DCT coefficients; any float dtype; finite; K in 1..4096. Those below 2**-149, the least
            magnitude of fp32, count as zeros.
        topk: coefficients to keep per chunk; 1 <= topk <= K.
        portions: of the chunks, from one to another, one behind the other, all of them; each is searched as soon as it
            is there, so that it may be written just before.
        room: fp32, on a CPU, at least twice as many elements as a portion has, to work in; fresh memory costs three
            times as much as the magnitudes.

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
    if is_simple:
        return _keep_by_torch(coefficients, topk, portions)
    return _keep_by_numpy(coefficients, topk, portions, room)


def _keep_by_torch(coefficients: Tensor, topk: int, portions: Iterable[slice]) -> Kept:
    """Do it on any device."""
    kept = [_sort(coefficients[portion], topk) for portion in portions]
    return join(kept) if kept else _sort(coefficients, topk)


def join(parts: Sequence[Kept]) -> Kept:
    """Put what is kept of chunks, at least one part, one behind the other."""
    if len(parts) == 1:
        return parts[0]
    return Kept(
        torch.cat([part.indices for part in parts]),
        torch.cat([part.counts for part in parts]),
        torch.cat([part.values for part in parts]),
    )


def _sort(coefficients: Tensor, topk: int) -> Kept:
    """Keep the largest of (N, K) coefficients; a stable sort keeps the lower index of equal ones."""
    largest, places = (
        found[:, :topk] for found in torch.sort(coefficients.abs(), dim=-1, descending=True, stable=True)
    )
    is_used = largest.to(torch.promote_types(largest.dtype, torch.float32)) >= _LEAST
    counts = is_used.sum(-1)
    places = places.masked_fill(~is_used, coefficients.shape[-1]).sort(-1).values
    last = places.gather(-1, (counts - 1).clamp(min=0)[:, None]).masked_fill(counts[:, None] == 0, 0)
    places = torch.minimum(places, last)
    return Kept(places.to(torch.int16), counts.to(torch.int16), coefficients.gather(-1, places))


def _keep_by_numpy(coefficients: Tensor, topk: int, portions: Iterable[slice], room: Tensor | None) -> Kept:
    """Do it on a CPU for fp32 or fp64, many times faster than by a sort.

    Chunks are sorted in which too many places pass the first stage of the search, or more are as large as the smallest
    one kept than fit in. The second stage is for all portions at once, since numpy takes longer to begin than to do it.
    """
    num_chunks, chunk_numel = coefficients.shape
    found = _Candidates.of(coefficients.numpy(), topk, portions, room)
    magnitudes = np.abs(found.values)
    least = _least_kept(magnitudes, found.counts, topk)
    is_kept = np.flatnonzero(magnitudes >= np.repeat(least, found.counts))
    indices, values = (found.places[is_kept] % chunk_numel).astype(np.int16), found.values[is_kept]
    if len(indices) == num_chunks * topk and (found.counts >= topk).all():  # as nearly always
        full = torch.full((num_chunks,), topk, dtype=torch.int16)
        return Kept(torch.from_numpy(indices.reshape(-1, topk)), full, torch.from_numpy(values.reshape(-1, topk)))
    owners = np.repeat(np.arange(num_chunks), found.counts)[is_kept]
    return _with_fillers(indices, owners, found.is_crowded, coefficients, topk)


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Places of all chunks, among them the T largest of each that are not zero, and those that are as large.

    A lower bound of the smallest magnitude kept is the T-th largest maximum of groups, which few others reach: of a
    normal distribution two or three at K = 4096 and T = 32. A group is every `K // GROUP`-th place, so that maxima are
    taken side by side.
    """

    places: NDArray[np.int64]
    """(F,) among all coefficients, ascending."""

    values: NDArray[np.floating]
    """(F,) the coefficients there."""

    counts: NDArray[np.int64]
    """(N,) how many there are in each chunk."""

    is_crowded: NDArray[np.bool_]
    """(N,) whether there are so many that they were left out."""

    @classmethod
    def of(
        cls, coefficients: NDArray[np.floating], topk: int, portions: Iterable[slice], room: Tensor | None
    ) -> _Candidates:
        """Find them in (N, K) coefficients, portion by portion."""
        num_chunks, chunk_numel = coefficients.shape
        parts, values = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=coefficients.dtype)]
        for portion in portions:
            found = _find(coefficients[portion], topk, room)
            parts.append(found + portion.start * chunk_numel)
            values.append(np.take(coefficients[portion], found))
        places, taken = np.concatenate(parts), np.concatenate(values)
        counts = np.diff(np.searchsorted(places, np.arange(num_chunks + 1) * chunk_numel))
        is_crowded = counts > _CROWD * topk
        if is_crowded.any():
            stay = ~np.repeat(is_crowded, counts)
            places, taken, counts = places[stay], taken[stay], np.where(is_crowded, 0, counts)
        return cls(places, taken, counts, is_crowded)


def _find(coefficients: NDArray[np.floating], topk: int, room: Tensor | None) -> NDArray[np.int64]:
    """Return the flat places in (n, K) coefficients that reach the lower bound of their chunk."""
    num_chunks, chunk_numel = coefficients.shape
    magnitudes, is_found = _space(coefficients, room)
    np.abs(coefficients, out=magnitudes)
    num_groups = chunk_numel // GROUP
    if chunk_numel % GROUP or num_groups < 2 * topk:
        maxima = magnitudes.copy()
    else:  # torch takes half as long
        maxima = torch.from_numpy(magnitudes.reshape(num_chunks, GROUP, num_groups)).amax(1).numpy()
    bounds = np.maximum(_nth_largest(maxima, topk), _LEAST)
    with row_by_row():
        np.greater_equal(magnitudes, bounds[:, None], out=is_found)
    return _true_places(is_found.reshape(-1))


def _space(coefficients: NDArray[np.floating], room: Tensor | None) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Return arrays of the coefficients' shape for magnitudes and whether each is a candidate, from the room if any."""
    shape, size = coefficients.shape, coefficients.size
    if room is None or coefficients.dtype != np.float32:
        return np.empty(shape, dtype=coefficients.dtype), np.empty(shape, dtype=np.bool_)
    flat = room.view(-1).numpy()
    return flat[:size].reshape(shape), flat[size : 2 * size].view(np.bool_)[:size].reshape(shape)


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
        best = _sort(coefficients[rows], topk)
        indices[rows], numbers[rows] = best.indices, best.counts
    return Kept(indices, numbers, coefficients.gather(-1, indices.long()))


def _least_kept(candidates: NDArray[np.floating], counts: NDArray[np.int64], topk: int) -> NDArray[np.floating]:
    """Return (N,) the topk-th largest candidate of every chunk, (F,) in all; 0 if it has fewer."""
    width = max(int(counts.max(initial=0)), topk)
    table = np.zeros((len(counts), width), dtype=candidates.dtype)
    table[np.arange(width) < counts[:, None]] = candidates
    return _nth_largest(table, topk)


def _nth_largest(rows: NDArray[np.floating], rank: int) -> NDArray[np.floating]:
    """Return the rank-th largest of each row, (rows, columns) -> (rows,); the rows are changed."""
    place = rows.shape[1] - rank
    if rows.shape[1] > _SORTED_AT_MOST:
        rows.partition(place, axis=1)
    else:
        rows.sort(axis=1)
    return rows[:, place]


def true_places(mask: Tensor) -> Tensor:
    """Return where a mask of any shape, flattened, is true: int64, ascending."""
    if mask.device.type == "cpu":  # numpy does it six times faster than torch
        return torch.from_numpy(_true_places(np.ascontiguousarray(mask.numpy()).reshape(-1)))
    return mask.flatten().nonzero()[:, 0]


def _true_places(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return where a flat, contiguous mask is true, ascending; where few are, eight at a time are passed over."""
    if mask.size % 8:
        return np.flatnonzero(mask)
    words = mask.view(np.uint64)
    filled = np.flatnonzero(words != 0)
    among = np.flatnonzero(words[filled].view(np.bool_))
    return filled[among >> 3] << 3 | among & 7


def used_slots(counts: Tensor, topk: int) -> Tensor:
    """Return which of the slots hold a coefficient and no filler: (N,) counts -> (N, T) bool."""
    return torch.arange(topk, device=counts.device) < counts[:, None]
