"""One bit a value and one 8-bit log scale a chunk.

The magnitude that a chunk sends for all of its values is their mean magnitude: of all single numbers s it has the
least squared error, sum over i of (|v_i| - s)**2. It is rounded to the nearest eighth of an octave.

Shapes: N = chunks of one parameter, T = coefficients sent per chunk at most.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from templar_pl.compression.sparse import EMPTY_CODE, MAX_CODE, SparseChunks
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
    """Return the nearest log scales, (N,) int64 in LOWEST..HIGHEST, of (N,) float64 magnitudes above zero.

    Exact comparisons with the borders between scales: log2 of different devices differs in the last bit.
    """
    mantissas, exponents = torch.frexp(magnitudes)  # mantissas in 0.5..1
    borders = torch.tensor(octave_borders(), dtype=torch.float64, device=magnitudes.device) / 2
    steps = torch.bucketize(mantissas, borders)
    return (8 * (exponents.long() - 1) + steps).clamp(LOWEST, HIGHEST)


def quantise(values: Tensor, kept: Kept) -> SparseChunks:
    """Say with signs and one scale a chunk what is sent of the kept coefficients.

    A chunk sends nothing if it keeps nothing, or if its magnitude is more than 254 eighths of an octave (a factor
    of 3.6e9) below that of the loudest chunk.

    Args:
        values: (N, T) fp32 coefficients at `kept.indices`; finite; what fillers hold does not matter.
        kept: places of the coefficients.
    """
    slots = used_slots(kept.counts, values.shape[-1])  # (N, T)
    # float64: the sum of up to 4096 large fp32 numbers may exceed fp32.
    means = (values.double().abs() * slots).sum(-1) / kept.counts.clamp(min=1)
    is_sent = kept.counts > 0
    scales = _log_scales(torch.where(is_sent, means, 1.0))
    loudest = int(torch.where(is_sent, scales, LOWEST - 1).max()) if len(scales) else LOWEST - 1
    base = loudest - MAX_CODE if loudest >= LOWEST else 0
    is_sent &= scales - base > EMPTY_CODE
    return SparseChunks(
        indices=kept.indices * is_sent[:, None],
        negative=(values < 0) & slots & is_sent[:, None],
        counts=kept.counts * is_sent,
        codes=torch.where(is_sent, scales - base, EMPTY_CODE).to(torch.uint8),
        base=base,
    )


def dequantise(sparse: SparseChunks) -> Tensor:
    """Return the values that a payload says, (N, T) fp32, finite, the same bits on every device; fillers are zero.

    Magnitudes beyond fp32, which only a foreign payload can name, become the nearest finite number or zero.
    """
    scales = (sparse.codes.long() + sparse.base).clamp(NOTHING, HIGHEST)
    magnitudes = magnitude_table(scales.device)[scales - NOTHING][:, None]  # (N, 1)
    values = torch.where(sparse.negative, -magnitudes, magnitudes)
    return torch.where(used_slots(sparse.counts, values.shape[-1]), values, 0.0)
