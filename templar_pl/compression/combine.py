"""How payloads meet in one parameter: in integers, so that neither their order nor the device matters.

Shapes: P = payloads, N = chunks of one parameter, K = coefficients per chunk, T = sent per chunk at most, L = T, or 1
where all values of a chunk have one magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from templar_pl.compression.exact import ExactUpdate, inverse_dct, unit_of
from templar_pl.compression.grid import ChunkGrid
from templar_pl.compression.sparse import EMPTY_CODE, SparseChunks
from templar_pl.compression.tables import eighth_mantissas, quarter_mantissas, scale_table
from templar_pl.config import MAX_PEERS

Equalise = Literal["norm", "clip", "none"]

CLIP_ORIGIN = 2048
"""What is added to a log scale, so that it is never negative: bases start at -2048."""

LEVEL_ORIGIN = 128
"""What is added to a log scale where values lie below the scale of their chunk: by 127 at most."""

_FAR_BELOW = -(2**20)  # log scale of a chunk that sends nothing; real ones are in -2174..2302


@dataclass(frozen=True, slots=True)
class SharedScales:
    """Integer magnitudes of what payloads send, all of a chunk on one log scale."""

    integers: Tensor
    """(P, N, L) fp32 integers in 0..2**15."""

    eighths: Tensor
    """(N,) int32; a magnitude is integers * 2**(eighths / 8)."""


@dataclass(frozen=True, slots=True)
class LogScales:
    """Log scales of what payloads send of one parameter: one a chunk, or one a value.

    The largest log scale of a payload in a chunk is that of the chunk: one value at least has it, and fillers do.
    """

    codes: Tensor
    """(P, N, L) int64; code of the chunk, less what the value lies below it."""

    bases: Tensor
    """(P,) int64 offsets of the codes."""

    numbers: Tensor
    """(P, N, L) int64; values that have this log scale; 0 for fillers and where a chunk sends nothing."""

    is_sent: Tensor
    """(P, N, 1) bool; whether a payload sends anything in a chunk."""

    origin: int
    """What makes all codes positive: LEVEL_ORIGIN, or 0 where values have one bit."""


def log_scales(payloads: Sequence[SparseChunks], device: torch.device) -> LogScales:
    """Collect the log scales of what payloads, at least one, send of a parameter."""
    codes = torch.stack([sparse.codes for sparse in payloads]).to(device, torch.int64)[..., None]  # (P, N, 1)
    counts = torch.stack([sparse.counts for sparse in payloads]).to(device, torch.int64)[..., None]
    bases = torch.tensor([sparse.base for sparse in payloads], device=device)
    levels = [sparse.below for sparse in payloads if sparse.below is not None]
    if not levels:
        return LogScales(codes, bases, counts, codes != EMPTY_CODE, 0)
    below = torch.stack(levels).to(device, torch.int64)  # (P, N, T)
    is_used = torch.arange(below.shape[-1], device=device) < counts
    return LogScales(codes - below, bases, is_used.long(), codes != EMPTY_CODE, LEVEL_ORIGIN)


def plain_scales(scales: LogScales) -> SharedScales:
    """Bring the payloads' scales as they are onto one integer scale per chunk."""
    absolute = torch.where(scales.is_sent, scales.codes + scales.bases[:, None, None], _FAR_BELOW)  # (P, N, L)
    loudest = absolute.amax((0, 2))  # (N,)
    table = torch.tensor(scale_table(), dtype=torch.float32, device=absolute.device)
    integers = table[(loudest[:, None] - absolute).clamp(max=len(table) - 1)] * scales.is_sent
    return SharedScales(integers, torch.where(scales.is_sent.any(0)[:, 0], loudest - 8 * 15, 0).to(torch.int32))


def equalised_scales(scales: LogScales) -> SharedScales:
    """Bring the payloads' scales onto one integer scale per chunk, each payload divided by its L2 norm.

    The bases of the codes cancel in that division.
    """
    codes = scales.codes + scales.origin
    weights = [inverse_norm(square) for square in _squares(codes, scales.numbers)]
    # The weight is 2**-15 / norm.
    return _weighted_scales(codes, scales.is_sent, weights, unit_eighths=8 * 15)


