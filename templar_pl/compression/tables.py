"""Integer tables of the exact update. They are part of the protocol: docs/design.md, section 5."""

from __future__ import annotations

import functools
import hashlib
import math
import struct

import torch
from torch import Tensor

from templar_pl.config import MAX_CHUNK_SIZE
from templar_pl.errors import ConfigError

BASIS_ONE = 256
"""Integer that stands for 1 in the bases: with 1023 and chunks of 64 it is the largest whose products fit in fp32."""

BASES_SHA256 = "fd3cc05aa4f0837858ca33dc200627cea8375bb126c44df2873b380d96e95097"
"""SHA-256 of the bases for the sizes 1..64, one after the other, as little-endian int16, row by row."""


def _rounded_power(exponent: int, halvings: int) -> int:
    """Return 2**(exponent / 2**halvings), above 1/2, rounded to the nearest integer, without floating point.

    With r the power, floor((floor(2 r) + 1) / 2) is floor(r + 1/2). Above 1/2, r is an integer or irrational: no ties.
    """
    doubled = 1 << (exponent + (1 << halvings))
    for _ in range(halvings):
        doubled = math.isqrt(doubled)
    return (doubled + 1) // 2


@functools.cache
def scale_table() -> tuple[int, ...]:
    """Return T[d] = round(2**15 * 2**(-d / 8)) for d = 0..127, then one 0 for all larger d."""
    return (*(_rounded_power(8 * 15 - d, 3) for d in range(128)), 0)


@functools.cache
def eighth_mantissas() -> tuple[int, ...]:
    """Return M8[r] = round(2**14 * 2**(r / 8)) for r = 0..7."""
    return tuple(_rounded_power(8 * 14 + r, 3) for r in range(8))


@functools.cache
def quarter_mantissas() -> tuple[int, ...]:
    """Return M4[r] = round(2**30 * 2**(r / 4)) for r = 0..3."""
    return tuple(_rounded_power(4 * 30 + r, 2) for r in range(4))


def _integer_basis(size: int) -> list[int]:
    """Return B[k][x] = round(256 cos(pi (2x + 1) k / (2 size))), row by row; row 0 is scaled by sqrt(1/2)."""
    # 256 cos is never a half-integer at these angles (Niven's theorem), so the rounding does not hang on the last bit.
    first = [round(BASIS_ONE * math.sqrt(0.5))] * size
    angles = (math.pi * (2 * x + 1) * k / (2 * size) for k in range(1, size) for x in range(size))
    return first + [round(BASIS_ONE * math.cos(angle)) for angle in angles]


@functools.cache
def integer_bases() -> tuple[tuple[int, ...], ...]:
    """Return the bases of the sizes 1..64, each row by row (row = frequency, column = place).

    Raises:
        ConfigError: the cosine of this platform is so far off that the tables would differ from everybody else's.
    """
    bases = tuple(tuple(_integer_basis(size)) for size in range(1, MAX_CHUNK_SIZE + 1))
    digest = hashlib.sha256(b"".join(struct.pack(f"<{len(basis)}h", *basis) for basis in bases)).hexdigest()
    if digest != BASES_SHA256:
        raise ConfigError(
            f"the DCT tables computed on this machine have the SHA-256 {digest}, all other nodes use {BASES_SHA256}: "
            "math.cos is wrong here; use another build of Python"
        )
    return bases


@functools.cache
def integer_basis(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the basis of one size, 1..64, as (size, size) integers in a float dtype. Do not change it."""
    return torch.tensor(integer_bases()[size - 1], dtype=dtype, device=device).view(size, size)
