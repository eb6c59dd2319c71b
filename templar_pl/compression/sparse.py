"""What a payload says about one parameter, as tensors.

Shapes: N = chunks of the parameter, T = coefficients sent per chunk at most.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

EMPTY_CODE = 0
"""Scale code of a chunk that sends nothing; the other codes, 1..255, are eighths of an octave."""

MAX_CODE = 255
"""Scale code of the loudest chunk of every parameter that sends anything."""


@dataclass(frozen=True, slots=True)
class SparseChunks:
    """Signs at a few places of every chunk, and one magnitude a chunk.

    Every value sent in chunk n is +-2**((base + codes[n]) / 8). A chunk sends counts[n] coefficients; the slots
    from counts[n] on are fillers: they repeat the last index and are not negative. A chunk with code
    EMPTY_CODE sends nothing: count 0 and all slots index 0, not negative.
    """

    indices: Tensor
    """(N, T) int16; places inside the chunk (row * width + column), strictly ascending up to the count."""

    negative: Tensor
    """(N, T) bool; whether the value is below zero."""

    counts: Tensor
    """(N,) int16; 0..T coefficients really sent."""

    codes: Tensor
    """(N,) uint8; log scale of the chunk."""

    base: int
    """Offset of the codes in eighths of an octave, -2048..2047; 0 if no chunk sends anything. The largest code of a
    parameter that sends anything is MAX_CODE, so that one meaning has one base."""
