"""What a payload says about one parameter, as tensors.

Shapes: N = chunks of the parameter, T = coefficients sent per chunk at most, P = payloads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

EMPTY_CODE = 0
"""Scale code of a chunk that sends nothing; the other codes, 1..255, are eighths of an octave."""

LEVEL_STEPS = {2: 4, 3: 2, 8: 1}
"""Bits a value -> eighths of an octave between two of its 2**(bits - 1) levels of magnitude.

Measured with error feedback on gradients of a small model: steps of 3..5 at 2 bits and 2..3 at 3 bits are about equal.
"""

MAX_CODE = 255
"""Scale code of the loudest chunk of every parameter that sends anything."""


@dataclass(frozen=True, slots=True)
class SparseChunks:
    """Signs at a few places of every chunk, and one magnitude a chunk, or one of a few levels a value.

    Every value sent in chunk n is +-2**((base + codes[n] - below) / 8). A chunk sends counts[n] coefficients; the slots
    from counts[n] on are fillers: they repeat the last index, are not negative and have `below` 0. A chunk with code
    EMPTY_CODE sends nothing: count 0 and all slots index 0, not negative, `below` 0.
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

    below: Tensor | None = None
    """(N, T) uint8; how far each value lies below the scale of its chunk, in eighths of an octave; multiples of the
    step of `LEVEL_STEPS`. Some value of a chunk that sends anything lies at 0, so that one meaning has one code. None
    where a value has one bit: all lie at 0."""

    def says_what(self, other: SparseChunks) -> bool:
        """Whether this says what another one of the same parameter says, on whatever device they are."""
        if self.base != other.base or (self.below is None) != (other.below is None):
            return False
        parts = [(getattr(self, name), getattr(other, name)) for name in ("indices", "negative", "counts", "codes")]
        if self.below is not None and other.below is not None:
            parts.append((self.below, other.below))
        return all(torch.equal(mine, its.to(mine.device)) for mine, its in parts)


@dataclass(frozen=True, slots=True)
class JoinedChunks:
    """What one peer says of several parameters with chunks of one form, one behind the other; see `SparseChunks`."""

    indices: Tensor
    """(N, T) int16."""

    negative: Tensor
    """(N, T) bool."""

    counts: Tensor
    """(N,) int16."""

    codes: Tensor
    """(N,) uint8."""

    below: Tensor | None
    """(N, T) uint8; None where values have one bit."""

    bases: tuple[int, ...]
    """Of each parameter."""

    lengths: tuple[int, ...]
    """Chunks of each parameter; N in all."""

    def parameter(self, number: int) -> SparseChunks:
        """Return what is said of one parameter; nothing is copied."""
        start = sum(self.lengths[:number])
        chunks = slice(start, start + self.lengths[number])
        below = None if self.below is None else self.below[chunks]
        return SparseChunks(
            self.indices[chunks],
            self.negative[chunks],
            self.counts[chunks],
            self.codes[chunks],
            self.bases[number],
            below,
        )


def join(parts: Sequence[SparseChunks]) -> JoinedChunks:
    """Put what is said of parameters, at least one, with chunks of one form, one behind the other."""
    return concatenate(
        [
            JoinedChunks(
                part.indices, part.negative, part.counts, part.codes, part.below, (part.base,), (len(part.codes),)
            )
            for part in parts
        ]
    )


def concatenate(parts: Sequence[JoinedChunks]) -> JoinedChunks:
    """Put what is said of several groups of parameters, at least one, one behind the other."""
    if len(parts) == 1:
        return parts[0]
    below = [part.below for part in parts if part.below is not None]
    return JoinedChunks(
        indices=torch.cat([part.indices for part in parts]),
        negative=torch.cat([part.negative for part in parts]),
        counts=torch.cat([part.counts for part in parts]),
        codes=torch.cat([part.codes for part in parts]),
        below=torch.cat(below) if below else None,
        bases=tuple(base for part in parts for base in part.bases),
        lengths=tuple(length for part in parts for length in part.lengths),
    )


@dataclass(frozen=True, slots=True)
class StackedChunks:
    """What P payloads say of the same N chunks, chunk by chunk, as `SparseChunks` does, without the bases."""

    indices: Tensor
    """(N, P, T) int16."""

    negative: Tensor
    """(N, P, T) bool."""

    counts: Tensor
    """(N, P) int16."""

    codes: Tensor
    """(N, P) uint8."""

    below: Tensor | None
    """(N, P, T) uint8; None where values have one bit."""


def stack(payloads: Sequence[JoinedChunks], chunks: slice, device: torch.device) -> StackedChunks:
    """Put what payloads say of some chunks, which are the same in all of them, onto a device."""

    def stacked(tensors: Sequence[Tensor]) -> Tensor:
        return torch.stack([tensor[chunks] for tensor in tensors], dim=1).to(device)

    below = [payload.below for payload in payloads if payload.below is not None]
    return StackedChunks(
        indices=stacked([payload.indices for payload in payloads]),
        negative=stacked([payload.negative for payload in payloads]),
        counts=stacked([payload.counts for payload in payloads]),
        codes=stacked([payload.codes for payload in payloads]),
        below=stacked(below) if below else None,
    )