def clipped_scales(scales: LogScales) -> SharedScales:
    """Bring the payloads' scales onto one integer scale per chunk, those louder than the median made as loud as it."""
    codes, bases = scales.codes + scales.origin, scales.bases[:, None, None]
    weights = clip_weights(_squares(codes + bases % 4, scales.numbers), scales.bases.tolist())
    absolute = codes + bases + CLIP_ORIGIN
    return _weighted_scales(absolute, scales.is_sent, weights, unit_eighths=-scales.origin - CLIP_ORIGIN)


def _weighted_scales(
    scales: Tensor, is_sent: Tensor, weights: Sequence[tuple[int, int]], *, unit_eighths: int
) -> SharedScales:
    """Multiply log scales by a weight per payload, and bring them onto one integer scale per chunk.

    A scale 2**(e / 8) times a weight m * 2**-x is m * M8[e % 8] * 2**(e // 8 - x - 14), rounded to a multiple of 2**g
    with g the largest e // 8 - x of the chunk.

    Args:
        scales: (P, N, L) int64 log scales e, not negative where something is sent.
        is_sent: (P, N, 1) bool; whether a payload sends anything in a chunk.
        weights: m below 2**14 and x of each payload.
        unit_eighths: log scale of what is 1 in these units.
    """
    mantissas, exponents = (torch.tensor(w, device=scales.device)[:, None, None] for w in zip(*weights, strict=True))
    octaves = torch.where(is_sent, scales // 8 - exponents, _FAR_BELOW)  # (P, N, L)
    largest = octaves.amax((0, 2))  # (N,)
    # Below 2**14 * 2**14.88, so a quotient by 2**14 or more is below 2**15.
    products = mantissas * torch.tensor(eighth_mantissas(), device=scales.device)[scales % 8]
    shifts = (14 + largest[:, None] - octaves).clamp(max=40)  # 2**29 shifted by 40 is 0
    integers = (_shift_to_nearest(products, shifts) * is_sent).to(torch.float32)
    is_any = is_sent.any(0)[:, 0]
    return SharedScales(integers, torch.where(is_any, 8 * largest + unit_eighths, 0).to(torch.int32))


def _squares(scales: Tensor, numbers: Tensor) -> list[int]:
    """Return of each payload the sum of 2**(e / 4) over its values, times 2**30, in integers.

    Args:
        scales: (P, N, L) log scales e, 0..511.
        numbers: (P, N, L) values with each.
    """
    mantissas, squares = quarter_mantissas(), []
    for row, weights in zip(scales, numbers, strict=True):
        histogram = torch.zeros(512, dtype=torch.int64, device=scales.device)
        histogram.index_add_(0, row.flatten(), weights.flatten())
        squares.append(sum(n * (mantissas[e % 4] << (e // 4)) for e, n in enumerate(histogram.tolist())))
    return squares


def inverse_norm(square: int) -> tuple[int, int]:
    """Return m in 2**13..2**14 - 1 and x, with m * 2**-x just below 2**-15 / (L2 norm of one payload, base 0).

    Args:
        square: the norm's square times 2**30; for 0 both are 0.
    """
    if square == 0:
        return 0, 0
    inverse = (1 << 300) // math.isqrt(square << 128)  # 2**236 / sqrt(square)
    surplus = inverse.bit_length() - 14
    return inverse >> surplus, 236 - surplus


def clip_weights(squares: Sequence[int], bases: Sequence[int]) -> list[tuple[int, int]]:
    """Return m and x of each payload of one parameter, such that m * 2**-x times its norm is at most the median norm.

    m * 2**-x is 1 for payloads at or below the median, and never more. m is in 2**13..2**14 - 1. The median is the
    lower one of the payloads that send anything; those that do not have m = x = 0.

    Args:
        squares: of each payload, the sum of the squares of what it sends, times 2**30, in the integers M4, at the log
            scales code + base % 4 instead of code + base; or all of them times the same number.
        bases: of each payload; -CLIP_ORIGIN or more.
    """
    norms = [square << ((base + CLIP_ORIGIN) // 4) for square, base in zip(squares, bases, strict=True)]
    sending = sorted(norm for norm in norms if norm)
    if not sending:
        return [(0, 0)] * len(norms)
    median = sending[(len(sending) - 1) // 2]
    return [_clip_weight(median, norm) if norm else (0, 0) for norm in norms]


def _clip_weight(median: int, norm: int) -> tuple[int, int]:
    """Return m and x of one payload, with m * 2**-x just below sqrt(median / norm), or 1 if that is more."""
    if norm <= median:
        return 1 << 13, 13
    # The root has far more than 14 bits: log scales differ by less than 4400, so squares by 2**1100 times the elements.
    root = math.isqrt((median << 2400) // norm)
    surplus = root.bit_length() - 14
    return root >> surplus, 1200 - surplus


def _shift_to_nearest(integers: Tensor, shifts: Tensor) -> Tensor:
    """Divide int64 integers, not negative, by 2**shifts (1..40); halves go to the even integer."""
    quotients = integers >> shifts
    remainders = integers - (quotients << shifts)
    halves = torch.ones_like(shifts) << (shifts - 1)
    is_up = (remainders > halves) | ((remainders == halves) & (quotients % 2 == 1))
    return quotients + is_up


def shared_scales(payloads: Sequence[SparseChunks], *, equalise: Equalise, device: torch.device) -> SharedScales:
    """Bring the scales of payloads, at least one, onto one integer scale per chunk; see `combine`."""
    scales = log_scales(payloads, device)
    return {"norm": equalised_scales, "clip": clipped_scales, "none": plain_scales}[equalise](scales)


def add_payloads(payloads: Sequence[SparseChunks], scales: SharedScales, grid: ChunkGrid, rule: str) -> Tensor:
    """Add what the payloads send, coefficient by coefficient.

    Args:
        payloads: P of them, at most MAX_PEERS.
        scales: of these payloads.
        grid: how the parameter is cut.
        rule: `sum`, or `mean` over the payloads that sent a coefficient, halves to the even integer.

    Returns:
        (N, K) fp32 integers, at most 2**24 in magnitude.
    """
    device = scales.integers.device
    sums = torch.zeros(grid.num_chunks, grid.chunk_numel, device=device)
    senders = torch.zeros_like(sums) if rule == "mean" else None
    indices, negative, counts = (
        torch.stack([getattr(sparse, part) for sparse in payloads], dim=1).to(device)
        for part in ("indices", "negative", "counts")
    )  # (N, P, T), (N, P, T), (N, P)
    places = indices.long().flatten(1)  # (N, P * T)
    slots = (torch.arange(grid.topk, device=device) < counts[..., None]).to(torch.float32)  # (N, P, T)
    magnitudes = scales.integers.transpose(0, 1)  # (N, P, L)
    sums.scatter_add_(-1, places, torch.where(negative, -magnitudes, magnitudes).mul_(slots).flatten(1))
    if senders is not None:
        senders.scatter_add_(-1, places, slots.flatten(1))
    if senders is not None:
        # One rounding in the division and one to the integer make the rounding of the exact quotient: a quotient
        # that is no half-integer is at least 1 / (2 * senders) away from one, and at most 2**15 large, where
        # fp32 errs by at most 2**-10; for 512 senders the division is exact.
        sums.div_(senders.clamp_(min=1)).round_()
    return sums


def combine(
    payloads: Sequence[SparseChunks],
    grid: ChunkGrid,
    *,
    rule: Literal["mean", "sum"],
    equalise: Equalise,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> ExactUpdate:
    """Compute what payloads add up to in one parameter, the same bits in any order and on any device.

    Args:
        payloads: what each peer sent for this parameter; 0..MAX_PEERS of them, on any device.
        grid: how the parameter is cut.
        rule: `mean` over the payloads that sent a coefficient, or `sum`.
        equalise: `norm` divides each payload by its L2 norm in this parameter first; `clip` brings those that are
            louder than the median payload down to it; `none` takes them as they are.
        device: where to compute.
        dtype: float32 or float64, of the matrix products; the result is the same.

    Raises:
        ValueError: there are more payloads than MAX_PEERS.
    """
    if len(payloads) > MAX_PEERS:
        raise ValueError(f"an update is made of 0..{MAX_PEERS} payloads, got {len(payloads)}")
    if payloads:
        scales = shared_scales(payloads, equalise=equalise, device=device)
        coefficients, eighths = add_payloads(payloads, scales, grid, rule), scales.eighths
    else:
        coefficients = torch.zeros(grid.num_chunks, grid.chunk_numel, device=device)
        eighths = torch.zeros(grid.num_chunks, dtype=torch.int32, device=device)
    integers, shifts = inverse_dct(coefficients, grid, dtype=dtype)
    return ExactUpdate(integers, eighths + 8 * shifts, unit_of(grid))
