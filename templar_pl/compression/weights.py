"""What payloads are multiplied by before they meet, in integers.

Shapes: P = payloads, Q = parameters with chunks of one form, T = coefficients sent per chunk at most, N = chunks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from templar_pl.compression.sparse import JoinedChunks
from templar_pl.compression.tables import quarter_mantissas
from templar_pl.compression.topk import used_slots

Equalise = Literal["norm", "clip", "none"]

CLIP_ORIGIN = 2048
"""What is added to a log scale, so that it is never negative: bases start at -2048."""

LEVEL_ORIGIN = 128
"""What is added to a log scale where values lie below the scale of their chunk: by 127 at most."""

_SCALED_AT_ONCE = 2**17
"""Log scales that are counted together, at some 24 bytes each. For few of them starting an operation costs the most."""

_SCALES = 260 + LEVEL_ORIGIN  # of a histogram: 256 codes, up to 3 more, the origin; a multiple of 4


@dataclass(frozen=True, slots=True)
class Weights:
    """What P payloads are multiplied by in Q parameters before they meet."""

    bases: Tensor
    """(P, Q) int32; added to the codes."""

    factors: Tensor | None
    """(2, P, Q) int32 m and x of factors m * 2**-x, m below 2**14; None for 1."""

    unit_eighths: int
    """Log scale of what is 1 in the units of the products."""


def weigh(payloads: Sequence[JoinedChunks], *, equalise: Equalise, device: torch.device) -> Weights:
    """Say what payloads are multiplied by.

    Args:
        payloads: what P payloads, at least one, say of Q parameters, at least one.
        equalise: see `combine`. The bases of the codes cancel where payloads are divided by their norms.
        device: where to compute.
    """
    bases = [payload.bases for payload in payloads]
    table = torch.tensor(bases, dtype=torch.int32, device=device)
    if equalise == "none":
        return Weights(table, None, 0)
    origin = 0 if payloads[0].below is None else LEVEL_ORIGIN
    origins = origin + (table % 4 if equalise == "clip" else torch.zeros_like(table))
    squares = _squares(payloads, origins)
    if equalise == "norm":
        factors = [[inverse_norm(square) for square in row] for row in squares]
        # The factor is 2**-15 / norm.
        return Weights(origins, _factor_table(factors, device), 8 * 15)
    by_parameter = zip(zip(*squares, strict=True), zip(*bases, strict=True), strict=True)
    columns = [clip_weights(of_squares, of_bases) for of_squares, of_bases in by_parameter]
    rows = list(zip(*columns, strict=True))
    return Weights(table + origin + CLIP_ORIGIN, _factor_table(rows, device), -origin - CLIP_ORIGIN)


def _factor_table(factors: Sequence[Sequence[tuple[int, int]]], device: torch.device) -> Tensor:
    """Return (2, P, Q) int32."""
    return torch.tensor(factors, dtype=torch.int32, device=device).permute(2, 0, 1)


def _squares(payloads: Sequence[JoinedChunks], origins: Tensor) -> list[list[int]]:
    """Return of each payload and parameter the sum of 2**(e / 4) over its values, times 2**30, in integers.

    Args:
        payloads: what P payloads say of Q parameters.
        origins: (P, Q) int32; a log scale e is the code, less what the value lies below it, and this.
    """
    at_once = max(1, _SCALED_AT_ONCE // max(1, _scaled_values(payloads[0])))
    groups = (slice(first, first + at_once) for first in range(0, len(payloads), at_once))
    histograms = torch.cat([_histograms(payloads[group], origins[group]) for group in groups])
    quarters = torch.tensor(quarter_mantissas(), device=origins.device)
    # Scales 4 j .. 4 j + 3 share the shift j; the sums stay below 2**31 * (values of a parameter).
    sums = (histograms.unflatten(-1, (-1, 4)) * quarters).sum(-1).cpu().numpy()  # the one transfer
    shifts = np.flatnonzero(sums.any((0, 1)))  # a few: scales of one parameter lie within some octaves
    rows = sums[:, :, shifts].tolist()
    return [[sum(n << j for n, j in zip(row, shifts.tolist(), strict=True)) for row in of] for of in rows]


def _scaled_values(said: JoinedChunks) -> int:
    """Return how many values of one payload have a log scale of their own."""
    return said.codes.numel() if said.below is None else said.below.numel()


def _histograms(payloads: Sequence[JoinedChunks], origins: Tensor) -> Tensor:
    """Return how many values payloads send at each log scale in each of Q parameters, (P, Q, _SCALES) int64."""
    device, lengths = origins.device, payloads[0].lengths
    owners = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)).to(device)  # (N,)
    firsts = torch.arange(0, origins.numel() * _SCALES, _SCALES, device=device).view_as(origins) + origins
    places = firsts[:, owners].add_(torch.stack([said.codes for said in payloads]).to(device))  # (P, N)
    counts = torch.stack([said.counts for said in payloads]).to(device)
    below = [said.below for said in payloads if said.below is not None]
    if below:
        weights = used_slots(counts.flatten(), below[0].shape[-1]).long()  # (P * N, T)
        places = places[..., None] - torch.stack(below).to(device)
    else:
        weights = counts.long()
    histograms = torch.zeros(origins.numel() * _SCALES, dtype=torch.int64, device=device)
    return histograms.index_add_(0, places.flatten(), weights.flatten()).view(*origins.shape, _SCALES)


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
