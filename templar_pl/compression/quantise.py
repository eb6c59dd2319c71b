"""One 8-bit log scale a chunk, and one bit a value, or a few: the first is the sign, the others a level of magnitude.

With one bit, the magnitude that a chunk sends for all of its values is their mean magnitude: of all single numbers s
it has the least squared error, sum over i of (|v_i| - s)**2. It is rounded to the nearest eighth of an octave.

With 2 and 3 bits the scale is that eighth of an octave whose levels have the least squared error. With 8 bits it is
that of the loudest value, and each value has its own nearest eighth. Values below the lowest level (at 8 bits 127
eighths below the scale) are sent at the lowest level. What is said wrongly stays in the momentum.

Shapes: N = chunks of one parameter, T = coefficients sent per chunk at most, L = levels of magnitude.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from templar_pl.compression.grid import ValueBits
from templar_pl.compression.sparse import EMPTY_CODE, LEVEL_STEPS, MAX_CODE, JoinedChunks, SparseChunks
from templar_pl.compression.topk import Kept, used_slots

LOWEST = -149 * 8
"""Log scale, in eighths of an octave, of the smallest magnitude that can be sent: 2**-149, the least fp32 number."""

HIGHEST = 128 * 8 - 1
"""Log scale of the largest magnitude that can be sent; one more would be 2**128, which fp32 does not hold."""

NOTHING = LOWEST - 8
"""Log scale of the least entry of `magnitude_table`: 2**-150 rounds to zero in fp32."""


@functools.cache
def magnitude_table(device: torch.device) -> Tensor:
    """Return (HIGHEST - NOTHING + 1,) fp32: 2**(eighths / 8) for every log scale. Do not change it.

    A table, because exp2 and ldexp of different devices differ in the last bit and in the subnormals.
    """
    eighths = range(NOTHING, HIGHEST + 1)
    # The mantissas are rounded to fp32 first, so that all octaves share the same eight.
    mantissas = torch.tensor([2.0 ** (r / 8) for r in range(8)], dtype=torch.float32).tolist()
    exact = [math.ldexp(mantissas[e % 8], e // 8) for e in eighths]
    return torch.tensor(exact, dtype=torch.float64).to(torch.float32).to(device)


def octave_borders() -> list[float]:
    """Return the borders between the eight scales of the octave 1..2 and the next octave, ascending."""
    return [2.0 ** ((r + 0.5) / 8) for r in range(8)]


def _log_scales(magnitudes: Tensor) -> Tensor:
    """Return the nearest log scales, int64 in LOWEST..HIGHEST, of float64 magnitudes above zero, in their shape.

    Exact comparisons with the borders between scales: log2 of different devices differs in the last bit.
    """
    mantissas, exponents = torch.frexp(magnitudes)  # mantissas in 0.5..1
    borders = torch.tensor(octave_borders(), dtype=torch.float64, device=magnitudes.device) / 2
    steps = torch.bucketize(mantissas, borders)
    return (8 * (exponents.long() - 1) + steps).clamp(LOWEST, HIGHEST)


def _magnitudes(scales: Tensor) -> Tensor:
    """Return what log scales are worth, fp32; beyond fp32 the nearest finite number or zero."""
    return magnitude_table(scales.device)[scales.clamp(NOTHING, HIGHEST) - NOTHING]


@dataclass(frozen=True, slots=True)
class Scaled:
    """A sign a value and a log scale a chunk, and how far each value lies below it."""

    negative: Tensor
    """(N, T) bool; false for fillers."""

    scales: Tensor
    """(N,) int64 eighths of an octave, LOWEST..HIGHEST."""

    below: Tensor | None
    """(N, T) uint8; 0 for at least one value of every chunk that has any; None: 0 for all."""


def _scale_mean(magnitudes: Tensor, counts: Tensor) -> Tensor:
    """Return the log scales, (N,), of the mean of magnitudes, (N, T), which are zero for fillers."""
    # float64: the sum of up to 4096 large fp32 numbers may exceed fp32.
    means = magnitudes.sum(-1, dtype=torch.float64) / counts.clamp(min=1)
    return _log_scales(torch.where(counts > 0, means, 1.0))


def _scale_each(magnitudes: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    """Return scales and `below` by the nearest eighth of an octave to each value, at most 127 below the loudest one."""
    each = _log_scales(torch.where(slots, magnitudes, 1.0))  # (N, T)
    scales = torch.where(slots, each, LOWEST).amax(-1)
    below = (scales[:, None] - each).clamp(max=127) * slots
    return scales, below.to(torch.uint8)


def _scale_levels(magnitudes: Tensor, counts: Tensor, value_bits: ValueBits) -> tuple[Tensor, Tensor]:
    """Return the scales whose levels have the least squared error, the lower one of two; each value has its nearest.

    Magnitudes, (N, T), are zero for fillers.

    For given levels the best scale is at least the mean: sum(r v) / sum(r r) with r in 0..1 and larger where v is.
    So the search starts at the eighth below the mean. It ends where no value would be nearest to the upper level, some
    hundred steps above at most: the loudest of T <= 4096 values is at most T times the mean.
    """
    step, levels = LEVEL_STEPS[value_bits], 2 ** (value_bits - 1)
    slots = used_slots(counts, magnitudes.shape[-1])  # (N, T)
    lowest = (_scale_mean(magnitudes, counts) - 1).clamp(min=LOWEST)
    nearest = _scale_each(magnitudes, slots)[0]  # (N,)
    highest = (nearest + step // 2).clamp(max=HIGHEST)
    best, least = nearest, magnitudes.new_full(nearest.shape, math.inf)
    for offset in range(int((highest - lowest).amax()) + 1 if len(highest) else 0):
        scales = torch.minimum(lowest + offset, highest)
        below = _nearest_levels(magnitudes, scales, step, levels)
        errors = ((magnitudes - _magnitudes(scales[:, None] - below)) * slots).square_().sum(-1)
        errors = torch.where(((below == 0) & slots).any(-1), errors, math.inf)
        best, least = torch.where(errors < least, scales, best), torch.minimum(errors, least)
    return best, (_nearest_levels(magnitudes, best, step, levels) * slots).to(torch.uint8)


def _nearest_levels(magnitudes: Tensor, scales: Tensor, step: int, levels: int) -> Tensor:
    """Return (N, T) int64: how far below (N,) scales the level nearest to each magnitude is; of two the louder."""
    below = torch.zeros_like(magnitudes, dtype=torch.int64)
    for level in range(1, levels):
        upper, lower = (_magnitudes(scales - step * (level - over)).double() for over in (1, 0))
        below += step * (magnitudes < ((upper + lower) / 2)[:, None])
    return below


def scale(values: Tensor, kept: Kept, *, value_bits: ValueBits) -> Scaled:
    """Choose the scale of each chunk, and the levels of its values.

    Args:
        values: (N, T) fp32 coefficients at `kept.indices`; finite; what fillers hold does not matter.
        kept: places of the coefficients.
        value_bits: bits a value.
    """
    values = _without_fillers(values, kept.counts)
    magnitudes, below = values.abs(), None
    if value_bits == 1:
        scales = _scale_mean(magnitudes, kept.counts)
    elif value_bits == 8:
        scales, below = _scale_each(magnitudes.double(), used_slots(kept.counts, values.shape[-1]))
    else:
        scales, below = _scale_levels(magnitudes.double(), kept.counts, value_bits)
    return Scaled(values < 0, scales, below)


def _without_fillers(values: Tensor, counts: Tensor) -> Tensor:
    """Return (N, T) values with zeros for fillers; as they are, if there are none, as nearly always."""
    if (counts == values.shape[-1]).all():
        return values
    return torch.where(used_slots(counts, values.shape[-1]), values, 0.0)


def code(kept: Kept, scaled: Scaled, lengths: Sequence[int]) -> tuple[JoinedChunks, Tensor]:
    """Say the scales of parameters with chunks of one form as codes above a base each.

    A chunk sends nothing if it keeps nothing, or if its scale is more than 254 eighths of an octave (a factor of
    3.6e9) below that of the loudest chunk of its parameter.

    Args:
        kept: places of the coefficients of all parameters, one behind the other.
        scaled: of the same chunks.
        lengths: chunks of each parameter.

    Returns:
        What is sent, and (N,) whether a chunk sends nothing though it keeps something.
    """
    scales, keeps = scaled.scales, kept.counts > 0
    numbers, sizes = (torch.tensor(part, device=scales.device) for part in (range(len(lengths)), lengths))
    owners = numbers.repeat_interleave(sizes, output_size=len(scales))  # (N,)
    silent = LOWEST - 1
    loudest = torch.full_like(numbers, silent).scatter_reduce_(0, owners, torch.where(keeps, scales, silent), "amax")
    bases = torch.where(loudest > silent, loudest - MAX_CODE, 0)
    codes = scales - bases[owners]
    is_sent = keeps & (codes > EMPTY_CODE)
    said = JoinedChunks(
        indices=kept.indices,
        negative=scaled.negative,
        counts=kept.counts,
        codes=torch.where(is_sent, codes, EMPTY_CODE).to(torch.uint8),
        below=scaled.below,
        bases=tuple(bases.tolist()),
        lengths=tuple(lengths),
    )
    return said if is_sent.all() else _silenced(said, is_sent), keeps & ~is_sent


def _silenced(said: JoinedChunks, is_sent: Tensor) -> JoinedChunks:
    """Return the same, but for nothing in chunks that (N,) `is_sent` excludes."""
    is_used = is_sent[:, None]
    return replace(
        said,
        indices=said.indices * is_used,
        negative=said.negative & is_used,
        counts=said.counts * is_sent,
        below=None if said.below is None else said.below * is_used,
    )


def quantise(values: Tensor, kept: Kept, *, value_bits: ValueBits = 1) -> SparseChunks:
    """Say with signs, levels and one scale a chunk what is sent of the kept coefficients of one parameter.

    See `scale` for the arguments, and `code` for what is not sent.
    """
    said, _ = code(kept, scale(values, kept, value_bits=value_bits), [len(values)])
    return said.parameter(0)


def scaled_values(kept: Kept, scaled: Scaled) -> Tensor:
    """Return the values that signs and scales say, (N, T) fp32, the same bits on every device; fillers are zero."""
    return _values(scaled.scales, scaled.below, scaled.negative, kept.counts)


def dequantise(sparse: SparseChunks) -> Tensor:
    """Return the values that a payload says, (N, T) fp32, finite, the same bits on every device; fillers are zero.

    Magnitudes beyond fp32, which only a foreign payload can name, become the nearest finite number or zero.
    """
    return _values(sparse.codes.long() + sparse.base, sparse.below, sparse.negative, sparse.counts)


def _values(scales: Tensor, below: Tensor | None, negative: Tensor, counts: Tensor) -> Tensor:
    """Return (N, T) fp32 values of log scales (N,) int64, those of chunks, less what each value lies below."""
    each = scales[:, None] if below is None else scales[:, None] - below
    magnitudes = _magnitudes(each)
    return _without_fillers(torch.where(negative, -magnitudes, magnitudes), counts)
